"""The expressions of rule sets: conditions and amounts over named fields, in the syntax of CEL.

A source is parsed into a tree of small frozen values, and checked against the fields that it may read: the types, and
what every node can give (for an integer, its interval). Refused is whatever could leave 64 bits or divide by zero
anywhere, even where `&&`, `||` or `? :` would not come to it. So nothing fails when an expression that passed is
evaluated, it makes no difference whether a side that is not needed is evaluated, and each executor of the tree gives
what every other gives.

    Expr     = Or ["?" Or ":" Expr]
    Or       = And {"||" And}
    And      = Relation {"&&" Relation}
    Relation = Sum {("<" | "<=" | ">=" | ">" | "==" | "!=") Sum | "in" "[" Constant {"," Constant} [","] "]"}
    Sum      = Product {("+" | "-") Product}
    Product  = Unary {("*" | "/" | "%") Unary}
    Unary    = {"!"} Primary | {"-"} Primary
    Primary  = INTEGER | TEXT | "true" | "false" | "(" Expr ")" | Name
             | ("abs" | "max" | "min") "(" Expr {"," Expr} ")"
             | "lines" "." ("all" | "count" | "exists" | "sum") "(" IDENT "," Expr ")"
    Name     = IDENT {"." IDENT}
    Constant = ["-"] INTEGER | TEXT

Of CEL it differs in that `/` and `%` round down, as Python's do (CEL cuts towards zero), and that much is left out.
docs/expressions.md is the page for those who write them.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, NamedTuple, NoReturn, cast

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
SOURCE_MAX: Final = 10_000
"""How many characters a source has at most."""
NESTING_MAX: Final = 32
"""How deep parentheses, calls and `? :` may nest: what CEL demands of an implementation, and no more."""
DEPTH_MAX: Final = 64
"""How many levels a tree has at most: far from where Python's recursion ends, for all that walks it."""
NODES_MAX: Final = 1_000
"""How many nodes a tree has at most; the constants of a list count."""

Row = Sequence[Any]
"""Values of fields by position, as a `Layout` has them."""
Compiled = Callable[[Row, Any], Any]
"""An expression as a function: of the row of all fields outside of lines, and of the lines' rows (or, of an expression
about one line, of that line's row)."""


# ── what fields and nodes can give ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers from `lo` to `hi`, both included."""

    lo: int = INT_MIN
    hi: int = INT_MAX

    def __post_init__(self) -> None:
        if not INT_MIN <= self.lo <= self.hi <= INT_MAX:
            raise ValueError(f"no interval of 64-bit integers: {self.lo} to {self.hi}")

    def __str__(self) -> str:
        return str(self.lo) if self.lo == self.hi else f"{self.lo} to {self.hi}"


