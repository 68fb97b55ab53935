"""The language of rule sets: what it says, what it refuses and where, and that all executors of it agree."""

from __future__ import annotations

import inspect
import operator
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import pytest
from hypothesis import event, example, given, reject, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ValidationError

from tallybook.domain.expressions import (
    DEPTH_MAX,
    INT_MAX,
    INT_MIN,
    NESTING_MAX,
    NODES_MAX,
    SOURCE_MAX,
    And,
    Arithmetic,
    Booleans,
    Call,
    Choose,
    Codes,
    Compare,
    Each,
    Expression,
    ExpressionError,
    Field,
    Fields,
    Flag,
    In,
    Integers,
    Layout,
    Negative,
    Node,
    Not,
    Number,
    Or,
    Possible,
    Quoted,
    children,
    layout_of,
    parse,
    read,
)

TIERS = ("", "basic", "silver", "gold")
TYPES: Mapping[str, Possible] = {
    "order.net_minor": Integers(0, 10**12),
    "order.month": Integers(1, 12),
    "order.balance": Integers(-1000, 1000),
    "order.any": Integers(),
    "order.store": Codes(),
    "order.channel": Codes(("web", "app")),
    "account.tier": Codes(TIERS),
    "customer.member": Booleans(),
    "customer.segment_a": Booleans(),
    "line.net_minor": Integers(-(10**6), 10**12),
    "line.quantity": Integers(1, 1000),
    "line.category": Codes(),
    "line.gift": Booleans(),
}
FIELDS = Fields(TYPES, lines=Integers(1, 100))
OF_LINE = FIELDS.of_line()
MAYBE_EMPTY = Fields(TYPES, lines=Integers(0, 100))

Values = Mapping[str, Any]


def refusal(source: str, fields: Fields = FIELDS, wants: Possible | None = None) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        parse(source, fields, wants)
    return caught.value


def run(expression: Expression, fact: Values, lines: Sequence[Values] = (), line: Values | None = None) -> Any:
    """What the compiled function gives."""
    layout = layout_of([expression])
    row = [fact[name] for name in layout.fact]
    rows = [[one[name] for name in layout.line] for one in ([line] if line else lines)]
    return expression.compile(layout)(row, rows[0] if line else rows)


def number(source: str, fact: Values | None = None, lines: Sequence[Values] = ()) -> int:
    return int(run(parse(source, MAYBE_EMPTY, Integers()), fact or {}, lines))


# ── a second executor: walks the tree ─────────────────────────────────────────────────────────────────────────────

COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
ARITHMETIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod,
}  # fmt: skip
CALL: dict[str, Callable[..., int]] = {"abs": abs, "max": max, "min": min}

EACH: dict[str, Callable[..., Any]] = {"all": all, "count": sum, "exists": any, "sum": sum}


class Walker:
    """Evaluates node by node and keeps what each gave. `eager`: all sides, needed or not, as columns do."""

    def __init__(self, fact: Values, lines: Sequence[Values], *, eager: bool) -> None:
        self.values: dict[str, Any] = dict(fact)
        self.lines = lines
        self.eager = eager
        self.gave: list[tuple[Node, Any]] = []

    def __call__(self, node: Node) -> Any:
        value = self.of(node)
        self.gave.append((node, value))
        return value

    def of(self, node: Node) -> Any:
        match node:
            case Number(value) | Quoted(value) | Flag(value):
                return value
            case Field(name):
                return self.values[name]
            case Not(part):
                return not self(part)
            case Negative(part):
                return -self(part)
            case And(parts):
                return all(self.each_of(parts))
            case Or(parts):
                return any(self.each_of(parts))
            case Compare(sign, left, right):
                return COMPARE[sign](self(left), self(right))
            case Arithmetic(sign, left, right):
                return ARITHMETIC[sign](self(left), self(right))
            case In(part, options):
                return any(self(part) == option.value for option in options)
            case Choose(condition, then, otherwise):
                if self.eager:
                    both = self(then), self(otherwise)
                    return both[0] if self(condition) else both[1]
                return self(then) if self(condition) else self(otherwise)
            case Call(function, arguments):
                return CALL[function](*[self(one) for one in arguments])
            case Each(macro, body):
                found = list(self.each(body))
                return EACH[macro](found)
        raise TypeError(node)

    def each_of(self, parts: Iterable[Node]) -> Iterable[Any]:
        found = map(self, parts)
        return list(found) if self.eager else found

    def each(self, body: Node) -> Iterator[Any]:
        outside = self.values
        for line in self.lines:
            self.values = {**outside, **line}
            yield self(body)
        self.values = outside


# ── random expressions and values ─────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.one_of(st.integers(-20, 20), st.sampled_from([INT_MIN, INT_MAX, 10**9, -(10**9), 10**12]))


def _fields_of(kind: type[Possible], *, in_line: bool) -> list[Field]:
    return [
        Field(name)
        for name, possible in TYPES.items()
        if isinstance(possible, kind) and (in_line or not name.startswith("line."))
    ]


