"""Reports: one model, and its forms for machines and people: JSON, CSV, and one HTML page that needs nothing else.

Whatever a cell holds is shown as text: escaped in HTML, whose policy lets no script run but the page's own, and kept
from being taken for a formula in CSV.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from .bulk import rarely_collecting
from .outputs import new_file, new_folder


class Kind(StrEnum):
    """What a column holds, and so how it is written.

    text; id (UUID or text); ids (a sequence of these); time (ISO 8601 in UTC); count (int); share (part, whole: two
    ints); money (minor units, currency). None is an empty cell.
    """

    TEXT = "text"
    ID = "id"
    IDS = "ids"
    TIME = "time"
    COUNT = "count"
    SHARE = "share"
    MONEY = "money"


NUMERIC = (Kind.COUNT, Kind.SHARE, Kind.MONEY)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, for machines and people alike, and what it holds."""

    name: str
    kind: Kind = Kind.TEXT


class ChartKind(StrEnum):
    """bars: a label and a number or two each; line: the same in an order; matrix: a label, and a number for each
    column."""

    BARS = "bars"
    LINE = "line"
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True)
class Chart:
    """How rows are drawn: `label` names the column of labels, `values` those of numbers (count or share). `caption` and
    `names` of the values are made from those, where they are not given."""

    kind: ChartKind
    label: str
    values: tuple[str, ...]
    caption: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that comes first: its name, what it is, and what goes with it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, some text, figures, and at most one table with its charts. Each row has a cell for each column."""

    title: str
    text: str = ""
    columns: tuple[Column, ...] = ()
    rows: Sequence[Sequence[Any]] = ()
    chart: Chart | tuple[Chart, ...] | None = None
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a review found. `made_of`: what it was made of (book, checkpoint, question), to make it again."""

    title: str
    generated_at: str
    made_of: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()

    def json(self) -> str:
        """For machines: the same report gives the same bytes."""
        return as_json(self)

    def html(self) -> str:
        """One page that needs nothing else."""
        return as_html(self)

    def csv(self, place: Path) -> list[Path]:
        """Write the tables into a folder, or an archive `NAME.zip`, which are new; the files. Raises BookError."""
        return write_csv(self, place)


# ── cells ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
"""Control characters, which a terminal obeys, and those that turn the direction of what stands around them."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def visible(text: str) -> str:
    """A text in which nothing can hide or give orders to a terminal: control characters and those of direction stand as
    `\\u001b`, but for line ends and tabs. In a JSON text, that is the same value.
    """
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(value: Any, kind: Kind) -> str:
    """A cell as people read it."""
    if value is None:
        return ""
    if kind is Kind.COUNT and isinstance(value, int):
        return f"{value:,}"
    if kind is Kind.SHARE and isinstance(value, tuple):
        part, whole = value
        return f"{part / whole:.1%}" if whole else ""
    if kind is Kind.MONEY and isinstance(value, tuple):
        minor, currency = value
        return f"{'-' if minor < 0 else ''}{abs(minor) // 100:,}.{abs(minor) % 100:02} {currency}"
    if kind is Kind.IDS:
        value = " ".join(map(str, value))
    return visible(str(value))


def machine(value: Any, kind: Kind) -> Any:
    """A cell for machines: JSON values only."""
    if kind is Kind.SHARE and isinstance(value, tuple):
        return {"part": value[0], "whole": value[1]}
    if kind is Kind.MONEY and isinstance(value, tuple):
        return {"minor": value[0], "currency": value[1]}
    if kind is Kind.IDS and value is not None:
        return [str(one) for one in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(value))  # which no encoding takes


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_json(report: Report) -> str:
    """The report as JSON: the same report gives the same bytes."""
    answer = {
        "title": report.title,
        "generated_at": report.generated_at,
        "made_of": dict(report.made_of),
        "sections": [
            {
                "title": section.title,
                "text": section.text,
                **({"figures": [asdict(one) for one in section.figures]} if section.figures else {}),
                "columns": [{"name": one.name, "kind": one.kind.value} for one in section.columns],
                "rows": [
                    [machine(cell, one.kind) for cell, one in zip(row, section.columns, strict=True)]
                    for row in section.rows
                ],
            }
            for section in report.sections
        ],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

_FORMULA = re.compile(
    "\\s*[-=+@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
    "\N{FULLWIDTH COMMERCIAL AT}]"
)


def as_csv(section: Section) -> str:
    """A section's table as RFC 4180 has it. What a spreadsheet would take for a formula begins with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([_csv_cell(one.name, Kind.TEXT) for one in section.columns])
    for row in section.rows:
        writer.writerow([_csv_cell(cell, one.kind) for cell, one in zip(row, section.columns, strict=True)])
    return buffer.getvalue()