@dataclass(frozen=True, slots=True)
class Codes:
    """Texts that are only compared: some `values`, or, with None, any."""

    values: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.values is not None and not 0 < len(set(self.values)) == len(self.values):
            raise ValueError(f"a list of codes has at least one, and none twice: {self.values}")

    def __str__(self) -> str:
        return "any text" if self.values is None else ", ".join(_quoted(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Booleans:
    """True, false, or either."""

    true: bool = True
    false: bool = True

    def __str__(self) -> str:
        return "true or false" if self.true and self.false else "true" if self.true else "false"


Possible = Integers | Codes | Booleans
"""What a field or a node can give: its type, and which values of it."""
_CALLED: dict[type, str] = {Integers: "an integer", Codes: "a text", Booleans: "a boolean"}


# ── the tree ──────────────────────────────────────────────────────────────────────────────────────────────────────

Comparison = Literal["==", "!=", "<", "<=", ">", ">="]
Operation = Literal["+", "-", "*", "/", "%"]
Function = Literal["abs", "max", "min"]
Macro = Literal["all", "count", "exists", "sum"]

ARGUMENTS: dict[str, int] = {"abs": 1, "max": 2, "min": 2}
MACROS: tuple[str, ...] = ("all", "count", "exists", "sum")
LINE, LINES = "line", "lines"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree. Its text is canonical, and reads back as an equal tree; where it stood doesn't count."""

    at: int = field(default=0, compare=False, repr=False, kw_only=True)
    """Index in the source: of the operator, of all others of the beginning."""

    def __str__(self) -> str:
        return _written(self, _CHOOSE)


@dataclass(frozen=True, slots=True)
class Number(Node):
    value: int


@dataclass(frozen=True, slots=True)
class Quoted(Node):
    value: str


@dataclass(frozen=True, slots=True)
class Flag(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Field(Node):
    """A field by its full name; `line.…` is one of the line that a macro, or the whole expression, is about."""

    name: str


@dataclass(frozen=True, slots=True)
class Not(Node):
    part: Node


@dataclass(frozen=True, slots=True)
class Negative(Node):
    part: Node


@dataclass(frozen=True, slots=True)
class And(Node):
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or(Node):
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Compare(Node):
    operator: Comparison
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class In(Node):
    part: Node
    options: tuple[Number | Quoted, ...]


@dataclass(frozen=True, slots=True)
class Arithmetic(Node):
    operator: Operation
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Choose(Node):
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: Function
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Each(Node):
    """A macro over the lines: whether `all` or one `exists` for which the body is true, how many (`count`), or the
    `sum` of the body."""

    macro: Macro
    body: Node


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below one."""
    match node:
        case Not(part) | Negative(part):
            return (part,)
        case And(parts) | Or(parts) | Call(_, parts):
            return parts
        case Compare(_, left, right) | Arithmetic(_, left, right):
            return left, right
        case In(part, options):
            return part, *options
        case Choose(condition, then, otherwise):
            return condition, then, otherwise
        case Each(_, body):
            return (body,)
        case _:
            return ()


# Levels of precedence, loosest first, and how tight each operator binds.
_CHOOSE, _OR, _AND, _RELATION, _SUM, _PRODUCT, _UNARY, _PRIMARY = range(8)
_LEVELS: dict[str, int] = {
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), _RELATION),
    **dict.fromkeys(("+", "-"), _SUM),
    **dict.fromkeys(("*", "/", "%"), _PRODUCT),
}


def _written(node: Node, least: int) -> str:
    """A node's canonical text, in parentheses if it binds looser than `least`."""
    level, text = _level_and_text(node)
    return text if level >= least else f"({text})"


def _level_and_text(node: Node) -> tuple[int, str]:
    match node:
        case Number(value):
            return _PRIMARY if value >= 0 else _UNARY, str(value)
        case Quoted(value):
            return _PRIMARY, _quoted(value)
        case Flag(value):
            return _PRIMARY, "true" if value else "false"
        case Field(name):
            return _PRIMARY, name
        case Not(part):
            return _UNARY, "!" + _written(part, _UNARY if isinstance(part, Not) else _PRIMARY)
        case Negative(Number(value)) if value >= 0:
            return _UNARY, f"-({value})"  # `-5` is a number
        case Negative(part):
            return _UNARY, "-" + _written(part, _UNARY if isinstance(part, Negative | Number) else _PRIMARY)
        case And(parts):
            return _AND, " && ".join([_written(part, _RELATION) for part in parts])
        case Or(parts):
            return _OR, " || ".join([_written(part, _AND) for part in parts])
        case Compare(operator, left, right) | Arithmetic(operator, left, right):
            level = _LEVELS[operator]
            return level, f"{_written(left, level)} {operator} {_written(right, level + 1)}"
        case In(part, options):
            return _RELATION, f"{_written(part, _RELATION)} in [{', '.join(map(str, options))}]"
        case Choose(condition, then, otherwise):
            return _CHOOSE, f"{_written(condition, _OR)} ? {_written(then, _OR)} : {_written(otherwise, _CHOOSE)}"
        case Call(function, arguments):
            return _PRIMARY, f"{function}({', '.join(map(str, arguments))})"
        case Each(macro, body):
            return _PRIMARY, f"{LINES}.{macro}({LINE}, {body})"
    raise TypeError(node)


_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')


def _quoted(text: str) -> str:
    # What is escaped is fixed, and not what this Python takes for printable: the text is digested.
    return '"' + _ESCAPED.sub(lambda found: _escape(found.group()), text) + '"'


def _escape(character: str) -> str:
    return "\\" + character if character in '"\\' else f"\\u{ord(character):04x}"


# ── what is wrong, and where ──────────────────────────────────────────────────────────────────────────────────────


class Finding(NamedTuple):
    """Something about a source, and where: line and column count from 1, the column in characters."""

    line: int
    column: int
    message: str
    shown: str
    """The line of the source and below it a caret."""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}\n{self.shown}"


class ExpressionError(ValueError):
    """A source is no expression, or none that may be published. A ValueError, for pydantic's sake."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding)

    def __str__(self) -> str:
        return str(self.finding)


_NEWLINE = re.compile(r"\r\n|\r|\n")
_SHOWN_BEFORE, _SHOWN_MAX = 60, 100


def _finding(source: str, at: int, message: str) -> Finding:
    starts = [0, *(found.end() for found in _NEWLINE.finditer(source))]
    line = bisect_right(starts, at)
    start = starts[line - 1]
    newline = _NEWLINE.search(source, start)
    text = source[start : newline.start() if newline else len(source)]
    first = max(0, at - start - _SHOWN_BEFORE)
    window = text[first : first + _SHOWN_MAX]
    shown = "".join(sign if sign.isprintable() or sign == "\t" else "\ufffd" for sign in window)
    # As wide as what stands above it, so that the caret is below its character.
    pad = "".join(map(_blank, shown[: at - start - first]))
    cut = "…" if first else "", "…" if first + _SHOWN_MAX < len(text) else ""
    return Finding(line, at - start + 1, message, f"  {cut[0]}{shown}{cut[1]}\n  {' ' * len(cut[0])}{pad}^")


def _blank(sign: str) -> str:
    if sign == "\t" or unicodedata.combining(sign):
        return sign if sign == "\t" else ""
    return "  " if unicodedata.east_asian_width(sign) in "WF" else " "


def _fail(source: str, at: int, message: str) -> NoReturn:
    raise ExpressionError(_finding(source, at, message)) from None


def _meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, where something known is near."""
    near = [one for one in sorted(known) if one.startswith(name)] or get_close_matches(name, sorted(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


_Kind = Literal["name", "number", "text", "sign", "end"]


class _Token(NamedTuple):
    kind: _Kind
    text: str
    at: int


_TOKEN = re.compile(
    r"""(?P<space>[\t\n\f\r ]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>[0-9]+)
    | (?P<text>"(?:[^"\\\r\n]|\\[^\r\n])*" | '(?:[^'\\\r\n]|\\[^\r\n])*')
    | (?P<sign>&& | \|\| | [=!<>]=? | //? | [-+*%?:()\[\],.&|])""",
    re.VERBOSE,
)
_JOINED = re.compile(r"[A-Za-z_.]")
_ESCAPES = re.compile(r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))")
_SHORT = dict(zip("\\?\"'`abfnrtv", "\\?\"'`\a\b\f\n\r\t\v", strict=True))
_INSTEAD = {
    "=": "compare with `==`",
    "&": "write `&&`",
    "|": "write `||`",
    "//": "`/` rounds down already, and there are no comments",
    "and": "write `&&`",
    "or": "write `||`",
    "not": "write `!`",
    "null": "there are no nulls, compare with the code that stands for nothing",
    **dict.fromkeys("“”„«»", 'write `"`'),
    **dict.fromkeys("‘’‚", "write `'`"),
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "×": "write `*`",
    "÷": "write `/`",
}
KEYWORDS: Final = frozenset({"true", "false", "null", "in"})
RESERVED: Final = KEYWORDS | {
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "namespace",
    "package", "return", "var", "void", "while",
}  # fmt: skip


def _tokens(source: str) -> Iterator[_Token]:
    if len(source) > SOURCE_MAX:
        _fail(source, SOURCE_MAX, f"an expression has at most {SOURCE_MAX} characters, this one has {len(source)}")
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            _fail(source, at, _strange(source[at]))
        text, kind = match.group(), match.lastgroup
        if text in ("=", "&", "|", "//"):
            _fail(source, at, f"`{text}` is no operator: {_INSTEAD[text]}")
        if kind == "number" and _JOINED.match(source, match.end()):
            _fail(source, at, "numbers are whole and decimal: digits and nothing else")
        if kind == "text":
            text = _unescaped(source, at, text)
        if kind != "space":
            yield _Token(cast("_Kind", kind), text, at)
        at = match.end()
    yield _Token("end", "", len(source.rstrip("\t\n\f\r ")))


def _strange(sign: str) -> str:
    if sign in "\"'":
        return f"a text that begins with {sign} ends with {sign}, on the same line"
    plain = unicodedata.normalize("NFKC", sign)
    instead = _INSTEAD.get(sign) or (f"write `{plain}`" if plain != sign and plain.isascii() else "")
    shown = f"`{sign}` (U+{ord(sign):04X})" if sign.isprintable() else f"U+{ord(sign):04X}"
    return f"{shown} is not part of the language" + (f": {instead}" if instead else "")


def _unescaped(source: str, at: int, text: str) -> str:
    def value(found: re.Match[str]) -> str:
        *codes, short = found.groups()
        octal = codes.pop()
        digits = next((code for code in codes if code), None)
        if short is None:
            code = int(digits, 16) if digits else int(octal, 8)
            if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
                return chr(code)
        elif short in _SHORT:
            return _SHORT[short]
        return _fail(source, at + 1 + found.start(), f"`{found.group()}` is no escape; a backslash is written `\\\\`")

    for offset, sign in enumerate(text):
        if 0xD800 <= ord(sign) <= 0xDFFF:
            _fail(source, at + offset, _strange(sign))
    return _ESCAPES.sub(value, text[1:-1])


# ── from text to tree ─────────────────────────────────────────────────────────────────────────────────────────────


class _Parser:
    """Descends by the grammar at the top of this module."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = _tokens(source)
        self.next = next(self.tokens)
        self.nesting = -1
        self.variable: str | None = None
        """What the line is called in the macro that is being read."""

    def whole(self) -> Node:
        node = self.expr()
        if self.next.kind != "end":
            self.unexpected("an operator or the end")
        return node

    def take(self) -> _Token:
        """The next token; the one after it is read now, so that of two errors the first is told."""
        token = self.next
        self.next = next(self.tokens, token)
        return token

    def taken(self, *signs: str) -> _Token | None:
        """The next token, taken, if it is one of some signs."""
        return self.take() if self.next.kind == "sign" and self.next.text in signs else None

    def expect(self, sign: str, wanted: str = "") -> None:
        if not self.taken(sign):
            self.unexpected(wanted or f"`{sign}`")

    def fail(self, at: int, message: str) -> NoReturn:
        _fail(self.source, at, message)

    def unexpected(self, wanted: str) -> NoReturn:
        token = self.next
        hint = _INSTEAD.get(token.text.lower()) if token.kind == "name" else None
        if hint:
            self.fail(token.at, f"`{token.text}` is no word of the language: {hint}")
        shown = {"end": "the end", "text": "a text"}.get(token.kind, f"`{token.text}`")
        self.fail(token.at, f"expected {wanted}, found {shown}")

    def expr(self) -> Node:
        self.nesting += 1
        if self.nesting > NESTING_MAX:
            self.fail(self.next.at, f"nested deeper than {NESTING_MAX} levels: take parts of it apart")
        node = self.disjunction()
        if question := self.taken("?"):
            then = self.disjunction()
            self.expect(":", "`:` of `? :` (a choice within a choice stands in parentheses)")
            node = Choose(node, then, self.expr(), at=question.at)
        self.nesting -= 1
        return node

    def disjunction(self) -> Node:
        parts = [self.conjunction()]
        at = self.next.at
        while self.taken("||"):
            parts.append(self.conjunction())
        return Or(tuple(parts), at=at) if len(parts) > 1 else parts[0]

    def conjunction(self) -> Node:
        parts = [self.binary(_RELATION)]
        at = self.next.at
        while self.taken("&&"):
            parts.append(self.binary(_RELATION))
        return And(tuple(parts), at=at) if len(parts) > 1 else parts[0]

    def binary(self, least: int) -> Node:
        """Operators that bind at least so tight, from left to right."""
        node = self.unary()
        while self.next.kind in ("sign", "name") and (level := _LEVELS.get(self.next.text, -1)) >= least:
            token = self.take()
            if token.text == "in":
                node = In(node, self.constants(), at=token.at)
                continue
            right = self.binary(level + 1)
            if level == _RELATION:
                node = Compare(cast("Comparison", token.text), node, right, at=token.at)
            else:
                node = Arithmetic(cast("Operation", token.text), node, right, at=token.at)
        return node

    def constants(self) -> tuple[Number | Quoted, ...]:
        self.expect("[", "a list of constants in `[` and `]`")
        found: list[Number | Quoted] = []
        while not (found and self.taken("]")):
            minus = self.taken("-")
            if self.next.kind == "number":
                found.append(self.number(minus))
            elif self.next.kind == "text" and not minus:
                found.append(self.text())
            else:
                self.unexpected("an integer or a text")
            if not self.taken(","):
                self.expect("]", "`,` or `]`")
                break
        return tuple(found)

    def unary(self) -> Node:
        signs: list[_Token] = []
        while sign := self.taken(*((signs[0].text,) if signs else ("!", "-"))):
            signs.append(sign)
        minus = signs.pop() if signs and signs[0].text == "-" and self.next.kind == "number" else None
        node = self.number(minus) if self.next.kind == "number" else self.primary()
        for sign in reversed(signs):
            node = (Not if sign.text == "!" else Negative)(node, at=sign.at)
        return node

    def number(self, minus: _Token | None) -> Number:
        token = self.take()
        digits = token.text.lstrip("0") or "0"
        value = int(digits) if len(digits) <= len(str(INT_MAX)) else INT_MAX + 2
        at, value = (minus.at, -value) if minus else (token.at, value)
        if not INT_MIN <= value <= INT_MAX:
            self.fail(at, f"integers have 64 bits: from {INT_MIN} to {INT_MAX}")
        return Number(value, at=at)

    def text(self) -> Quoted:
        token = self.take()
        return Quoted(token.text, at=token.at)

    def primary(self) -> Node:
        token = self.next
        if token.kind == "text":
            return self.text()
        if self.taken("("):
            node = self.expr()
            self.expect(")")
            return node
        if token.kind != "name" or _INSTEAD.get(token.text.lower()):
            self.unexpected("a value")
        if token.text in ("true", "false"):
            self.take()
            return Flag(token.text == "true", at=token.at)
        return self.named()

    def identifier(self, wanted: str, refused: frozenset[str]) -> str:
        token = self.next
        if token.kind != "name":
            self.unexpected(wanted)
        if token.text in refused:
            self.fail(token.at, f"`{token.text}` is a reserved word, no name")
        self.take()
        return token.text

    def named(self) -> Node:
        """A field, or the call of a function or of a macro."""
        at = self.next.at
        parts = [self.identifier("a name", RESERVED)]
        while self.taken("."):
            parts.append(self.identifier("a name", KEYWORDS))
        name = ".".join(parts)
        if self.taken("("):
            return self.call(name, at)
        if self.variable is not None:
            if name == self.variable:
                self.fail(at, f"`{name}` is a whole line: name a field of it, as in `{name}.net_minor`")
            if parts[0] == self.variable:
                name = ".".join([LINE, *parts[1:]])
            elif parts[0] == LINE:
                self.fail(at, f"the line is called `{self.variable}` here: `{'.'.join([self.variable, *parts[1:]])}`")
        return Field(name, at=at)

    def call(self, name: str, at: int) -> Node:
        if name in ARGUMENTS:
            arguments = [self.expr()]
            while self.taken(","):
                arguments.append(self.expr())
            self.expect(")", "`,` or `)`")
            if len(arguments) != ARGUMENTS[name]:
                self.fail(at, f"`{name}` takes {ARGUMENTS[name]} values, not {len(arguments)}")
            return Call(cast("Function", name), tuple(arguments), at=at)
        receiver, _, macro = name.rpartition(".")
        if receiver != LINES or macro not in MACROS:
            known = [*ARGUMENTS, *(f"{LINES}.{one}" for one in MACROS)]
            self.fail(at, f"no function is called `{name}`; known: {', '.join(known)}")
        if self.variable is not None:
            self.fail(at, f"`{LINES}.{macro}` can't stand within another: it would take the square of the lines")
        variable = self.identifier("a name for the line", RESERVED)
        self.expect(",", f"`,` and what to find of each `{variable}`")
        self.variable = variable
        body = self.expr()
        self.variable = None
        self.expect(")")
        return Each(cast("Macro", macro), body, at=at)


# ── fields and what the tree does with them ───────────────────────────────────────────────────────────────────────


class Fields:
    """What expressions may read: the type of each field by its name, and how many lines there are.

    A name's first part is its scope (`order.net_minor`); fields of scope `line` are of one line. Whoever evaluates
    has to give values that the types hold: the promise that nothing overflows stands on them.
    """

    def __init__(self, types: Mapping[str, Possible], lines: Integers | None = None) -> None:
        for name in types:
            first, *rest = name.split(".")
            words_ok = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word) for word in (first, *rest))
            if not words_ok or first in RESERVED or first == LINES or not KEYWORDS.isdisjoint(rest) or not rest:
                raise ValueError(f"{name!r} can't name a field: write `scope.name`")
        if lines is not None and lines.lo < 0:
            raise ValueError("there are no fewer than 0 lines")
        self.types: dict[str, Possible] = dict(types)
        self.lines = lines

    def of_line(self) -> Fields:
        """The same for expressions about one line: `line.…` is read outside of macros, and there are none."""
        return Fields(self.types)


class _Checker:
    """Finds what each node gives, and refuses what could fail."""

    def __init__(self, source: str, fields: Fields) -> None:
        self.source = source
        self.fields = fields
        self.warnings: list[Finding] = []
        self.nodes = 0
        self.depth = 0
        self.within_lines = fields.lines is None

    def fail(self, node: Node, message: str) -> NoReturn:
        _fail(self.source, node.at, message)

    def warn(self, node: Node, message: str) -> None:
        self.warnings.append(_finding(self.source, node.at, message))

    def integers(self, node: Node) -> Integers:
        found = self.gives(node)
        return found if isinstance(found, Integers) else self.wrong(node, found, Integers)

    def booleans(self, node: Node) -> Booleans:
        found = self.gives(node)
        return found if isinstance(found, Booleans) else self.wrong(node, found, Booleans)

    def wrong(self, node: Node, found: Possible, wanted: type[Possible]) -> NoReturn:
        self.fail(node, f"{_CALLED[wanted]} has to stand here, and this is {_CALLED[type(found)]}")

    def within(self, node: Node, *ends: int) -> Integers:
        """The interval that some ends span; refused unless it has 64 bits."""
        lo, hi = min(ends), max(ends)
        if lo < INT_MIN or hi > INT_MAX:
            self.fail(
                node,
                f"this can be anything from {lo} to {hi}, and integers have 64 bits: "
                "bound what it is made of by min(…) and max(…)",
            )
        return Integers(lo, hi)

    def gives(self, node: Node) -> Possible:
        self.nodes += 1
        self.depth += 1
        if self.nodes > NODES_MAX:
            self.fail(node, f"an expression has at most {NODES_MAX} parts")
        if self.depth > DEPTH_MAX:
            self.fail(node, f"more than {DEPTH_MAX} operators on one another: take parts of it apart")
        found = self.of_one(node)
        self.depth -= 1
        return found

    def of_one(self, node: Node) -> Possible:
        match node:
            case Number(value):
                return Integers(value, value)
            case Quoted(value):
                return Codes((value,))
            case Flag(value):
                return Booleans(true=value, false=not value)
            case Field(name):
                return self.of_field(node, name)
            case Not(part):
                found = self.booleans(part)
                return Booleans(true=found.false, false=found.true)
            case Negative(part):
                number = self.integers(part)
                return self.within(node, -number.lo, -number.hi)
            case And(parts):
                each = [self.booleans(part) for part in parts]
                return Booleans(true=all(one.true for one in each), false=any(one.false for one in each))
            case Or(parts):
                each = [self.booleans(part) for part in parts]
                return Booleans(true=any(one.true for one in each), false=all(one.false for one in each))
            case Compare():
                return self.of_compare(node)
            case In():
                return self.of_in(node)
            case Arithmetic():
                return self.of_arithmetic(node)
            case Choose(condition, then, otherwise):
                self.booleans(condition)
                return self.of_choice(then, otherwise)
            case Call("abs", (part,)):
                number = self.integers(part)
                least = 0 if number.lo <= 0 <= number.hi else min(abs(number.lo), abs(number.hi))
                return self.within(node, least, abs(number.lo), abs(number.hi))
            case Call(function, (one, two)):
                a, b = self.integers(one), self.integers(two)
                pick = min if function == "min" else max
                return Integers(pick(a.lo, b.lo), pick(a.hi, b.hi))
            case Each():
                return self.of_each(node)
        raise TypeError(node)

    def of_field(self, node: Node, name: str) -> Possible:
        if name.startswith(f"{LINE}.") and not self.within_lines:
            rest = name.removeprefix(f"{LINE}.")
            self.fail(node, f"`{name}` is of one line: use a macro, as in `{LINES}.exists(l, l.{rest} …)`")
        found = self.fields.types.get(name)
        if found is None:
            known = [one for one in self.fields.types if self.within_lines or not one.startswith(f"{LINE}.")]
            hint = _meant(name, known) or f"; known: {', '.join(sorted(known))}"
            self.fail(node, f"no field is called `{name}`{hint}")
        return found

    def of_compare(self, node: Compare) -> Booleans:
        a, b = self.gives(node.left), self.gives(node.right)
        less = more = Booleans()
        match a, b:
            case Integers(), Integers():
                equal = Booleans(true=a.lo <= b.hi and b.lo <= a.hi, false=not a.lo == a.hi == b.lo == b.hi)
                less = Booleans(true=a.lo < b.hi, false=a.hi >= b.lo)
                more = Booleans(true=a.hi > b.lo, false=a.lo <= b.hi)
            case Codes(), Codes():
                equal = self.of_codes(node, a, b)
            case Booleans(), Booleans():
                equal = Booleans(
                    true=(a.true and b.true) or (a.false and b.false),
                    false=(a.true and b.false) or (a.false and b.true),
                )
            case _:
                types = f"{_CALLED[type(a)]} and {_CALLED[type(b)]}"
                self.fail(node, f"`{node.operator}` compares two of one type, and these are {types}")
        if node.operator not in ("==", "!=") and not isinstance(a, Integers):
            self.fail(node, f"`{node.operator}` orders integers, and these are not: ask `==`, `!=` or, of texts, `in`")
        answers = {"==": equal, "!=": _not(equal), "<": less, ">=": _not(less), ">": more, "<=": _not(more)}
        found = answers[node.operator]
        if not (found.true and found.false):
            self.warn(node, f"this is always {found}: on the left stands {a}, on the right {b}")
        return found

    def of_codes(self, node: Compare, a: Codes, b: Codes) -> Booleans:
        for side, other, values in ((node.left, node.right, b.values), (node.right, node.left, a.values)):
            if isinstance(side, Quoted) and isinstance(other, Field):
                self.known(side, other, values)
        if a.values is None or b.values is None:
            return Booleans()
        return Booleans(
            true=not set(a.values).isdisjoint(b.values), false=not (len(a.values) == 1 and a.values == b.values)
        )

    def known(self, code: Quoted, what: Node, values: tuple[str, ...] | None) -> None:
        if values is not None and code.value not in values:
            near = get_close_matches(code.value, values, 1)
            hint = f"did you mean {_quoted(near[0])}?" if near else f"it is one of {Codes(values)}"
            self.fail(code, f"`{what}` is never {code}; {hint}")

    def of_in(self, node: In) -> Booleans:
        found = self.gives(node.part)
        if isinstance(found, Booleans):
            self.fail(node, "`in` asks of integers and texts, and this is a boolean")
        options: set[int | str] = set()
        possible: set[int | str] = set()
        for option in node.options:
            self.gives(option)
            if isinstance(option, Number) != isinstance(found, Integers):
                self.fail(option, f"{_CALLED[type(found)]} is asked of, and this is not")
            if isinstance(option, Quoted) and isinstance(found, Codes):
                self.known(option, node.part, found.values)
            if option.value in options:
                self.warn(option, "this stands in the list before")
            options.add(option.value)
            if isinstance(found, Integers) and not found.lo <= int(option.value) <= found.hi:
                self.warn(option, f"on the left stands {found}, which is never {option}")
            else:
                possible.add(option.value)
        if isinstance(found, Integers):
            many: int | None = found.hi - found.lo + 1
        else:
            many = None if found.values is None else len(found.values)
        if len(possible) == many:
            self.warn(node, f"this is always true: the list holds all of {found}")
        return Booleans(true=bool(possible), false=len(possible) != many)

    def of_choice(self, then: Node, otherwise: Node) -> Possible:
        a, b = self.gives(then), self.gives(otherwise)
        match a, b:
            case Integers(), Integers():
                return Integers(min(a.lo, b.lo), max(a.hi, b.hi))
            case Booleans(), Booleans():
                return Booleans(true=a.true or b.true, false=a.false or b.false)
            case Codes(), _:
                self.fail(then, "`? :` chooses between integers or booleans: compare the texts, then choose")
        return self.wrong(otherwise, b, type(a))

    def of_arithmetic(self, node: Arithmetic) -> Integers:
        a, b = self.integers(node.left), self.integers(node.right)
        match node.operator:
            case "+":
                return self.within(node, a.lo + b.lo, a.hi + b.hi)
            case "-":
                return self.within(node, a.lo - b.hi, a.hi - b.lo)
            case "*":
                return self.within(node, a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi)
        if b.lo <= 0 <= b.hi:
            self.fail(node, f"this could divide by 0: on the right stands {b}; keep it from 0, as by max(1, …)")
        # A quotient leaves 64 bits in one case, in which machines refuse the remainder, too.
        quotient = self.within(node, a.lo // b.lo, a.lo // b.hi, a.hi // b.lo, a.hi // b.hi)
        if node.operator == "/":
            return quotient
        if b.lo > 0:
            return Integers(0, b.hi - 1) if a.lo < 0 else a if a.hi < b.lo else Integers(0, min(a.hi, b.hi - 1))
        return Integers(b.lo + 1, 0) if a.hi > 0 else a if a.lo > b.hi else Integers(max(a.lo, b.lo + 1), 0)

    def of_each(self, node: Each) -> Possible:
        lines = self.fields.lines
        if lines is None:
            self.fail(node, f"`{LINES}.{node.macro}` can't stand here: there are no lines, or this is about one line")
        self.within_lines = True
        if node.macro == "sum":
            number = self.integers(node.body)
            # From 0 on: so do the sums on the way.
            found: Possible = self.within(node, 0, lines.hi * number.lo, lines.hi * number.hi)
            if lines.lo:
                ends = [number.lo * (lines.lo if number.lo > 0 else lines.hi)]
                ends.append(number.hi * (lines.lo if number.hi < 0 else lines.hi))
                found = self.within(node, *ends)
        else:
            each = self.booleans(node.body)
            if node.macro == "count":
                found = Integers(0 if each.false else lines.lo, lines.hi if each.true else 0)
            elif node.macro == "exists":
                found = Booleans(true=each.true and lines.hi > 0, false=each.false or lines.lo == 0)
            else:
                found = Booleans(true=each.true or lines.lo == 0, false=each.false and lines.hi > 0)
        self.within_lines = False
        return found


def _not(found: Booleans) -> Booleans:
    return Booleans(true=found.false, false=found.true)


# ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────────


class Layout(NamedTuple):
    """Which fields stand in the rows, in order: of everything but lines, and of each line."""

    fact: tuple[str, ...]
    line: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that passed all checks. Two are equal if their trees are; `str` gives the canonical text."""

    tree: Node
    gives: Possible = field(compare=False)
    about_line: bool = field(compare=False)
    """Whether it is about one line; if not, it reads lines by macros alone."""
    warnings: tuple[Finding, ...] = field(compare=False)
    """What is allowed and can hardly be meant: comparisons that are always true or always false."""

    def __str__(self) -> str:
        return str(self.tree)

    def fields(self) -> frozenset[str]:
        """The names of the fields that it reads."""
        found: set[str] = set()
        rest = [self.tree]
        while rest:
            node = rest.pop()
            if isinstance(node, Field):
                found.add(node.name)
            rest += children(node)
        return frozenset(found)

    def compile(self, layout: Layout) -> Compiled:
        """As one Python function of rows of a layout, which has to have all fields that it reads."""
        text = f"lambda fact, {LINE if self.about_line else LINES}: {_python(self.tree, layout)}"
        # Nothing of the source is in it as it was: positions, numbers, operators, and texts as Python's literals.
        found = eval(text, {"__builtins__": {}, **_BUILTINS})  # noqa: S307 - made of a checked tree
        return cast("Compiled", found)


def layout_of(expressions: Iterable[Expression]) -> Layout:
    """The smallest layout that some expressions can be evaluated on, with the fields in order of their names."""
    names = sorted({name for expression in expressions for name in expression.fields()})
    of_lines = tuple(name for name in names if name.startswith(f"{LINE}."))
    return Layout(tuple(name for name in names if not name.startswith(f"{LINE}.")), of_lines)


def read(source: str) -> Node:
    """The tree that a source says, with nothing checked but the syntax. Raises ExpressionError."""
    return _Parser(source).whole()


def parse(source: str, fields: Fields, wants: Possible | None = None) -> Expression:
    """The expression that a source says. `wants` is what it has to give (default: a boolean).

    Raises ExpressionError.
    """
    wants = Booleans() if wants is None else wants
    tree = read(source)
    checker = _Checker(source, fields)
    gives = checker.gives(tree)
    if type(gives) is not type(wants):
        checker.wrong(tree, gives, type(wants))
    if isinstance(gives, Integers) and isinstance(wants, Integers) and not wants.lo <= gives.lo <= gives.hi <= wants.hi:
        checker.fail(tree, f"this gives {gives}, and only {wants} will do: bound it by min(…) and max(…)")
    return Expression(tree, gives, fields.lines is None, tuple(checker.warnings))


_BUILTINS: dict[str, Any] = {"abs": abs, "all": all, "any": any, "max": max, "min": min, "sum": sum}
_PYTHON_MACROS: dict[str, str] = {"all": "all", "count": "sum", "exists": "any", "sum": "sum"}


def _python(node: Node, layout: Layout) -> str:
    def text(part: Node) -> str:
        return _python(part, layout)

    match node:
        case Number(value) | Quoted(value) | Flag(value):
            return repr(value)
        case Field(name) if name.startswith(f"{LINE}."):
            return f"{LINE}[{layout.line.index(name)}]"
        case Field(name):
            return f"fact[{layout.fact.index(name)}]"
        case Not(part):
            return f"(not {text(part)})"
        case Negative(part):
            return f"(-{text(part)})"
        case And(parts):
            return f"({' and '.join(map(text, parts))})"
        case Or(parts):
            return f"({' or '.join(map(text, parts))})"
        case Compare(operator, left, right):
            return f"({text(left)} {operator} {text(right)})"
        case In(part, options):
            return f"({text(part)} in {{{', '.join(map(text, options))}}})"
        case Arithmetic(operator, left, right):
            return f"({text(left)} {'//' if operator == '/' else operator} {text(right)})"
        case Choose(condition, then, otherwise):
            return f"({text(then)} if {text(condition)} else {text(otherwise)})"
        case Call(function, arguments):
            return f"{function}({', '.join(map(text, arguments))})"
        case Each(macro, body):
            # A list, not a generator: faster on as few as a purchase has, and nothing can fail for going on.
            return f"{_PYTHON_MACROS[macro]}([{text(body)} for {LINE} in {LINES}])"
    raise TypeError(node)