def integers(size: int, *, in_line: bool) -> st.SearchStrategy[Node]:
    """Trees that give an integer."""
    leaves: list[st.SearchStrategy[Node]] = [
        st.builds(Number, NUMBERS),
        st.sampled_from(_fields_of(Integers, in_line=in_line)),
    ]
    if size == 0:
        return st.one_of(leaves)
    part = st.deferred(lambda: integers(size - 1, in_line=in_line))
    truth = st.deferred(lambda: booleans(size - 1, in_line=in_line))
    nonzero = st.one_of(
        part, st.builds(Number, st.integers(-9, 9)), st.builds(lambda one: Call("max", (Number(1), one)), part)
    )
    grown: list[st.SearchStrategy[Node]] = [
        st.builds(Arithmetic, st.sampled_from(["+", "-", "*"]), part, part),
        st.builds(Arithmetic, st.sampled_from(["/", "%"]), part, nonzero),
        st.builds(Negative, part),
        st.builds(Choose, truth, part, part),
        st.builds(lambda one: Call("abs", (one,)), part),
        st.builds(lambda name, one, two: Call(name, (one, two)), st.sampled_from(["min", "max"]), part, part),
        st.builds(
            lambda one, lo, hi: Call("min", (Call("max", (one, Number(lo))), Number(hi))),
            part, st.integers(-50, 50), st.integers(-50, 50),
        ),
    ]  # fmt: skip
    if not in_line:
        grown += [
            st.builds(Each, st.just("sum"), st.deferred(lambda: integers(size - 1, in_line=True))),
            st.builds(Each, st.just("count"), st.deferred(lambda: booleans(size - 1, in_line=True))),
        ]
    return st.one_of(leaves + grown)


def booleans(size: int, *, in_line: bool) -> st.SearchStrategy[Node]:
    """Trees that give a boolean."""
    closed = {name: possible.values for name, possible in TYPES.items() if isinstance(possible, Codes)}
    texts = st.sampled_from(_fields_of(Codes, in_line=in_line))
    code = texts.flatmap(
        lambda one: st.tuples(
            st.just(one), st.builds(Quoted, st.text(max_size=3) if (known := closed[one.name]) is None else
                                    st.sampled_from(known)),
        )
    )  # fmt: skip
    equals = st.sampled_from(["==", "!="])
    leaves: list[st.SearchStrategy[Node]] = [
        st.builds(Flag, st.booleans()),
        st.sampled_from(_fields_of(Booleans, in_line=in_line)),
        st.builds(lambda sign, both: Compare(sign, both[0], both[1]), equals, code),
        st.builds(lambda sign, both: Compare(sign, both[1], both[0]), equals, code),
        st.builds(lambda both: In(both[0], (both[1],)), code),
        st.builds(Compare, equals, texts, texts),
    ]
    if size == 0:
        return st.one_of(leaves)
    part = st.deferred(lambda: booleans(size - 1, in_line=in_line))
    whole = st.deferred(lambda: integers(size - 1, in_line=in_line))
    parts = st.lists(part, min_size=2, max_size=3).map(tuple)
    grown: list[st.SearchStrategy[Node]] = [
        st.builds(Compare, st.sampled_from(list(COMPARE)), whole, whole),
        st.builds(Compare, equals, part, part),
        st.builds(In, whole, st.lists(st.builds(Number, NUMBERS), min_size=1, max_size=4).map(tuple)),
        st.builds(And, parts),
        st.builds(Or, parts),
        st.builds(Not, part),
        st.builds(Choose, part, part, part),
    ]
    if not in_line:
        inner = st.deferred(lambda: booleans(size - 1, in_line=True))
        grown.append(st.builds(Each, st.sampled_from(["all", "exists"]), inner))
    return st.one_of(leaves + grown)


def trees(size: int = 3) -> st.SearchStrategy[Node]:
    return st.one_of(integers(size, in_line=False), booleans(size, in_line=False))


def value_of(possible: Possible) -> st.SearchStrategy[Any]:
    """Values that a type holds, its ends often."""
    match possible:
        case Integers(lo, hi):
            return st.one_of(st.sampled_from([lo, hi]), st.integers(lo, hi), st.integers(max(lo, -9), min(hi, 9)))
        case Codes(values):
            return st.text(max_size=3) if values is None else st.sampled_from(values)
        case Booleans():
            return st.booleans()


FACTS = st.fixed_dictionaries(
    {name: value_of(possible) for name, possible in TYPES.items() if not name.startswith("line.")}
)
LINES = st.lists(
    st.fixed_dictionaries({name: value_of(possible) for name, possible in TYPES.items() if name.startswith("line.")}),
    min_size=1,
    max_size=4,
)


def holds(possible: Possible, value: Any) -> bool:
    match possible:
        case Integers(lo, hi):
            return type(value) is int and lo <= value <= hi
        case Codes(values):
            return type(value) is str and (values is None or value in values)
        case Booleans(true, false):
            return type(value) is bool and (true if value else false)


def parsed(tree: Node, fields: Fields = FIELDS) -> Expression:
    """The expression of a tree, whatever it gives. Raises ExpressionError."""
    last: ExpressionError | None = None
    for wants in (Integers(), Booleans(), Codes()):
        try:
            return parse(str(tree), fields, wants)
        except ExpressionError as error:
            if "has to stand here" not in error.finding.message:
                raise
            last = error
    assert last is not None
    raise last


REFUSED_FOR_ITS_VALUES = ("integers have 64 bits", "this could divide by 0")


def checked(tree: Node, fields: Fields = FIELDS) -> Expression:
    """The same of a tree of random numbers: refused for these alone, and then the example is dropped."""
    try:
        found = parsed(tree, fields)
    except ExpressionError as error:
        if not any(words in error.finding.message for words in REFUSED_FOR_ITS_VALUES):
            raise
        event("refused")
        reject()
    event("evaluated")
    return found


