"""Write the reference pages in docs/ from the code: `python -m tools.reference`. A test holds them up to date."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import tallybook
import tallybook.domain.access
from tallybook import cli
from tallybook.adapters.archive import columns as archive
from tallybook.adapters.clear_form import as_json, schemas
from tallybook.adapters.form import ENVELOPE_ARITY
from tallybook.archiving import ArchiveDesk, Scan
from tallybook.audit import AuditView
from tallybook.book import Book
from tallybook.commands import awaitable, command
from tallybook.customers import CustomerDesk
from tallybook.domain.errors import REFUSALS, TallybookError
from tallybook.domain.events import REGISTRY, Event, Metadata
from tallybook.erasures import ErasureDesk
from tallybook.exports import ExportDesk
from tallybook.follow import Follower
from tallybook.imports import ImportDesk
from tallybook.loyalty import LoyaltyDesk
from tallybook.policy import PolicyDesk
from tallybook.projecting import ProjectionsDesk
from tallybook.projections.backtest import Backtest
from tallybook.retention import RetentionDesk
from tallybook.rules import RulesDesk
from tallybook.tickets import TicketDesk
from tallybook.views import ProfilesView, TiersView
from tools import forms

DOCS = Path(__file__).parent.parent / "docs"
GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
NOTE = "<!-- Written by `python -m tools.reference`. Change the docstrings, not this page. -->\n\n"

DESKS: dict[str, type] = {
    "book.customers": CustomerDesk,
    "book.loyalty": LoyaltyDesk,
    "book.tickets": TicketDesk,
    "book.rules": RulesDesk,
    "book.policy": PolicyDesk,
    "book.imports": ImportDesk,
    "book.exports": ExportDesk,
    "book.profiles": ProfilesView,
    "book.tiers": TiersView,
    "book.audit": AuditView,
    "book.erasures": ErasureDesk,
    "book.projections": ProjectionsDesk,
    "book.retention": RetentionDesk,
    "book.archive": ArchiveDesk,
    "Scan": Scan,
    "Backtest": Backtest,
    "Follower": Follower,
    "Event": Event,
    "Event.metadata": Metadata,
}


def public(owner: type) -> list[tuple[str, Any]]:
    """Public members that a class defines itself, in order of definition."""
    return [
        (name, member)
        for name, member in vars(owner).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, (property, awaitable, command)))
    ]


def _shown(default: Any) -> Any:
    # A function's repr holds an address; a parameter without a default stays without.
    return default if default is inspect.Parameter.empty or not callable(default) else ...


def _signature(member: Any) -> str:
    function = member.function if isinstance(member, command) else getattr(member, "__wrapped__", member)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_shown(parameter.default))
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "work")
    ]
    return str(inspect.Signature(parameters)).replace("Ellipsis", "…")


def _doc(member: Any) -> str:
    return inspect.cleandoc(member.__doc__ or "")


def api() -> str:
    """The Python API."""
    lines = [
        NOTE + "# Python API\n",
        "```python\nimport tallybook\n```\n",
        f"`tallybook` exports: {', '.join(f'`{name}`' for name in tallybook.__all__)}.\n",
        "Methods marked *command* record events: they need `book.acting(…)`, take `effective_at` (when it happened; "
        "default now) and `command_id` (repeating a command with its id gives the same result once), and have an "
        "awaitable form: `await book.customers.register.aio(…)`.\n",
        f"## `tallybook.open{_signature(tallybook.open)}`\n",
        _doc(tallybook.open) + "\n",
        f"## `tallybook.synth{_signature(tallybook.synth)}`\n",
        _doc(tallybook.synth) + "\n",
        "## `Book`\n",
        _doc(Book) + "\n",
    ]
    for name, member in public(Book):
        lines += _entry("book", name, member)
    for path, desk in DESKS.items():
        lines += [f"## `{path}`\n", _doc(desk) + "\n"]
        for name, member in public(desk):
            lines += _entry(path, name, member)
    lines.append("## What they return\n")
    for module in (
        "customers",
        "loyalty",
        "tickets",
        "policy",
        "erasures",
        "views",
        "audit",
        "imports",
        "exports",
        "retention",
        "subject_report",
        "synthesis",
        "adapters.archive.manifest",
    ):
        for name, kind in vars(__import__(f"tallybook.{module}", fromlist=["_"])).items():
            if name.startswith("_") or not hasattr(kind, "__dataclass_fields__"):
                continue
            if kind.__module__ == f"tallybook.{module}":
                fields = ", ".join(f"`{one}`" for one in kind.__dataclass_fields__)
                lines += [f"- **`{name}`**: {fields}. {' '.join(_doc(kind).split())}"]
    return "\n".join(lines) + "\n"


def _entry(path: str, name: str, member: Any) -> list[str]:
    if isinstance(member, property):
        is_command = "BoundCommand" in str(get_type_hints(member.fget).get("return"))
        return [f"### `{path}.{name}`{' — *command*' if is_command else ''}\n", _doc(member) + "\n"]
    mark = " — *command*" if isinstance(member, command) else ""
    return [f"### `{path}.{name}{_signature(member)}`{mark}\n", _doc(member) + "\n"]


def errors() -> str:
    """The error tree and the codes of refusals."""
    tree = inspect.cleandoc(sys.modules["tallybook.domain.errors"].__doc__ or "")
    rows = [f"| `{code}` | `{one.error.__name__}` | {one.meaning} | {one.remedy} |" for code, one in REFUSALS.items()]
    kinds = [f"- `{kind.__name__}`: {' '.join(_doc(kind).split())}" for kind in _family(TallybookError)]
    return (
        NOTE
        + "# Errors\n\n"
        + tree
        + "\n\n## Classes\n\n"
        + "\n".join(kinds)
        + "\n\n## Codes of refusals, in order of precedence\n\n| code | error | means | remedy |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _family(kind: type) -> list[type]:
    family = [kind]
    child: type
    for child in kind.__subclasses__():
        family += _family(child)
    return family


def events() -> str:
    """The catalogue of stored events."""
    held = forms.kept(GOLDEN)["events"]
    lines = [
        NOTE + "# Events\n",
        "Every event that a book can hold, by its stored name. How they are stored, and how an event changes, is in "
        "[stored-form.md](stored-form.md).\n",
        "A *fact* is what the world caused, a *decision* what a rule derived from facts. `place` is the index in the "
        "stored array; what stands before is the same for all events: schema version, key id, event id, effective "
        "time, subject and metadata (recorded time, actor, purpose, on-behalf-of, channel, application, correlation, "
        "causation and command id). A *sealed* field is personal: it is encrypted under its subject's key in the "
        "array's last item, and `place` is its bit in the mask. All others are in the clear, and for ever. `?` means: "
        "or nil; `[…]` a list; `{…}` an array of those fields; an `id` is 16 bytes.\n",
        "| stored name | version | kind |",
        "|---|---|---|",
    ]
    for name, schema in sorted(REGISTRY.items()):
        shape = forms.shape_of(schema.event_class)
        lines.append(f"| [`{name}`](#{_anchor(name)}) | {schema.event_class.schema_version} | {shape['kind']} |")
    for name, schema in sorted(REGISTRY.items()):
        kind = schema.event_class
        lines += [
            f"\n## `{name}`\n",
            f"*{forms.shape_of(kind)['kind']}, version {kind.schema_version}.* {_line(kind)}\n",
        ]
        lines += _fields(forms.shape_of(kind))
        for version, shape in sorted(held.get(name, {}).items(), key=lambda pair: int(pair[0]), reverse=True):
            if int(version) != kind.schema_version:
                lines += [f"\nVersion {version} was a {shape['kind']}:\n", *_fields(shape)]
    return "\n".join(lines) + "\n"


def _fields(shape: forms.Shape) -> list[str]:
    if not shape["clear"] and not shape["sealed"]:
        return ["It has no fields of its own."]
    rows = ["| place | field | type | personal |", "|---|---|---|---|"]
    for place, field in enumerate(shape["clear"], ENVELOPE_ARITY):
        name, _, kind = field.partition(": ")
        rows.append(f"| {place} | {name} | `{kind}` | |")
    for bit, field in enumerate(shape["sealed"]):
        name, _, rest = field.partition(": ")
        kind, marks = rest.split(", ", 1)
        rows.append(f"| sealed, bit {bit} | {name} | `{kind}` | {marks} |")
    return rows


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _line(member: Any) -> str:
    return " ".join(_doc(member).split())


def command_line() -> str:
    """The command line."""
    lines = [
        NOTE + "# Command line\n",
        "Needs the extra `cli`: `pip install 'tallybook[cli]'`. Answers go to stdout, progress and errors to stderr. "
        "Exit status: 0 done, 1 the check failed, 2 wrong use.\n",
    ]
    _describe(cli.the_line(), "tallybook", lines)
    return "\n".join(lines) + "\n"


def _describe(one: Any, path: str, lines: list[str]) -> None:
    if hasattr(one, "commands"):
        # Options of all commands stand before the command; the shell's completion is Typer's own.
        shared = [parameter for parameter in one.params if parameter.envvar]
        if shared:
            lines += [f"## `{path}`\n", f"{one.callback.__doc__}\n", *map(_option, shared), ""]
        commands: dict[str, Any] = one.commands
        child: Any
        for name, child in commands.items():
            _describe(child, f"{path} {name}", lines)
        return
    arguments = " ".join(_metavar(parameter) for parameter in one.params if parameter.param_type_name == "argument")
    lines += [f"## `{path}{' ' + arguments if arguments else ''}`\n", f"{one.help}\n"]
    for parameter in one.params:
        if parameter.param_type_name == "option":
            lines.append(_option(parameter))
        elif getattr(parameter, "help", None):
            lines.append(f"- `{_metavar(parameter)}`: {parameter.help}")
    lines.append("")


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    variable = f" (or `{parameter.envvar}`)" if parameter.envvar else ""
    return f"- {names}{variable}: {parameter.help or 'default ' + str(parameter.default)}"


def _metavar(argument: Any) -> str:
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def archive_columns() -> str:
    """The columns of the archive."""
    made = archive.columns()
    schema = archive.arrow_schema()
    lines = [
        NOTE + "# Columns of the archive\n",
        f"Schema version {archive.SCHEMA_VERSION}. What the archive is, and how it is asked, is in "
        "[archive.md](archive.md). All columns are there for every event, and null where its kind has no such field.\n",
        "## Of every event\n",
        "| column | Arrow type | is |",
        "|---|---|---|",
        *(f"| `{name}` | `{schema.field(name).type}` | {text} |" for name, text in archive.ENVELOPE_COLUMNS.items()),
        "\n## Of kinds of events\n",
        "An *id* is `struct<position: int64, number: int32, id: fixed_size_binary[16]>`.\n",
        "| column | Arrow type | field of |",
        "|---|---|---|",
    ]
    reference = str(archive.arrow_leaf(archive.ID))
    for column in made.columns:
        kind = str(schema.field(column.name).type).replace(reference, "id")
        of = ", ".join(f"`{name}`" if field == column.name else f"`{name}` ({field})" for name, field in column.kinds)
        lines.append(f"| `{column.name}` | `{kind}` | {of} |")
    return "\n".join(lines) + "\n"


VERIFIER = "../src/tallybook/data/verify.py"
SHAPES = re.compile(r"^SHAPES: [^\n]*\n(.*?)^}\n", re.MULTILINE | re.DOTALL)


def verifier() -> str:
    """The standalone verifier, with the digests of all shapes of events. Those of older versions stay."""
    text = (DOCS / VERIFIER).read_text(encoding="utf-8")
    table = SHAPES.search(text)
    assert table is not None
    known: dict[str, dict[int, str]] = ast.literal_eval(f"{{{table[1]}}}")
    for name, shape in json.loads(as_json(schemas()))["events"].items():
        told = json.dumps(shape, separators=(",", ":"))
        known.setdefault(name, {})[shape["schema_version"]] = hashlib.sha256(told.encode()).hexdigest()
    lines = [
        f'    "{name}": {{{", ".join([_shape(*one) for one in sorted(versions.items())])}}},\n'
        for name, versions in sorted(known.items())
    ]
    return text[: table.start(1)] + "".join(lines) + text[table.end(1) :]


def _shape(version: int, digest: str) -> str:
    return f'{version}: "{digest}"'


PAGES: dict[str, Callable[[], str]] = {
    VERIFIER: verifier,
    "api.md": api,
    "errors.md": errors,
    "events.md": events,
    "cli.md": command_line,
    "archive-columns.md": archive_columns,
}


def main() -> None:
    """Write all pages."""
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