def write_csv(report: Report, place: Path) -> list[Path]:
    """Write the tables: one into a file `NAME.csv`, several into a folder, or into an archive `NAME.zip`; the files.

    They are new, and for their owner's eyes only. Raises BookError; ValueError for several tables and the name of one
    file.
    """
    tables = [section for section in report.sections if section.columns]
    if place.suffix == ".csv":
        if len(tables) != 1:
            raise ValueError(f"{place}: the report has {len(tables)} tables; name a folder, or a file ending in .zip.")
        with new_file(place) as part:
            part.write_bytes(as_csv(tables[0]).encode())
        return [place]
    names = [f"{number:02}-{slug(section.title)}.csv" for number, section in enumerate(tables, 1)]
    if place.suffix == ".zip":
        with new_file(place) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, section in zip(names, tables, strict=True):
                # A time of its own would make each archive of the same report another file.
                archive.writestr(zipfile.ZipInfo(name), as_csv(section), zipfile.ZIP_DEFLATED)
        return [place]
    with new_folder(place) as part:
        for name, section in zip(names, tables, strict=True):
            (part / name).write_bytes(as_csv(section).encode())
    return [place / name for name in names]


def slug(title: str) -> str:
    """A title as a part of a file name or of an address within the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "table"


def _csv_cell(value: Any, kind: Kind) -> str:
    if kind is Kind.COUNT and isinstance(value, int):
        return str(value)
    if kind is Kind.SHARE and isinstance(value, tuple):
        return f"{value[0] / value[1]:.6f}" if value[1] else ""
    if kind is Kind.MONEY and isinstance(value, tuple):
        return shown(value, kind).replace(",", "")
    text = shown(value, kind)
    return f"'{text}" if _FORMULA.match(text) else text


# ── HTML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf7;--card:#fff;--ink:#1d2433;--soft:#5d6575;--line:#e3e1da;--head:#f4f2ec;
--mark:#1f5f8b;--bar:#2f7fb5;--other:#85796a;--heat:47,127,181}
@media (prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1a2029;--ink:#e6e9ef;--soft:#9aa4b4;--line:#2c3541;
--head:#202833;--mark:#8cc4ea;--bar:#5aa9dc;--other:#b3a68f;--heat:90,169,220}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.2rem 1.4rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:0 0 .35rem;overflow-wrap:anywhere}
p{margin:.2rem 0 .8rem;max-width:75ch;overflow-wrap:anywhere;white-space:pre-line}
.when{color:var(--soft);margin-bottom:1rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1.1rem;margin:0 0 1.4rem;font-size:.86rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,Menlo,Consolas,monospace}
nav{margin:0 0 1.6rem;display:flex;flex-wrap:wrap;gap:.35rem .5rem}
nav a{color:var(--mark);text-decoration:none;border:1px solid var(--line);border-radius:99px;padding:.1rem .7rem;
font-size:.85rem;background:var(--card)}
nav a:hover,nav a:focus{border-color:var(--mark)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.1rem 1.2rem;margin:0 0 1.1rem}
.tools{display:flex;gap:.8rem;align-items:center;margin:.4rem 0 .5rem;font-size:.85rem;color:var(--soft);
flex-wrap:wrap}
.tools input{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:6px;
padding:.25rem .6rem;min-width:0;width:16rem;max-width:100%}
.scroll{overflow-x:auto;max-height:42rem;border:1px solid var(--line);border-radius:7px}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{padding:.38rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{position:sticky;top:0;background:var(--head);font-weight:600;white-space:nowrap;z-index:1}
th button{all:unset;cursor:pointer;display:inline-block}
th button:focus-visible{outline:2px solid var(--mark);outline-offset:2px}
th[aria-sort=ascending] button::after{content:" \\25b2";font-size:.7em}
th[aria-sort=descending] button::after{content:" \\25bc";font-size:.7em}
td{overflow-wrap:anywhere;min-width:6.5rem;white-space:pre-wrap}
.long{min-width:17rem}.short{min-width:0;white-space:nowrap}
td.id{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.92em;min-width:9.5rem}
.time{font-variant-numeric:tabular-nums;white-space:nowrap;min-width:0}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:0}
tbody tr:hover td{background:var(--head)}
.none{color:var(--soft);font-style:italic}
figure{margin:.4rem 0 1rem}
figcaption{color:var(--soft);font-size:.84rem;margin-bottom:.3rem}figcaption span{white-space:nowrap}
.key{display:inline-block;width:1.5em;height:0;border-top:3px solid var(--bar);margin:0 .35em 0 .9em;
vertical-align:middle}
.key.first{border-top:3px dashed var(--other)}
.key.box{width:.85em;height:.85em;border:0;border-radius:2px;background:var(--bar)}.key.box.first{background:var(--other)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,29rem),1fr));gap:.4rem 2rem}
.figures{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;
padding:0;margin:.6rem 0 .9rem}
.figures li{border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem;background:var(--bg);
overflow-wrap:anywhere}
.figures span{display:block;color:var(--soft);font-size:.84rem}
.figures strong{display:block;font-size:1.4rem;line-height:1.3;font-weight:650;font-variant-numeric:tabular-nums}
svg{display:block;overflow:visible}
svg text{fill:var(--ink);font-size:12px}
svg .soft{fill:var(--soft)}
svg .tick{paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .grid{stroke:var(--line);stroke-width:1}
svg .bar{fill:var(--bar)}svg .line{fill:none;stroke:var(--bar);stroke-width:2;vector-effect:non-scaling-stroke}
svg .bar.first{fill:var(--other)}svg .line.first{stroke:var(--other);stroke-dasharray:6 4}
svg .area{fill:rgba(var(--heat),.14)}
svg .cell{fill:rgb(var(--heat))}
@media (max-width:560px){main{padding:1.2rem .7rem 3rem}section{padding:.9rem .8rem}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.35rem}h1{font-size:1.4rem}th,td{padding:.32rem .5rem}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--head:#eee}body{font-size:10pt}
main{max-width:none;padding:0}nav,.tools{display:none}section{border:0;padding:0;margin-bottom:1.2rem}
.scroll{overflow:visible;max-height:none;border:0}th{position:static}thead{display:table-header-group}
tr,figure{break-inside:avoid}h2{break-after:avoid}tr[hidden]{display:table-row}}
"""