@settings(max_examples=300)
@given(tree=trees(), fact=FACTS, lines=LINES)
def test_what_passes_never_fails_and_all_executors_agree(tree: Node, fact: Values, lines: list[Values]) -> None:
    expression = checked(tree)
    lazy, eager = Walker(fact, lines, eager=False), Walker(fact, lines, eager=True)
    given_by_all = run(expression, fact, lines), lazy(tree), eager(tree)
    assert len(set(given_by_all)) == 1
    assert len({type(one) for one in given_by_all}) == 1


@settings(max_examples=300)
@given(tree=trees(), fact=FACTS, lines=LINES)
def test_every_node_gives_what_the_analysis_says(tree: Node, fact: Values, lines: list[Values]) -> None:
    checked(tree)
    walker = Walker(fact, lines, eager=True)
    walker(tree)
    for node, value in walker.gave:
        # Of nodes within a macro, the text is one about a line; those that hold a macro are not.
        whole = any(isinstance(one, Each) for one in below(node))
        assert holds(parsed(node, FIELDS if whole else OF_LINE).gives, value), f"{node} gave {value}"


def below(node: Node) -> Iterator[Node]:
    yield node
    for child in children(node):
        yield from below(child)


@settings(max_examples=100)
@given(tree=booleans(3, in_line=True), fact=FACTS, lines=LINES)
def test_a_line_expression_is_the_macro_s_body(tree: Node, fact: Values, lines: list[Values]) -> None:
    alone, counted = checked(tree, OF_LINE), checked(Each("count", tree))
    assert run(counted, fact, lines) == sum(run(alone, fact, line=line) for line in lines)


@settings(max_examples=300)
@given(tree=trees(4))
def test_the_canonical_text_reads_back_as_the_same_tree(tree: Node) -> None:
    again = read(str(tree))
    assert again == tree
    assert hash(again) == hash(tree)
    assert str(again) == str(tree)


WORDS = [
    *("order.month", "order", "lines", "line", "l", "l.quantity", "account.tier", "customer.member", "true", "false"),
    *("min", "max", "abs", "in", "if", "null", "and", "lines.sum", "lines.all(l, ", "0", "12", "9223372036854775808"),
    *('"gold"', "'web'", '"', "\\", "\n", "\t", " ", ".", ",", "?", ":", "(", ")", "[", "]", "{", "}", "é", "金"),
    *("&&", "||", "!", "==", "!=", "<", ">=", "+", "-", "*", "/", "%", "=", "&", "//", "\ud800", "\x00", "（"),
]


@settings(max_examples=500)
@given(
    source=st.one_of(
        st.text(max_size=40),
        st.lists(st.sampled_from(WORDS), max_size=25).map("".join),
        st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join),
    )
)
@example(source="\ud800")
@example(source='"\ud800"')
@example(source="order.store == '\ud800'")
@example(source="")
def test_whatever_is_written_there_is_one_kind_of_error(source: str) -> None:
    try:
        found = parse(source, FIELDS)
    except ExpressionError as error:
        finding = error.finding
        assert 1 <= finding.line <= source.count("\n") + source.count("\r") + 1
        assert 1 <= finding.column <= len(source) + 1
        assert finding.message
        str(error).encode()
    else:
        assert parse(str(found), FIELDS) == found


# ── what is refused, and where ────────────────────────────────────────────────────────────────────────────────────

