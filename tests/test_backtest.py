"""A backtest as those meet it who ask for it: what may be asked, what is told, in which forms."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import tallybook
from tallybook import Book, BookError, MissingExtra, Refused, backtesting
from tallybook.backtest_page import page
from tallybook.domain.access import Exported, PersonalDataRead
from tallybook.projections import backtest as reckoning
from tallybook.projections.backtest import Backtest, Partial
from tallybook.projections.columnar import backtesting as columns
from tallybook.projections.columnar import compiling, native

from .conftest import CANDIDATE
from .test_cli import Run, run

__all__ = ["run"]  # a fixture

WHO = ("--actor", "analyst:mo", "--purpose", "programme")
BY_REFERENCE = ("--executor", "reference")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A book of sixty customers with all kinds of facts; nobody writes into it but to its log of reads."""
    url = f"sqlite:///{tmp_path_factory.mktemp('backtest')}/shop.book"
    made = tallybook.synth(url, customers=60, years=3, seed=7)
    assert {"loyalty.redemption_requested", "loyalty.hold_requested", "customer.return_recorded"} <= set(made.by_kind)
    return url


@pytest.fixture
def shop(url: str) -> Iterator[Book]:
    with tallybook.open(url) as book, book.acting("analyst:mo", purpose="programme"):
        yield book


@pytest.fixture(scope="module")
def told(url: str) -> Backtest:
    """By the reference executor."""
    with tallybook.open(url) as book:
        return book.backtest(CANDIDATE, executor="reference", unfunded="deficit")


def test_both_executors_give_one_digest_and_the_same_rows_from_log_and_archive(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    tallybook.synth(url, customers=60, years=3, seed=7)
    with tallybook.open(url) as book, book.acting("analyst:mo", purpose="programme"):

        def both(name: str, **asked: Any) -> tuple[Backtest, Any]:
            report = book.backtest(CANDIDATE, customers=tmp_path / f"{name}.parquet", replace=True, **asked)
            return report, report.frame("customers")

        for unfunded, since in (("reject", None), ("clamp", None), ("deficit", "2023-01-01")):
            reference, rows = both("reference", unfunded=unfunded, since=since, executor="reference")
            from_log, same = both("columnar", unfunded=unfunded, since=since)
            assert (from_log.executor, from_log.why) == ("columnar", "")
            assert reference.digest() == from_log.digest()
            assert same.equals(rows)
            assert (from_log.position, from_log.root, from_log.code) == (
                reference.position,
                reference.root,
                reference.code,
            )
        book.archive.catch_up()
        from_archive, same = both("archive", unfunded="deficit", since="2023-01-01", executor="columnar")
        assert from_archive.digest() == reference.digest()
        assert same.equals(rows)
        assert (from_archive.position, from_archive.root) == (reference.position, reference.root)
        customer = from_archive.gained[0].customer_id
        difference = reference.explain(customer)
        assert difference is not None
        assert from_archive.explain(customer) == difference


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        ({"unfunded": "pay"}, "unfunded"),
        ({"order": "effective"}, "order"),
        ({"executor": "fast"}, "executor"),
        ({"since": "yesterday"}, "since"),
    ],
)
def test_what_cant_be_asked_is_refused_by_name(shop: Book, asked: dict[str, Any], argument: str) -> None:
    with pytest.raises(Refused, match=argument) as caught:
        shop.backtest(CANDIDATE, **asked)
    assert (caught.value.code, caught.value.values["argument"]) == ("invalid_argument", argument)


def test_a_time_without_a_zone_is_refused(shop: Book) -> None:
    with pytest.raises(Refused) as caught:
        shop.backtest(CANDIDATE, since="2023-01-01T00:00:00")
    assert caught.value.code == "naive_time"


def test_without_the_compiler_the_reference_executor_runs_and_says_why(
    shop: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise compiling.Uncompiled('The compiler is not here: pip install "tallybook[replay]".')

    monkeypatch.setattr(native, "check_compiler", missing)
    report = shop.backtest(CANDIDATE)
    assert report.executor == "reference"
    assert "tallybook[replay]" in report.why
    with pytest.raises(BookError, match=r"columnar executor can't do this.*tallybook\[replay\]"):
        shop.backtest(CANDIDATE, executor="columnar")


def test_the_report_names_its_checkpoint_and_the_code_beside_the_digest(shop: Book, told: Backtest) -> None:
    checkpoint = shop.audit.checkpoint()
    assert (told.book, told.position, told.root) == (shop.origin, checkpoint.size, checkpoint.root)
    assert told.release == tallybook.__version__
    assert told.code == backtesting.code_digest()
    assert len(told.code) == 64
    assert told.seconds > 0
    assert told.peak_bytes > 10_000_000
    other = replace(told, position=1, root="", code="", seconds=9.0, peak_bytes=1, executor="columnar", customers="x")
    assert other.digest() == told.digest()
    assert replace(told, facts=told.facts + 1).digest() != told.digest()


def test_the_digest_does_not_depend_on_what_no_account_reacts_to(tmp_path: Path) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard")
        ada = book.customers.register(name="<script>alert(1)</script>")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "tea", "quantity": 1, "net_minor": 5000}])
        before = book.backtest(CANDIDATE, executor="reference")
        book.tickets.open(ada, subject="<script>alert(2)</script>")
        after = book.backtest(CANDIDATE, executor="reference")
    assert before.position < after.position
    assert before.root != after.root
    assert before.digest() == after.digest()
    assert "alert" not in before.html()