_SCRIPT = """
for (const box of document.querySelectorAll('.scroll')) {
  const table = box.querySelector('table'), body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at, numeric) => {
    const given = row.cells[at].dataset.v ?? row.cells[at].textContent;
    return numeric ? (given === '' ? -Infinity : Number(given)) : given.toLocaleLowerCase();
  };
  heads.forEach((head, at) => {
    const button = document.createElement('button'), numeric = head.classList.contains('num');
    button.type = 'button'; button.textContent = head.textContent; head.replaceChildren(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(one => one.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const keyed = rows.map((row, was) => [value(row, at, numeric), was, row]);
      keyed.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (down ? -1 : 1) || a[1] - b[1]);
      body.append(...keyed.map(one => one[2]));
    });
  });
  if (rows.length > 8) {
    const make = name => document.createElement(name);
    const tools = make('div'), input = make('input'), said = make('span');
    tools.className = 'tools'; input.type = 'search'; input.placeholder = 'Filter rows';
    input.setAttribute('aria-label', 'Filter rows');
    const count = n => n.toLocaleString('en');
    const tell = n => { said.textContent = count(n) + ' of ' + count(rows.length) + ' rows'; };
    input.addEventListener('input', () => {
      const wanted = input.value.toLocaleLowerCase(); let n = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLocaleLowerCase().includes(wanted); n += !row.hidden;
      }
      tell(n);
    });
    tell(rows.length); tools.append(input, said); box.before(tools);
  }
}
"""