REFUSED: list[tuple[str, int, str]] = [
    # words
    ("order.month = 3", 13, "`=` is no operator: compare with `==`"),
    ("order.month === 3", 15, "`=` is no operator"),
    ("customer.member & true", 17, "`&` is no operator: write `&&`"),
    ("customer.member | true", 17, "`|` is no operator: write `||`"),
    ("order.month // 2 == 1", 13, "`//` is no operator: `/` rounds down already, and there are no comments"),
    ("customer.member and true", 17, "`and` is no word of the language: write `&&`"),
    ("customer.member OR true", 17, "`OR` is no word of the language: write `||`"),
    ("not customer.member", 1, "`not` is no word of the language: write `!`"),
    ("account.tier != null", 17, "there are no nulls"),
    ("order.month > 1.5", 15, "numbers are whole and decimal"),
    ("order.month > 1_000", 15, "numbers are whole and decimal"),
    ("order.month > 0x10", 15, "numbers are whole and decimal"),
    ("order.month > 10u", 15, "numbers are whole and decimal"),
    ("order.month > 1e3", 15, "numbers are whole and decimal"),
    ("order.month > .5", 15, "expected a value, found `.`"),
    ("order.any > 9223372036854775808", 13, "integers have 64 bits: from -9223372036854775808 to 9223372036854775807"),
    ("order.any > -9223372036854775809", 13, "integers have 64 bits"),
    ("order.any > 1" + "0" * 5000, 13, "integers have 64 bits"),
    ('order.store == "x', 16, 'a text that begins with " ends with ", on the same line'),
    ("order.store == 'x\"", 16, "a text that begins with ' ends with ', on the same line"),
    ('order.store == "a\nb"', 16, "on the same line"),
    (r'order.store == "a\d"', 18, r"`\d` is no escape; a backslash is written `\\`"),
    (r'order.store == "a\x4"', 18, r"`\x` is no escape"),
    (r'order.store == "\ud800"', 17, r"`\ud800` is no escape"),
    (r'order.store == "\U00110000"', 17, r"`\U00110000` is no escape"),
    (r'order.store == "\477"', 17, r"`\4` is no escape"),
    ("order.store == “x”", 16, "`“` (U+201C) is not part of the language: write `\"`"),
    ("lines.all(l，l.gift)", 12, "`，` (U+FF0C) is not part of the language: write `,`"),
    ("order.month ≥ 3", 13, "`≥` (U+2265) is not part of the language: write `>=`"),
    ("order.month\u00a0> 3", 12, "U+00A0 is not part of the language"),
    ("order.month @ 3", 13, "`@` (U+0040) is not part of the language"),
    ("order.größe > 3", 9, "`ö` (U+00F6) is not part of the language"),
    ("order.month and order.month = 3", 13, "write `&&`"),
    ("nope = 3", 6, "`=` is no operator"),
    # grammar
    ("", 1, "expected a value, found the end"),
    ("order.month >", 14, "expected a value, found the end"),
    ("order.month > \n  ", 14, "expected a value, found the end"),
    ("(order.month > 3", 17, "expected `)`, found the end"),
    ("order.month > 3)", 16, "expected an operator or the end, found `)`"),
    ("order.month > 3 4", 17, "expected an operator or the end, found `4`"),
    ('order.month > 3 "a"', 17, "expected an operator or the end, found a text"),
    ("order.month.", 13, "expected a name, found the end"),
    ("(order).month > 3", 8, "expected an operator or the end, found `.`"),
    ("order.in > 3", 7, "`in` is a reserved word, no name"),
    ("if > 3", 1, "`if` is a reserved word, no name"),
    ("!-order.month > 3", 2, "expected a value, found `-`"),
    ("-!customer.member", 2, "expected a value, found `!`"),
    ("customer.member ? 1", 20, "expected `:` of `? :`"),
    ("customer.member ? true ? true : false : false", 24, "expected `:` of `? :` (a choice within a choice"),
    ("order.month in 3", 16, "expected a list of constants in `[` and `]`, found `3`"),
    ("order.month in order.months", 16, "expected a list of constants in"),
    ("order.month in []", 17, "expected an integer or a text, found `]`"),
    ("order.month in [3, , 4]", 20, "expected an integer or a text, found `,`"),
    ("order.month in [order.month]", 17, "expected an integer or a text, found `order`"),
    ("order.month in [3", 18, "expected `,` or `]`, found the end"),
    ("account.tier in [-'gold']", 19, "expected an integer or a text, found a text"),
    ("customer.member in [true]", 21, "expected an integer or a text, found `true`"),
    ("[3] == [3]", 1, "expected a value, found `[`"),
    ("order.month[0] == 3", 12, "expected an operator or the end, found `[`"),
    ("size(lines) > 3", 1, "no function is called `size`; known: abs, max, min, lines.all, lines.count"),
    ("lines.map(l, l.quantity) > 3", 1, "no function is called `lines.map`"),
    ("order.all(l, true)", 1, "no function is called `order.all`"),
    ("1 + min(1) > 3", 5, "`min` takes 2 values, not 1"),
    ("abs(1, 2) > 3", 1, "`abs` takes 1 values, not 2"),
    ("max() > 3", 5, "expected a value, found `)`"),
    ("lines.all(true)", 11, "`true` is a reserved word, no name"),
    ("lines.all(l)", 12, "expected `,` and what to find of each `l`, found `)`"),
    ("lines.all(l, l.gift", 20, "expected `)`, found the end"),
    ("lines.all(l, lines.all(m, m.gift))", 14, "`lines.all` can't stand within another"),
    ("lines.all(l, l)", 14, "`l` is a whole line: name a field of it"),
    ("lines.all(l, line.gift)", 14, "the line is called `l` here: `l.gift`"),
    # fields
    ("order.net_minr > 3", 1, "no field is called `order.net_minr`; did you mean `order.net_minor`?"),
    ("order.net > 3", 1, "no field is called `order.net`; did you mean `order.net_minor`?"),
    ("true && zzz", 9, "no field is called `zzz`; known: account.tier, customer.member, customer.segment_a, order.any"),
    ("line.gift", 1, "`line.gift` is of one line: use a macro, as in `lines.exists(l, l.gift …)`"),
    ("lines.all(l, l.gift) && line.gift", 25, "`line.gift` is of one line: use a macro"),
    ("lines.all(l, l.gift) && l.gift", 25, "no field is called `l.gift`"),
    ("lines.all(l, l.gitf)", 14, "no field is called `line.gitf`; did you mean `line.gift`?"),
    ("lines.all(order, order.month == 3)", 18, "no field is called `line.month`"),
    ("lines > 3", 1, "no field is called `lines`"),
    # types
    ("order.month", 1, "a boolean has to stand here, and this is an integer"),
    ("account.tier", 1, "a boolean has to stand here, and this is a text"),
    ("customer.member && order.month", 20, "a boolean has to stand here, and this is an integer"),
    ("order.month || customer.member", 1, "a boolean has to stand here, and this is an integer"),
    ("!order.month", 2, "a boolean has to stand here, and this is an integer"),
    ("-customer.member > 3", 2, "an integer has to stand here, and this is a boolean"),
    ("order.month + customer.member > 3", 15, "an integer has to stand here, and this is a boolean"),
    ("'a' + 'b' == 'ab'", 1, "an integer has to stand here, and this is a text"),
    ("order.month > 'x'", 13, "`>` compares two of one type, and these are an integer and a text"),
    ("customer.member == 1", 17, "`==` compares two of one type, and these are a boolean and an integer"),
    ("account.tier < 'gold'", 14, "`<` orders integers, and these are not"),
    ("customer.member >= false", 17, "`>=` orders integers, and these are not"),
    ("1 < order.month < 3", 17, "`<` compares two of one type, and these are a boolean and an integer"),
    ("customer.member in [1]", 17, "`in` asks of integers and texts, and this is a boolean"),
    ("order.month in [3, 'x']", 20, "an integer is asked of, and this is not"),
    ("order.store in ['x', 3]", 22, "a text is asked of, and this is not"),
    ("(customer.member ? 1 : true) > 3", 24, "an integer has to stand here, and this is a boolean"),
    ("order.month ? true : false", 1, "a boolean has to stand here, and this is an integer"),
    ("(customer.member ? 'a' : 'b') == 'a'", 20, "`? :` chooses between integers or booleans"),
    ("abs('x') > 3", 5, "an integer has to stand here, and this is a text"),
    ("lines.sum(l, l.gift) > 3", 14, "an integer has to stand here, and this is a boolean"),
    ("lines.count(l, l.quantity) > 3", 16, "a boolean has to stand here, and this is an integer"),
    # codes of an enumeration
    ("account.tier == 'glod'", 17, '`account.tier` is never "glod"; did you mean "gold"?'),
    ("'glod' != account.tier", 1, '`account.tier` is never "glod"; did you mean "gold"?'),
    ("account.tier in ['gold', 'sliver']", 26, '`account.tier` is never "sliver"; did you mean "silver"?'),
    ("order.channel == 'post'", 18, '`order.channel` is never "post"; it is one of "web", "app"'),
    # values
    ("order.any + 1 > 0", 11, "from -9223372036854775807 to 9223372036854775808, and integers have 64 bits"),
    ("order.any - 1 > 0", 11, "integers have 64 bits"),
    ("-order.any > 0", 1, "integers have 64 bits"),
    ("abs(order.any) > 0", 1, "integers have 64 bits"),
    ("1 + abs(order.any) > 0", 5, "integers have 64 bits"),
    ("order.net_minor * order.net_minor > 0", 17, "from 0 to 1000000000000000000000000, and integers have 64 bits"),
    ("order.net_minor * 1000 * 10000 / 1000 > 0", 24, "integers have 64 bits"),
    ("order.any / -1 > 0", 11, "integers have 64 bits"),
    ("order.any % -1 > 0", 11, "integers have 64 bits"),
    ("lines.sum(l, l.net_minor * 1000000) > 0", 1, "integers have 64 bits"),
    ("lines.sum(l, l.net_minor * 10000000) > 0", 26, "integers have 64 bits"),
    ("1000 / order.net_minor > 0", 6, "this could divide by 0: on the right stands 0 to 1000000000000"),
    ("1000 % order.balance > 0", 6, "this could divide by 0: on the right stands -1000 to 1000"),
    ("1 / 0 > 0", 3, "this could divide by 0: on the right stands 0"),
    ("1000 / (order.month - 12) > 0", 6, "this could divide by 0"),
    # also where short circuit or a guard would not come to it: columns evaluate all of it
    ("order.net_minor != 0 && 1000 / order.net_minor > 3", 30, "this could divide by 0"),
    ("order.net_minor == 0 || 1000 / order.net_minor > 3", 30, "this could divide by 0"),
    ("(order.any > 9 ? 0 : order.any + 1) > 3", 32, "integers have 64 bits"),
    ("false && order.any + 1 > 3", 20, "integers have 64 bits"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "column", "message"), REFUSED, ids=[source[:60] for source, _, _ in REFUSED])