def test_the_parts_add_up(told: Backtest) -> None:
    tables = told.tables()
    assert sum(row[2] for row in tables["matrix"].rows) == told.accounts
    assert told.months[-1].outstanding == (told.before.outstanding, told.after.outstanding)
    for name in ("earned", "redeemed", "expired"):
        monthly = [getattr(one, name) for one in told.months]
        assert sum(before for before, _ in monthly) == getattr(told.before, name)
        assert sum(after for _, after in monthly) == getattr(told.after, name)
    for found in told.classes.values():
        assert sum(one.accounts for one in found) == told.accounts
        assert sum(one.outstanding[1] for one in found) == told.after.outstanding
    assert json.loads(json.dumps(told.as_dict()))["digest"] == told.digest()


def test_frames_have_the_tables_with_their_types(told: Backtest) -> None:
    import polars

    for name, table in told.tables().items():
        frame = told.frame(name)
        assert tuple(frame.columns) == table.columns
        assert frame.rows() == table.rows
        assert set(frame.dtypes) <= {polars.String, polars.Int64}
    with pytest.raises(Refused, match="totals, matrix, months, rules, classes, movers, customers"):
        told.frame("weeks")
    with pytest.raises(Refused, match="customers="):
        told.frame("customers")


def test_frames_of_a_book_without_accounts_have_types_too() -> None:
    with tallybook.open("memory:") as book:
        report = book.backtest(CANDIDATE, executor="reference")
    assert [report.frame(name).height for name in ("months", "rules", "classes", "movers")] == [0, 0, 0, 0]
    assert str(report.frame("months").schema["earned_baseline"]) == "Int64"
    well_formed(report.html())


def test_without_polars_a_frame_says_what_to_install(told: Backtest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match=r"polars.*tallybook\[analysis\]"):
        told.frame("months")


def test_rows_of_accounts_add_up_to_the_report_and_are_a_recorded_export(shop: Book, tmp_path: Path) -> None:
    file = tmp_path / "accounts.parquet"
    report = shop.backtest(CANDIDATE, executor="reference", unfunded="clamp", customers=file)
    rows = report.frame("customers")
    assert report.customers == str(file)
    assert rows.height == report.accounts
    assert rows["outstanding_candidate"].sum() == report.after.outstanding
    assert rows["earned_baseline"].sum() == report.before.earned
    assert rows["changed"].sum() == report.changed
    assert rows["unfunded"].sum() == report.unfunded_redemptions
    assert rows["short_points"].sum() == report.short_points
    named = {UUID(one): other for one, other in rows.select("account_id", "outstanding_candidate").rows()}
    assert all(named[one.account_id] == one.outstanding_after for one in (*report.gained, *report.lost))
    for customer, first in rows.filter("changed").select("customer_id", "first_difference").rows()[:5]:
        difference = report.explain(UUID(customer))
        assert difference is not None
        assert first == difference.position
    *_, read, export = [one.event for one in shop._core.reads()]
    assert isinstance(read, PersonalDataRead)
    assert (read.action, read.subjects) == ("export.backtest", ())
    assert isinstance(export, Exported)
    assert (export.format, export.count, export.to_position) == ("backtest-parquet", rows.height, report.position)
    assert (file.stat().st_mode & 0o777) == 0o600
    with pytest.raises(BookError, match="there already"):
        shop.backtest(CANDIDATE, executor="reference", customers=file)
    shop.backtest(CANDIDATE, executor="reference", customers=file, replace=True)


def test_rows_are_given_to_nobody_who_does_not_act(url: str, tmp_path: Path) -> None:
    with tallybook.open(url) as book, pytest.raises(Refused) as caught:
        book.backtest(CANDIDATE, executor="reference", customers=tmp_path / "accounts.parquet")
    assert caught.value.code == "acting_required"
    assert list(tmp_path.iterdir()) == []


def test_without_arrow_the_rows_say_what_to_install(
    shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tallybook.adapters.backtest_files", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pyarrow.*tallybook\[replay\]"):
        shop.backtest(CANDIDATE, executor="reference", customers=tmp_path / "accounts.parquet")