def _digest(text: str) -> str:
    return "'sha256-" + b64encode(sha256(text.encode()).digest()).decode() + "'"


# Only this page's own style and script, told by their digests; nothing is loaded, sent or framed.
_POLICY = (
    f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)

BARS_MAX = 40
"""A chart of bars shows so many; the table has them all."""
MATRIX_MAX = 14
LONG_CHARS, SHORT_CHARS = 48, 14
"""A column with texts longer than that is given more room; one whose texts are as short as this is not broken."""


def as_html(report: Report) -> str:
    """The report as one page without a reference to elsewhere: tables that sort and filter, charts, dark and light."""
    with rarely_collecting():
        anchors = [f"s{number}-{slug(one.title)}" for number, one in enumerate(report.sections, 1)]
        made = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in report.made_of.items())
        links = "".join(
            f'<a href="#{anchor}">{_text(one.title)}</a>' for anchor, one in zip(anchors, report.sections, strict=True)
        )
        return "".join(
            [
                '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="referrer" content="no-referrer">',
                f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head>\n<body><main>",
                f"<h1>{_text(report.title)}</h1>",
                f'<p class="when">Made {_text(report.generated_at)}</p>',
                f"<dl>{made}</dl>" if made else "",
                f"<nav>{links}</nav>" if len(report.sections) > 2 else "",
                *(_section(one, anchor) for one, anchor in zip(report.sections, anchors, strict=True)),
                f"</main><script>{_SCRIPT}</script></body></html>\n",
            ]
        )


def _text(value: Any, kind: Kind = Kind.TEXT) -> str:
    return escape(shown(value, kind), quote=True)