def test_it_is_refused_at_its_column(source: str, column: int, message: str) -> None:
    found = refusal(source).finding
    assert message in found.message
    assert (found.line, found.column) == (1, column)


def test_an_error_shows_the_line_and_a_caret() -> None:
    error = refusal('customer.member &&\r\n\taccount.tier == "glod" &&\r\n\ttrue')
    assert str(error) == (
        'line 2, column 18: `account.tier` is never "glod"; did you mean "gold"?\n'
        '  \taccount.tier == "glod" &&\n'
        "  \t                ^"
    )


def test_the_caret_stands_below_its_character_after_wide_and_combining_ones() -> None:
    error = refusal("order.store == '金卡e\u0301' && nope")
    assert error.finding.column == 26
    assert error.finding.shown.splitlines() == ["  order.store == '金卡e\u0301' && nope", "  " + " " * 26 + "^"]


def test_of_a_long_line_a_part_is_shown() -> None:
    error = refusal(f"{'true && ' * 30}nope && {'true && ' * 30}true")
    assert error.finding.column == 241
    text, caret = error.finding.shown.splitlines()
    assert text.startswith("  …")
    assert text.endswith("…")
    assert text[caret.index("^") :].startswith("nope")
    assert len(text) < 110


def test_what_can_not_be_printed_is_not() -> None:
    error = refusal("true && \x1b[31m")
    assert error.finding.shown.splitlines() == ["  true && �[31m", "          ^"]
    assert "U+001B" in error.finding.message


def test_an_error_survives_the_way_between_processes() -> None:
    error = refusal("order.month = 3")
    again = pickle.loads(pickle.dumps(error))
    assert again.finding == error.finding
    assert str(again) == str(error)