def test_an_interrupted_backtest_leaves_nothing(
    url: str, shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reckoning, "REPORT_EVERY", 100)
    monkeypatch.setattr(columns, "partial_of", lambda *_: Partial())
    monkeypatch.setattr(backtesting, "_archived", lambda core, _: backtesting._gathered(core, None)._replace(parts=64))
    for executor in ("reference", "columnar"):
        with pytest.raises(KeyboardInterrupt):
            shop.backtest(CANDIDATE, executor=executor, customers=tmp_path / "accounts.parquet", progress=interrupt)
        assert list(tmp_path.iterdir()) == []
        assert not [one for one in threading.enumerate() if one.name.startswith("tallybook-replay")]
    assert shop.backtest(CANDIDATE, executor="reference").accounts > 50


def test_few_parts_are_ahead_of_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun: list[int] = []

    def part(number: int) -> Partial:
        begun.append(number)
        return Partial()

    for taken, _ in enumerate(backtesting._in_threads(part, 64), 1):
        assert len(begun) <= taken + 4
    assert sorted(begun) == list(range(64))


class Nested(HTMLParser):
    """Sees that each element is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "rect", "polyline", "polygon")

    def handle_data(self, data: str) -> None:
        self.text += data


def well_formed(html: str) -> str:
    """The text of a page that is well-formed, and points nowhere."""
    parser = Nested()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    for reference in ("http:", "https:", "src=", "@import", "url(", "//"):
        assert reference not in html.replace("</", "")
    return parser.text


def test_the_page_holds_the_figures_and_points_nowhere(told: Backtest) -> None:
    html = told.html()
    text = well_formed(html)
    for name in ("earned", "redeemed", "expired", "outstanding"):
        assert f"{getattr(told.after, name):,}" in text
    for figure in (told.moved_up, told.moved_down, told.changed, told.unfunded_redemptions):
        assert f"{figure:,}" in text
    for digest in (told.digest(), told.root, told.code, told.candidate_digest, told.outcomes):
        assert digest in text
    assert str(told.gained[0].customer_id) in text
    assert "behaviour does not change" in text
    assert html.count("<polyline") == 8
    assert html.count('role="img"') == html.count("<figure>") == 13


def test_a_page_shows_hostile_names_as_text(told: Backtest) -> None:
    hostile = '"><script>alert(1)</script>'
    changed = replace(
        told,
        candidate=hostile,
        tiers=(hostile, "basic"),
        matrix={hostile: {"basic": 3}},
        rules=tuple(replace(one, rule=hostile) for one in told.rules),
        classes={"channel": tuple(replace(one, name=hostile) for one in told.classes["channel"])},
    )
    html = page(changed, 0).html()
    assert "<script>alert" not in html
    assert hostile in well_formed(html)


def test_the_command_line_tells_all_parts(url: str, run: Run, tmp_path: Path, told: Backtest) -> None:
    html, rows = tmp_path / "report.html", tmp_path / "accounts.parquet"
    answer = run(
        "backtest", CANDIDATE, "--book", url, "--unfunded", "deficit", *BY_REFERENCE, "--report", html,
        "--customers", rows, *WHO,
    )  # fmt: skip
    assert (answer.status, answer.err) == (0, "")
    for part in (
        "Tier under the baseline", "Points", "By year", "Rules", "By value", "By year joined", "By channel",
        "Who gains most", "Who loses most", "executor: reference: asked for", told.digest(), told.root, told.code,
        "becomes a debt", f"Written: {html}", f"Written: {rows}",
    ):  # fmt: skip
        assert part in answer.out
    well_formed(html.read_text())
    assert rows.stat().st_size > 0
    assert run("backtest", CANDIDATE, "--book", url, *BY_REFERENCE, "--report", html).status == 2


def test_the_command_line_answers_in_json(url: str, run: Run, told: Backtest) -> None:
    customer = told.gained[0].customer_id
    words = ("backtest", CANDIDATE, "--book", url, "--unfunded", "deficit", *BY_REFERENCE, "--json")
    answer = run(*words, "--explain", customer).json
    kept = ("digest", "outcomes", "matrix", "months", "rules", "classes", "gained", "lost", "before", "after", "root")
    assert {name: answer[name] for name in kept} == {name: told.as_dict()[name] for name in kept}
    assert answer["explain"]["customer_id"] == str(customer)
    assert answer["explain"]["candidate"] != answer["explain"]["baseline"]


def test_the_command_line_refuses_what_cant_be_asked(url: str, run: Run) -> None:
    for option, value in (
        ("--unfunded", "pay"),
        ("--order", "x"),
        ("--executor", "x"),
        ("--since", "2023-01-01T00:00"),
    ):
        answer = run("backtest", CANDIDATE, "--book", url, option, value)
        assert (answer.status, answer.out) == (2, "")
        assert option in answer.err or "since" in answer.err


def test_the_order_and_the_beginning_are_told(shop: Book) -> None:
    report = shop.backtest(CANDIDATE, executor="reference", order="hindsight", since="2023-01-01")
    text = well_formed(report.html())
    assert "as if each had been known when it happened" in text
    assert "Before 2023-01-01T00:00:00Z, the recorded rule sets are in force on both sides." in text
    for one in report.months:
        if one.month < "2023":
            assert one.earned[0] == one.earned[1]
