"""The published figures of the CDNOW data, from a book that recorded it: profiles, tiers, certificate, segments."""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from importlib.resources import files
from pathlib import Path

import pytest

import tallybook
from tallybook import Book
from tallybook.domain.customer import PurchaseRecorded

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def cdnow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    path = tmp_path_factory.mktemp("cdnow") / "shop.book"
    shipped = files("tallybook") / "data"
    with tallybook.open(f"sqlite:///{path}") as book, book.acting("job:import", purpose="import"):
        book.rules.adopt(str(shipped / "standard.toml"), effective_at="1997-01-01T00:00:00Z")
        report = book.imports.cdnow(str(shipped / "cdnow_master.txt.xz"))
        assert (report.recorded, report.known, report.rejected) == (69_659, 0, 0)
        assert report.customers == 23_570
        book.loyalty.sweep("1998-06-30T23:59:59Z")
        yield book


def _purchases(book: Book) -> list[PurchaseRecorded]:
    found = [recorded.event for recorded in book._core.history([PurchaseRecorded.stored_name])]
    assert all(isinstance(event, PurchaseRecorded) for event in found)
    return found  # type: ignore[return-value]  # checked above


def test_the_totals_are_the_published_ones(cdnow: Book) -> None:
    purchases = _purchases(cdnow)
    assert len(purchases) == 69_659
    assert len({purchase.subject_id for purchase in purchases}) == 23_570
    assert sum(line.quantity for purchase in purchases for line in purchase.lines) == 167_881
    assert sum(purchase.net_minor for purchase in purchases) == 250_031_563
    assert sum(purchase.net_minor == 0 for purchase in purchases) == 80
    rows = [
        (purchase.subject_id, purchase.effective_us, purchase.lines[0].quantity, purchase.net_minor)
        for purchase in purchases
    ]
    assert len(rows) - len(set(rows)) == 255


def test_segments_match_all_2357_rows_of_the_published_summary(cdnow: Book) -> None:
    with lzma.open(DATA / "cdnow_sample.txt.xz", "rt") as sample:
        sample_ids = {row.split()[0]: int(row.split()[1]) for row in sample if row.strip()}
    assert len(sample_ids) == 2_357
    ours = {
        sample_ids[name]: segment
        for name, segment in cdnow.profiles.segments(as_of="1997-09-30", system="cdnow")
        if name in sample_ids
    }
    with (DATA / "cdnow_summary.csv").open() as file:
        published = {int(row["ID"]): row for row in csv.DictReader(file)}
    assert len(published) == len(ours) == 2_357

    def weeks(days: int) -> Decimal:
        return (Decimal(days) / 7).quantize(Decimal("0.01"), ROUND_HALF_UP)

    differing = []
    for number, row in published.items():
        segment = ours[number]
        found = (
            segment.frequency,
            weeks(segment.recency_days),
            weeks(segment.tenure_days),
            Decimal(segment.monetary_minor) / 100,
        )
        if found != (int(row["x"]), Decimal(row["t_x"]), Decimal(row["T"]), Decimal(row["zbar"])):
            differing.append((number, row, found))
    assert differing == []
    assert sum(segment.frequency == 0 for segment in ours.values()) == 1_411


def test_importing_again_records_nothing(cdnow: Book) -> None:
    before = cdnow.position()
    report = cdnow.imports.cdnow(str(files("tallybook") / "data" / "cdnow_master.txt.xz"))
    assert (report.recorded, report.known, report.events) == (0, 69_659, 0)
    assert cdnow.position() == before


def test_the_certificate_holds_and_the_book_verifies(cdnow: Book) -> None:
    certificate = cdnow.replay()
    assert certificate.holds, certificate.first
    assert certificate.matched == certificate.decisions > 130_000
    assert [check.holds for check in cdnow.audit.verify()] == [True, True]


def test_a_backtest_under_the_adopted_rules_changes_nothing(cdnow: Book) -> None:
    report = cdnow.backtest(str(files("tallybook") / "data" / "standard.toml"))
    assert report.changed == report.moved_up == report.moved_down == 0
    assert report.before == report.after
    assert all(set(row) == {tier} for tier, row in report.matrix.items())


def test_the_matrix_of_a_backtest_counts_what_the_tiers_count(cdnow: Book) -> None:
    report = cdnow.backtest(str(files("tallybook") / "data" / "candidate.toml"))
    assert {tier: sum(row.values()) for tier, row in report.matrix.items()} == cdnow.tiers.counts()
    assert sum(cdnow.tiers.counts().values()) == report.accounts == 23_570
    assert report.changed > 20_000
    assert json.dumps(report.matrix)


def test_profiles_of_the_past_come_from_the_same_events(cdnow: Book) -> None:
    customer = cdnow.customers.find("cdnow", "00111")
    assert customer is not None
    then = cdnow.profiles.get(customer, as_of="1997-09-30")
    now = cdnow.profiles.get(customer)
    bought = [event for event in _purchases(cdnow) if event.subject_id == customer]
    early = [event for event in bought if event.effective_at.isoformat() < "1997-10-01"]
    assert then.purchases == len(early) < now.purchases == len(bought)
    assert then.spent_minor == {"USD": sum(event.net_minor for event in early)}
    assert now.identifiers["cdnow"].value == "00111"