def test_a_document_s_validation_tells_it_with_its_path() -> None:
    class Rule(BaseModel):
        when: Annotated[str, AfterValidator(lambda source: str(parse(source, FIELDS)))]

    assert Rule(when="(order.month) == 3").when == "order.month == 3"
    with pytest.raises(ValidationError) as caught:
        Rule(when="order.month = 3")
    (problem,) = caught.value.errors()
    assert problem["loc"] == ("when",)
    assert problem["msg"].startswith("Value error, line 1, column 13: `=` is no operator")


def test_what_it_has_to_give_is_checked_with_its_interval() -> None:
    assert parse("order.month * 2", FIELDS, Integers(0, 24)).gives == Integers(2, 24)
    error = refusal("order.month * 2", wants=Integers(0, 23))
    assert (error.finding.column, error.finding.message) == (
        13,
        "this gives 2 to 24, and only 0 to 23 will do: bound it by min(…) and max(…)",
    )
    assert refusal("true", wants=Integers()).finding.message == ("an integer has to stand here, and this is a boolean")


def test_macros_stand_only_where_there_are_lines() -> None:
    message = refusal("lines.exists(l, l.gift)", OF_LINE).finding.message
    assert message == "`lines.exists` can't stand here: there are no lines, or this is about one line"


# ── how much ──────────────────────────────────────────────────────────────────────────────────────────────────────


def nested(inner: str, times: int) -> str:
    """As deep in the grammar as parentheses go: each level has an operator of each precedence before the next."""
    for _ in range(times):
        inner = f"(true == (1 + 2 * -({inner} ? 1 : 2) < 3))"
    return inner