def _section(section: Section, anchor: str) -> str:
    parts = [f'\n<section id="{anchor}"><h2>{_text(section.title)}</h2>']
    if section.text:
        parts.append(f"<p>{_text(section.text)}</p>")
    if section.figures:
        parts.append(f'<ul class="figures">{"".join(map(_figure, section.figures))}</ul>')
    if section.columns and not section.rows:
        parts.append('<p class="none">Nothing.</p>')
    elif section.columns:
        charts = (section.chart,) if isinstance(section.chart, Chart) else section.chart or ()
        drawn = "".join(_chart(section, one) for one in charts)
        parts.append(f'<div class="charts">{drawn}</div>' if len(charts) > 1 else drawn)
        marks = [(_class(one, [row[at] for row in section.rows]), one.kind) for at, one in enumerate(section.columns)]
        heads = "".join(
            f'<th scope="col"{mark}>{_text(one.name.replace("_", " "))}</th>'
            for one, (mark, _) in zip(section.columns, marks, strict=True)
        )
        parts.append(f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>')
        for row in section.rows:
            cells = "".join(_cell(cell, mark, kind) for cell, (mark, kind) in zip(row, marks, strict=True))
            parts.append(f"\n<tr>{cells}</tr>")
        parts.append("</tbody></table></div>")
    parts.append("</section>")
    return "".join(parts)


def _figure(one: Figure) -> str:
    note = f"<span>{_text(one.note)}</span>" if one.note else ""
    return f"<li><span>{_text(one.name)}</span><strong>{_text(one.value)}</strong>{note}</li>"


_CLASSES = {Kind.ID: "id", Kind.IDS: "id", Kind.TIME: "time"}


def _class(column: Column, cells: Sequence[Any]) -> str:
    name = "num" if column.kind in NUMERIC else _CLASSES.get(column.kind, "")
    if not name and any(isinstance(cell, str) and len(cell) > LONG_CHARS for cell in cells):
        name = "long"
    elif not name and all(isinstance(cell, str) and len(cell) <= SHORT_CHARS for cell in cells):
        name = "short"
    return f' class="{name}"' if name else ""


def _cell(value: Any, mark: str, kind: Kind) -> str:
    if kind in NUMERIC:
        return f'<td{mark} data-v="{_sort_key(value)}">{_text(value, kind)}</td>'
    # Isolated, so that a value written from right to left, or its control characters, turns nothing else round.
    text = _text(value, kind)
    if kind is Kind.ID:
        text = text.replace(".", ".<wbr>").replace("_", "_<wbr>")  # where a name may be broken
    return f"<td{mark}><bdi>{text}</bdi></td>"


def _sort_key(value: Any) -> str:
    if isinstance(value, tuple):
        first, second = value
        number = first / second if isinstance(second, int) and second else first
        return f"{number}"
    return str(value) if isinstance(value, int) else ""


def _number(value: Any) -> float:
    if isinstance(value, tuple):
        return value[0] / value[1] if isinstance(value[1], int) and value[1] else 0.0
    return float(value or 0)


def _chart(section: Section, chart: Chart) -> str:
    names = [one.name for one in section.columns]
    label = names.index(chart.label)
    values = [names.index(name) for name in chart.values]
    kinds = [section.columns[index].kind for index in values]
    rows = [(shown(row[label], Kind.TEXT), [row[index] for index in values]) for row in section.rows]
    caption = chart.caption or f"{', '.join(chart.values)} by {chart.label}"
    series = chart.names or chart.values
    if chart.kind is ChartKind.BARS:
        if len(rows) > BARS_MAX:
            rows = sorted(rows, key=lambda row: -max(map(_number, row[1])))[:BARS_MAX]
            caption = f"{caption}: the {BARS_MAX} highest of {len(section.rows):,}"
        drawn = _bars(rows, kinds[0], caption)
    elif chart.kind is ChartKind.LINE:
        drawn = _line(rows, kinds[0], caption)
    else:
        caption = f"{caption}: the first {MATRIX_MAX} of {len(values)}" if len(values) > MATRIX_MAX else caption
        drawn = _matrix(series[:MATRIX_MAX], [(name, cells[:MATRIX_MAX]) for name, cells in rows[:60]], kinds, caption)
    told = _text(caption)
    if chart.kind is not ChartKind.MATRIX and len(series) > 1:
        box = " box" if chart.kind is ChartKind.BARS else ""
        for at, name in enumerate(series):
            told += f' <span><i class="key{box}{_FIRST * (at == 0)}"></i>{_text(name)}</span>'
    return f"<figure><figcaption>{told}</figcaption>{drawn}</figure>"


_FIRST = " first"
"""What marks the first of two series."""


def _clipped(text: str, most: int) -> str:
    return _text(text if len(text) <= most else f"{text[: most - 1]}…")


def _axis(values: Sequence[Any], kind: Kind) -> tuple[float, float, list[tuple[float, str]]]:
    """Where an axis begins and ends, which holds 0, and its ticks."""
    numbers = [_number(value) for value in values]
    most, least = max(numbers, default=0.0), min([0.0, *numbers])
    if kind is Kind.SHARE:
        top = 1.0 if most > 0.5 else 0.5 if most > 0.2 else 0.2
        return 0.0, top, [(top * step / 4, f"{top * step / 4:.0%}") for step in range(5)]
    step = 1
    while step * 5 < most - least:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    above = -int(-most // step) if most > 0 else 0
    below = -int(least // step)
    above = max(above, 1 - below)
    ticks = [(float(step * at), _shortened(step * at)) for at in range(-below, above + 1)]
    return float(-step * below), float(step * above), ticks


def _shortened(number: int) -> str:
    """A number of an axis, in few letters: neighbours must not run into each other where the page is narrow."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{letter}"
    return str(number)


def _opened(height: int, caption: str) -> str:
    return f'<svg width="100%" height="{height}" role="img" aria-label="{_text(caption)}">'


def _bars(rows: Sequence[tuple[str, Sequence[Any]]], kind: Kind, caption: str) -> str:
    _, top, ticks = _axis([max(0, *map(_number, cells)) for _, cells in rows], kind)
    # Of the width, a part is left for the number at a bar's end, as much as it needs where the page is narrow.
    letters = max([len(shown(value, kind)) for _, cells in rows for value in cells], default=0)
    reach = min(max(96 - 2.4 * letters, 50.0), 86.0)
    series = max([len(cells) for _, cells in rows], default=1)
    step = 20 + 16 * series
    height = step * len(rows)
    parts = [_opened(height + 22, caption)]
    for at, text in ticks:
        x = reach * at / top
        parts.append(f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{height}"/>')
        anchor = "start" if at == 0 else "middle"
        parts.append(f'<text class="soft" x="{x:.2f}%" y="{height + 16}" text-anchor="{anchor}">{text}</text>')
    for index, (name, cells) in enumerate(rows):
        y = step * index
        parts.append(f'<text x="0" y="{y + 13}">{_clipped(name, 46)}</text>')
        for number, value in enumerate(cells):
            width = reach * max(_number(value), 0.0) / top
            mark = _FIRST * (series > 1 and number == 0)
            at = y + 18 + 15 * number
            parts.append(f'<rect class="bar{mark}" x="0" y="{at}" width="{width:.2f}%" height="12" rx="2"/>')
            parts.append(f'<text class="soft" x="{width:.2f}%" dx="5" y="{at + 10}">{_text(value, kind)}</text>')
    return "".join(parts) + "</svg>"


def _line(rows: Sequence[tuple[str, Sequence[Any]]], kind: Kind, caption: str) -> str:
    bottom, top, ticks = _axis([value for _, cells in rows for value in cells], kind)
    height = 180
    last = max(len(rows) - 1, 1)

    def y_of(value: float) -> float:
        return height - (height - 16) * (value - bottom) / (top - bottom)

    parts = [_opened(height + 26, caption)]
    series = max([len(cells) for _, cells in rows], default=0)
    drawn: list[str] = []
    for number in range(series):
        points = " ".join(
            f"{1000 * index / last:.1f},{y_of(_number(cells[number])):.1f}" for index, (_, cells) in enumerate(rows)
        )
        if series == 1:
            zero, end = f"{y_of(0):.1f}", 1000 if len(rows) > 1 else 0
            drawn.append(f'<polygon class="area" points="0,{zero} {points} {end},{zero}"/>')
        drawn.append(f'<polyline class="line{_FIRST * (series > 1 and number == 0)}" points="{points}"/>')
    for at, _ in ticks:
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y_of(at):.1f}" y2="{y_of(at):.1f}"/>')
    parts.append(
        f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none">'
        f"{''.join(drawn)}</svg>"
    )
    parts.extend(f'<text class="soft tick" x="0" y="{y_of(at) - 3:.1f}">{text}</text>' for at, text in ticks)
    quarters = (0, 1, 2, 3, 4) if len(rows) > 9 else (0, 2, 4) if len(rows) > 4 else (0, 4)
    for index in sorted({round((len(rows) - 1) * part / 4) for part in quarters}):
        anchor = "start" if index == 0 else "end" if index == len(rows) - 1 else "middle"
        x = 100 * index / last
        text = _clipped(rows[index][0], 24)
        parts.append(f'<text class="soft" x="{x:.2f}%" y="{height + 18}" text-anchor="{anchor}">{text}</text>')
    return "".join(parts) + "</svg>"


def _matrix(
    names: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]], kinds: Sequence[Kind], caption: str
) -> str:
    most = max([_number(cell) for _, cells in rows for cell in cells], default=0.0) or 1.0
    margin = 24.0
    wide = (100 - margin) / max(len(names), 1)
    # In as many letters as fit where the page is narrow.
    letters = max(int(wide / 2), 4)
    parts = [_opened(30 * len(rows) + 24, caption)]
    for column, name in enumerate(names):
        x = margin + wide * (column + 0.5)
        parts.append(f'<text class="soft" x="{x:.2f}%" y="14" text-anchor="middle">{_clipped(name, letters)}</text>')
    for index, (name, cells) in enumerate(rows):
        y = 22 + 30 * index
        parts.append(f'<text x="0" y="{y + 18}">{_clipped(name, 14)}</text>')
        for column, cell in enumerate(cells):
            x = margin + wide * column
            # By the root: few are seen beside many.
            strength = 0.08 + 0.6 * (_number(cell) / most) ** 0.5 if _number(cell) > 0 else 0.03
            parts.append(
                f'<rect class="cell" x="{x:.2f}%" y="{y}" width="{wide * 0.97:.2f}%" height="27" rx="3" '
                f'fill-opacity="{strength:.2f}"/>'
                f'<text x="{x + wide / 2:.2f}%" y="{y + 18}" text-anchor="middle">{_text(cell, kinds[column])}</text>'
            )
    return "".join(parts) + "</svg>"
