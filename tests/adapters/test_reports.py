"""Reports in their forms: what a cell holds is shown as text, whatever it is, and nothing points elsewhere."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tallybook.adapters.reports import (
    BARS_MAX,
    Chart,
    ChartKind,
    Column,
    Figure,
    Kind,
    Report,
    Section,
    as_csv,
    as_html,
    as_json,
    shown,
    visible,
    write_csv,
)
from tallybook.domain.personal import Erased

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"\' onmouseover=alert(1) x="',
    "<a href='https://evil.example/?q='>click</a>",
    "&lt;b&gt; &amp;amp;",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}",
    "x" * 5_000,
    "]]><!-- --><![CDATA[",
    "two\nlines\tand a tab",
    "{{7*7}} ${7*7} `x`",
]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.headings: list[str] = []
        self.within = ""
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "h2", "script", "style"):
            self.within = tag
            {"td": self.cells, "h2": self.headings}.get(tag, self.blocks.get(tag, [])).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.within:
            self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within:
            held = {"td": self.cells, "h2": self.headings}.get(self.within, self.blocks.get(self.within, []))
            held[-1] += data


def table(*rows: Any, columns: tuple[Column, ...] = (Column("value"),), **more: Any) -> Section:
    return Section(more.pop("title", "Values"), more.pop("text", ""), columns, [*rows], **more)


def report(*sections: Section, title: str = "Review") -> Report:
    return Report(title, "2026-01-02T03:04:05Z", {"book": "tallybook/test", "question": "all"}, sections)


CHARTS = (
    table(("lin", 5), ("bo", 0), title="Bars", columns=(Column("who"), Column("reads", Kind.COUNT)),
          chart=Chart(ChartKind.BARS, "who", ("reads",))),
    table(("2026-01", (1, 3)), ("2026-02", (0, 0)), title="Line", columns=(Column("month"), Column("part", Kind.SHARE)),
          chart=Chart(ChartKind.LINE, "month", ("part",))),
    table(("basic", 5, 1), ("gold", 0, 7), title="Matrix",
          columns=(Column("tier"), Column("basic", Kind.COUNT), Column("gold", Kind.COUNT)),
          chart=Chart(ChartKind.MATRIX, "tier", ("basic", "gold"))),
)  # fmt: skip


def test_hostile_values_are_shown_as_text_wherever_they_stand() -> None:
    rows = [(value, value) for value in HOSTILE]
    columns = (Column("value"), Column("id", Kind.ID))
    bars = Section("Bars", "", (Column("who"), Column("n", Kind.COUNT)), [(value, 3) for value in HOSTILE],
                   Chart(ChartKind.BARS, "who", ("n",)))  # fmt: skip
    sections = [table(*rows, columns=columns, title=value, text=value) for value in HOSTILE]
    page = Page(as_html(report(*sections, bars, title=HOSTILE[0])))
    assert page.headings[: len(HOSTILE)] == [visible(value) for value in HOSTILE]
    assert page.cells[: 2 * len(HOSTILE)] == [visible(cell) for row in rows for cell in row]
    known = {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "dl", "dt", "dd", "nav", "a",
        "section", "div", "table", "thead", "tbody", "tr", "th", "td", "bdi", "wbr", "figure", "figcaption", "svg",
        "line", "text", "rect", "script",
    }  # fmt: skip
    assert {tag for tag, _ in page.tags} <= known
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_a_page_points_nowhere_and_runs_only_its_own_script() -> None:
    made = as_html(report(*CHARTS, table(("plain",))))
    assert "http:" not in made
    assert "https:" not in made
    assert "//" not in made.replace("</", "")
    assert not re.search(r"\b(src|srcset|action|data|poster|xlink:href)=", made)
    assert not re.search(r"@import|url\(", made)
    page = Page(made)
    assert all((attrs.get("href") or "#").startswith("#") for _, attrs in page.tags)
    assert not [tag for tag, attrs in page.tags if "style" in attrs]
    policy = next(attrs["content"] or "" for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        [block] = page.blocks[kind]
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert {attrs["href"] for _, attrs in page.tags if attrs.get("href")} == {f"#{one}" for one in ids}


def test_ten_thousand_rows_are_all_there() -> None:
    rows = [(number, f"row <{number}>") for number in range(10_000)]
    page = Page(as_html(report(table(*rows, columns=(Column("n", Kind.COUNT), Column("text"))))))
    assert page.cells[1::2] == [text for _, text in rows]
    assert page.cells[-2] == "9,999"


def test_what_cant_be_shown_is_marked() -> None:
    page = Page(as_html(report(table(("a\0b\x1bc\ud800d",)))))
    assert page.cells == ["a\\u0000b\\u001bc\\ud800d"]


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (None, Kind.COUNT, ""),
        (1234567, Kind.COUNT, "1,234,567"),
        ((1, 3), Kind.SHARE, "33.3%"),
        ((0, 0), Kind.SHARE, ""),
        ((123456, "USD"), Kind.MONEY, "1,234.56 USD"),
        ((-5, "EUR"), Kind.MONEY, "-0.05 EUR"),
        (Erased(UUID(int=1)), Kind.TEXT, "(erased)"),
        (UUID(int=1), Kind.ID, "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_cells_as_people_read_them(value: Any, kind: Kind, wanted: str) -> None:
    assert shown(value, kind) == wanted


def test_each_chart_is_drawn_with_axis_and_labels_and_its_table_stands_below() -> None:
    made = as_html(report(*CHARTS))
    assert made.count("<figure>") == 3
    assert made.count("<table>") == 3
    bars, line, matrix = made.split("<figure>")[1:]
    assert bars.count('class="bar"') == 2
    assert ">lin</text>" in bars
    assert 'width="86.00%"' in bars  # the highest reaches the end of its axis
    assert "<polyline" in line
    assert ">50%</text>" in line
    assert matrix.count('class="cell"') == 4
    assert ">gold</text>" in matrix


def test_two_series_are_told_apart_by_more_than_their_colour() -> None:
    columns = (Column("month"), Column("before", Kind.COUNT), Column("after", Kind.COUNT))
    charts = tuple(
        Chart(kind, "month", ("before", "after"), "Points", ("old", "new")) for kind in (ChartKind.LINE, ChartKind.BARS)
    )
    rows = [("2026-01", -500_000, 1_500_000), ("2026-02", 0, 2_000_000)]
    made = as_html(report(table(*rows, columns=columns, chart=charts)))
    line, bars = made.split("<figure>")[1:]
    for drawn, key in ((line, "key"), (bars, "key box")):
        assert f'<figcaption>Points <span><i class="{key} first"></i>old</span>' in drawn
        assert f'<span><i class="{key}"></i>new</span>' in drawn
        assert 'aria-label="Points"' in drawn
    assert line.count('<polyline class="line first"') == line.count('<polyline class="line"') == 1
    assert "stroke-dasharray" in made
    assert bars.count('class="bar first"') == bars.count('class="bar"') == 2
    assert ">500k</text>" in line  # in few letters
    assert ">2M</text>" in line
    assert ">-500k</text>" in line  # below 0


def test_figures_come_before_the_table_in_html_and_json() -> None:
    section = Section("In short", figures=(Figure("move <up>", "12", "3 %"), Figure("cost", "5")))
    made = as_html(report(section))
    assert "<li><span>move &lt;up&gt;</span><strong>12</strong><span>3 %</span></li>" in made
    assert "<li><span>cost</span><strong>5</strong></li>" in made
    [told] = json.loads(report(section).json())["sections"]
    assert told["figures"][0] == {"name": "move <up>", "value": "12", "note": "3 %"}
    assert "figures" not in json.loads(report(table()).json())["sections"][0]


def test_many_bars_are_cut_to_the_highest_and_that_is_said() -> None:
    rows = [(f"a{number}", number) for number in range(100)]
    section = table(*rows, columns=(Column("who"), Column("n", Kind.COUNT)), chart=Chart(ChartKind.BARS, "who", ("n",)))
    made = as_html(report(section))
    assert made.count('class="bar"') == BARS_MAX
    assert f"the {BARS_MAX} highest of 100" in made
    assert Page(made).cells[::2] == [name for name, _ in rows]


def test_csv_is_rfc_4180_and_no_cell_is_a_formula() -> None:
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "  =1", "\N{FULLWIDTH EQUALS SIGN}1", 'say "hi", you', "a\r\nb"]
    made = as_csv(table(*((value, -3) for value in hostile), columns=(Column("=name"), Column("n", Kind.COUNT))))
    assert made.startswith("'=name,n\r\n")
    rows = list(csv.reader(io.StringIO(made, newline="")))[1:]
    assert [text for text, _ in rows] == [f"'{value}" for value in hostile[:7]] + hostile[7:]
    assert {number for _, number in rows} == {"-3"}


def test_csv_goes_into_a_file_a_folder_or_an_archive(tmp_path: Path) -> None:
    one, two = table((1,), title="One / first"), table((2,), title="Two")
    assert write_csv(report(one), tmp_path / "one.csv") == [tmp_path / "one.csv"]
    assert (tmp_path / "one.csv").read_bytes() == b"value\r\n1\r\n"
    names = ["01-one-first.csv", "02-two.csv"]
    assert write_csv(report(one, two), tmp_path / "folder") == [tmp_path / "folder" / name for name in names]
    assert (tmp_path / "folder" / names[1]).read_bytes() == b"value\r\n2\r\n"
    for name in ("a.zip", "b.zip"):
        write_csv(report(one, two), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == names
        assert archive.read(names[0]) == b"value\r\n1\r\n"
    with pytest.raises(ValueError, match="2 tables"):
        write_csv(report(one, two), tmp_path / "both.csv")


def test_json_says_what_each_column_is() -> None:
    columns = (Column("n", Kind.COUNT), Column("part", Kind.SHARE), Column("sum", Kind.MONEY), Column("text"))
    made = report(table((3, (1, 4), (250, "USD"), "<b>"), (None, None, None, None), columns=columns, text="why"))
    answer = json.loads(as_json(made))
    assert as_json(made) == as_json(made)
    assert answer["made_of"] == {"book": "tallybook/test", "question": "all"}
    [section] = answer["sections"]
    assert [column["kind"] for column in section["columns"]] == ["count", "share", "money", "text"]
    assert section["rows"] == [
        [3, {"part": 1, "whole": 4}, {"minor": 250, "currency": "USD"}, "<b>"],
        [None, None, None, None],
    ]