@pytest.fixture
def few_frames() -> Iterator[None]:
    """Python's recursion ends 450 calls from here: a host may have used as many before."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 450)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("true" + " " * SOURCE_MAX, f"at most {SOURCE_MAX} characters"),
        ("(" * 5000 + "true" + ")" * 4000, f"nested deeper than {NESTING_MAX} levels"),
        ("(" * 9000, f"nested deeper than {NESTING_MAX} levels"),
        ("max(1, " * 1000 + "1" + ")" * 1000 + " > 0", f"nested deeper than {NESTING_MAX} levels"),
        ("true ? true : " * 700 + "true", f"nested deeper than {NESTING_MAX} levels"),
        ("!" * 9000 + "true", f"more than {DEPTH_MAX} operators"),
        ("-" * 9000 + "1 > 0", f"more than {DEPTH_MAX} operators"),
        ("1" + "+1" * 4000 + " > 0", f"more than {DEPTH_MAX} operators"),
        ("true" + "==true" * 1600, f"more than {DEPTH_MAX} operators"),
        ("true" + "&&true" * 1600, f"at most {NODES_MAX} parts"),
        (f"order.month in [{'1,' * 4000}1]", f"at most {NODES_MAX} parts"),
        ("true == " + nested("customer.member", 32), f"nested deeper than {NESTING_MAX} levels"),
        ("!" * 9 + nested("customer.member", 10), f"more than {DEPTH_MAX} operators"),
    ],
    ids=lambda value: value[:20],
)
def test_too_much_is_refused_and_reaches_no_limit_of_python(few_frames: None, source: str, message: str) -> None:
    assert message in refusal(source).finding.message


AT_LEAST = 32  # what CEL's specification demands


@pytest.mark.parametrize(
    "source",
    [
        "(" * AT_LEAST + "true" + ")" * AT_LEAST,
        " || ".join(["customer.member"] * AT_LEAST),
        " && ".join(["customer.member"] * AT_LEAST),
        " == ".join(["customer.member"] * AT_LEAST),
        " + ".join(["order.month"] * AT_LEAST) + " > 0",
        " - ".join(["order.month"] * AT_LEAST) + " > 0",
        "1" + " * 1" * AT_LEAST + " > 0",
        f"order.month in [{', '.join(map(str, range(1, AT_LEAST + 1)))}]",
        "customer.member ? true : " * AT_LEAST + "false",
        "!" * (DEPTH_MAX - 1) + "customer.member",
        "true || " * (NODES_MAX - 2) + "true",
        nested("customer.member", 10),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_allowed_compiles_and_runs_far_from_python_s_limits(few_frames: None, source: str) -> None:
    expression = parse(source, FIELDS)
    assert parse(str(expression), FIELDS) == expression
    assert run(expression, {"customer.member": True, "order.month": 3}) in (True, False)


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("short", "explicit"),
    [
        ("1 + 2 * 3", "1 + (2 * 3)"),
        ("1 * 2 + 3", "(1 * 2) + 3"),
        ("9 - 3 - 2", "(9 - 3) - 2"),
        ("9 / 3 * 2 % 5", "((9 / 3) * 2) % 5"),
        ("-a.b * 2", "(-a.b) * 2"),
        ("1 - -2", "1 - (-2)"),
        ("1 + 2 < 3 * 4", "(1 + 2) < (3 * 4)"),
        ("1 < 2 == 3 < 4", "((1 < 2) == 3) < 4"),
        ("1 in [1] == true", "(1 in [1]) == true"),
        ("1 + 1 in [2]", "(1 + 1) in [2]"),
        ("!a.b == c.d", "(!a.b) == c.d"),
        ("a.b || c.d && e.f", "a.b || (c.d && e.f)"),
        ("a.b && c.d || e.f && g.h", "(a.b && c.d) || (e.f && g.h)"),
        ("a.b == 1 && c.d != 2", "(a.b == 1) && (c.d != 2)"),
        ("a.b ? 1 : c.d ? 2 : 3", "a.b ? 1 : (c.d ? 2 : 3)"),
        ("a.b || c.d ? 1 + 1 : 2 + 2", "(a.b || c.d) ? (1 + 1) : (2 + 2)"),
    ],
)
def test_precedence_and_associativity_are_those_of_cel(short: str, explicit: str) -> None:
    assert read(short) == read(explicit)
    assert str(read(explicit)) == short


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (" ( order . month )==  03 ", "order.month == 3"),
        ("lines.exists(l, l.gift && order.month == 3)", "lines.exists(line, line.gift && order.month == 3)"),
        ("account.tier in ['gold', \"silver\",]", 'account.tier in ["gold", "silver"]'),
        ("a.b && (c.d && e.f)", "a.b && (c.d && e.f)"),
        ("(a.b && c.d) && e.f", "(a.b && c.d) && e.f"),
        ("1 - (2 - 3)", "1 - (2 - 3)"),
        ("!(!a.b)", "!!a.b"),
        ("- - 5", "--5"),
        ("-(5)", "-(5)"),
        ("(a.b ? 1 : 2) ? 3 : 4", "(a.b ? 1 : 2) ? 3 : 4"),
        ("true == (1 == 2)", "true == (1 == 2)"),
        ("max(1,min(2,3))", "max(1, min(2, 3))"),
        (r"'\'\"\x41\X41\u00e9\U0001f600\101\n\a'", '"\'\\"AAé😀A\\u000a\\u0007"'),
        ("'\x7f\x85\u2028'", '"\\u007f\\u0085\u2028"'),
    ],
)
def test_the_canonical_text(written: str, canonical: str) -> None:
    assert str(read(written)) == canonical
    assert str(read(canonical)) == canonical


def test_the_name_of_the_line_and_where_things_stand_make_no_difference() -> None:
    one = parse("lines.all(l, l.quantity > 3)", FIELDS)
    two = parse("lines.all( item,\n (item.quantity)>3 )", FIELDS)
    assert one == two
    assert hash(one) == hash(two)
    assert one != parse("lines.all(l, l.quantity > 4)", FIELDS)
    assert parse("1 > 0", FIELDS) != parse("true", FIELDS)


def test_it_tells_the_fields_that_it_reads_and_a_layout_holds_them_by_name() -> None:
    one = parse("order.month == 3 && lines.exists(l, l.gift || l.quantity > order.month)", FIELDS)
    two = parse("account.tier == 'gold'", FIELDS)
    assert one.fields() == {"order.month", "line.gift", "line.quantity"}
    assert layout_of([one, two]) == Layout(("account.tier", "order.month"), ("line.gift", "line.quantity"))
    assert layout_of([]) == Layout((), ())


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("7 / 2", 3),
        ("-7 / 2", -4),
        ("7 / -2", -4),
        ("-7 / -2", 3),
        ("7 % 3", 1),
        ("-7 % 3", 2),
        ("7 % -3", -2),
        ("-7 % -3", -1),
        ("-9223372036854775808", INT_MIN),
        ("9223372036854775807", INT_MAX),
        ("007", 7),
        ("--5", 5),
        ("abs(-3) + max(1, 2) * min(3, 4)", 9),
        ("true ? 1 : 2", 1),
        ("false ? 1 : 2", 2),
    ],
)
def test_numbers(source: str, value: int) -> None:
    assert number(source) == value


BASKET: list[Values] = [
    {"line.net_minor": 500, "line.quantity": 2, "line.category": "toys", "line.gift": False},
    {"line.net_minor": -200, "line.quantity": 1, "line.category": "books", "line.gift": True},
    {"line.net_minor": 300, "line.quantity": 5, "line.category": "books", "line.gift": False},
]


@pytest.mark.parametrize(
    ("source", "of_basket", "of_nothing"),
    [
        ("lines.sum(l, l.net_minor) == 600", True, False),
        ("lines.sum(l, l.category == 'books' ? l.net_minor : 0) == 100", True, False),
        ("lines.count(l, l.category == 'books') == 2", True, False),
        ("lines.exists(l, l.quantity > 4)", True, False),
        ("lines.exists(l, l.quantity > 5)", False, False),
        ("lines.all(l, l.quantity > 0 && l.net_minor > -201)", True, True),
        ("lines.all(l, l.gift)", False, True),
        ("lines.exists(order, order.gift)", True, False),
    ],
)
def test_macros_over_lines(source: str, of_basket: bool, of_nothing: bool) -> None:
    expression = parse(source, MAYBE_EMPTY)
    assert run(expression, {}, BASKET) is of_basket
    assert run(expression, {}, []) is of_nothing


@given(text=st.text(max_size=20), other=st.text(max_size=20))
@example(text="'", other='"')
@example(text="\\", other="\\\\")
@example(text="{0}\x00\n", other="')]}")
def test_any_text_can_be_written_and_means_itself(text: str, other: str) -> None:
    expression = parse(str(Compare("==", Field("order.store"), Quoted(text))), FIELDS)
    assert run(expression, {"order.store": text}) is True
    assert run(expression, {"order.store": other}) is (text == other)
    among = parse(str(In(Field("order.store"), (Quoted(text), Quoted("x")))), FIELDS)
    assert run(among, {"order.store": text}) is True


@pytest.mark.parametrize(
    ("source", "gives"),
    [
        ("order.month", Integers(1, 12)),
        ("-order.month", Integers(-12, -1)),
        ("order.month - order.month", Integers(-11, 11)),
        ("order.balance * order.month", Integers(-12000, 12000)),
        ("order.balance / order.month", Integers(-1000, 1000)),
        ("order.balance / -3", Integers(-334, 333)),
        ("100 / order.month", Integers(8, 100)),
        ("-100 / order.month", Integers(-100, -9)),
        ("order.balance % 7", Integers(0, 6)),
        ("order.balance % -7", Integers(-6, 0)),
        ("order.month % 100", Integers(1, 12)),
        ("order.month % 5", Integers(0, 4)),
        ("5 % order.month", Integers(0, 5)),
        ("-order.month % -100", Integers(-12, -1)),
        ("-5 % -order.month", Integers(-5, 0)),
        ("abs(order.balance)", Integers(0, 1000)),
        ("abs(-order.month)", Integers(1, 12)),
        ("max(order.balance, 1)", Integers(1, 1000)),
        ("min(order.balance, order.month)", Integers(-1000, 12)),
        ("customer.member ? order.month : -1", Integers(-1, 12)),
        ("lines.sum(l, l.quantity)", Integers(1, 100_000)),
        ("lines.sum(l, -l.quantity)", Integers(-100_000, -1)),
        ("lines.sum(l, l.net_minor)", Integers(-100 * 10**6, 100 * 10**12)),
        ("lines.count(l, l.gift)", Integers(0, 100)),
        ("lines.count(l, true)", Integers(1, 100)),
        ("lines.count(l, false)", Integers(0, 0)),
        ("order.month > 12", Booleans(true=False)),
        ("order.month >= 1", Booleans(false=False)),
        ("order.month < 1 || order.month <= 12", Booleans(false=False)),
        ("customer.member && order.month == 13", Booleans(true=False)),
        ("!(order.month != 13)", Booleans(true=False)),
        ("order.month < 12", Booleans()),
        ("order.month < 13", Booleans(false=False)),
        ("order.month > 1", Booleans()),
        ("order.month > 0", Booleans(false=False)),
        ("order.month <= 1", Booleans()),
        ("order.month >= 12", Booleans()),
        ("order.month in [3, 4]", Booleans()),
        ("order.month in [13, 14]", Booleans(true=False)),
        ("customer.member || order.month in [13, 14]", Booleans()),
        ("account.tier == 'gold'", Booleans()),
        ("account.tier == order.channel", Booleans(true=False)),
        ("customer.member == true", Booleans()),
        ("lines.exists(l, l.quantity > 0)", Booleans(false=False)),
        ("lines.all(l, l.quantity > 1000)", Booleans(true=False)),
        ("customer.member ? true : order.month > 0", Booleans(false=False)),
    ],
)  # fmt: skip
def test_what_an_expression_can_give(source: str, gives: Possible) -> None:
    assert parse(source, FIELDS, type(gives)()).gives == gives


def test_of_no_lines_the_sum_is_0_and_all_is_true() -> None:
    assert parse("lines.sum(l, l.quantity)", MAYBE_EMPTY, Integers()).gives == Integers(0, 100_000)
    assert parse("lines.exists(l, true)", MAYBE_EMPTY).gives == Booleans()
    assert parse("lines.all(l, false)", MAYBE_EMPTY).gives == Booleans()
    none_at_all = Fields(TYPES, lines=Integers(0, 0))
    assert parse("lines.exists(l, true)", none_at_all).gives == Booleans(true=False)
    assert parse("lines.all(l, false)", none_at_all).gives == Booleans(false=False)


@pytest.mark.parametrize(
    ("source", "column", "message"),
    [
        ("order.month > 12", 13, "this is always false: on the left stands 1 to 12, on the right 12"),
        (
            "customer.member || order.month != 13",
            32,
            "this is always true: on the left stands 1 to 12, on the right 13",
        ),
        ("order.month in [12, 13]", 21, "on the left stands 1 to 12, which is never 13"),
        ("order.month in [3, 3]", 20, "this stands in the list before"),
        ("order.channel in ['web', 'app']", 15, 'this is always true: the list holds all of "web", "app"'),
        ("order.month % 2 in [0, 1]", 17, "this is always true: the list holds all of 0 to 1"),
        ("lines.exists(l, l.quantity < 1)", 28, "this is always false"),
        ("account.tier == order.channel", 14, "this is always false"),
    ],
)
def test_what_can_hardly_be_meant_is_a_warning(source: str, column: int, message: str) -> None:
    (warning,) = parse(source, FIELDS).warnings
    assert (warning.line, warning.column) == (1, column)
    assert message in warning.message


def test_what_can_be_meant_is_none() -> None:
    sources = ("order.month == 12 || customer.member", "account.tier != ''", "true", "order.store in ['a', 'b']")
    assert [parse(source, FIELDS).warnings for source in sources] == [()] * 4


@pytest.mark.parametrize("name", ["order", "lines.x", "if.x", "order.in", "order.größe", "order.", ".x", "order.2", ""])
def test_a_field_has_a_name_that_can_be_written(name: str) -> None:
    with pytest.raises(ValueError, match="can't name a field"):
        Fields({name: Integers()})


def test_a_type_holds_something() -> None:
    for wrong in (
        lambda: Integers(2, 1),
        lambda: Integers(0, INT_MAX + 1),
        lambda: Codes(()),
        lambda: Codes(("a", "a")),
    ):
        with pytest.raises(ValueError, match=r"interval|list of codes"):
            wrong()
    with pytest.raises(ValueError, match="lines"):
        Fields(TYPES, lines=Integers(-1, 3))
