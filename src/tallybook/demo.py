"""The demo: the whole main job on real purchases that ship with the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from time import perf_counter
from typing import Any

from tallybook.domain.errors import BookError, NotABook, Refused
from tallybook.projections.read_models import Progress

from .book import open as open_book

MARKER = ".tallybook-demo"
TIER_DATES = ("1997-06-30", "1997-12-31", "1998-06-30")
SWEEP_TO = "1998-06-30T23:59:59Z"
ELSEWHERE = "elsewhere"
"""Stands for a place that whoever has the book can't write to."""
PACK = "pack"
FILES = ["", "-wal", "-shm", ".reads", ".reads-wal", ".reads-shm", ".keys", ".keys-journal"]
FILES += [".wrapping-key", ".signing-key"]
"""What a book in files is made of."""
PERSONAL = ("Ada Lovelace", "ada@example.org", "The parcel arrived damaged", "A-1842")


def run_demo(directory: Path, say: Callable[[str], None], progress: Progress | None = None) -> dict[str, Any]:
    """Run the demo in a folder, tell what happens line by line, and give its figures.

    A book that an earlier demo left there is replaced; any other file is left alone. Raises NotABook.
    """
    path = _make_room(directory)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Any:
        started = perf_counter()
        yield
        seconds[name] = round(perf_counter() - started, 2)

    figures: dict[str, Any] = {"book": str(path)}
    data = files("tallybook").joinpath("data")
    with (
        as_file(data.joinpath("cdnow_master.txt.xz")) as purchases,
        as_file(data.joinpath("standard.toml")) as standard,
        as_file(data.joinpath("candidate.toml")) as candidate,
        open_book(f"sqlite:///{path}") as book,
    ):
        # What a later demo may replace: this very book, by its origin.
        (path.parent / MARKER).write_text(f"{book.origin} was made by `tallybook demo`.\n", encoding="utf-8")
        say(f"A new book: {path}")
        with book.acting("owner:demo", purpose="programme"):
            label = book.rules.adopt(standard, effective_at="1997-01-01T00:00:00Z")
        say(f"Adopted the rule set {label} from 1997-01-01 on.")

        with stage("import"), book.acting("job:import", purpose="import"):
            report = book.imports.cdnow(purchases, progress=progress)
        say(
            f"Imported {report.recorded:,} purchases of {report.customers:,} customers (CDNOW, 1997 to 1998) as "
            f"{report.events:,} sealed events in {seconds['import']:.1f} s."
        )
        with stage("sweep"), book.acting("job:sweep", purpose="expiry"):
            swept = book.loyalty.sweep(SWEEP_TO)
        say(f"Swept to 1998-06-30: {swept.decisions:,} decisions about expired points and tiers.")
        with stage("project"):
            position = book.projections.catch_up()
        rate = position / (seconds["import"] + seconds["sweep"] + seconds["project"])
        say(
            f"Projected profiles, tiers, balances and audit trail up to position {position:,} ({rate:,.0f} events/s, "
            "all in)."
        )

        figures["tiers"] = {}
        for date in TIER_DATES:
            counts = book.tiers.counts(as_of=date)
            figures["tiers"][date] = counts
            say(f"  {date}: " + ", ".join(f"{count:,} {tier}" for tier, count in counts.items()))

        with stage("segments"), book.acting("analyst:demo", purpose="analysis"):
            segments = book.profiles.segments(as_of="1997-09-30", system="cdnow")
        repeat = sum(1 for _, segment in segments if segment.frequency)
        figures["segments"] = {"as_of": "1997-09-30", "customers": len(segments), "with_repeat_purchase": repeat}
        say(f"On 1997-09-30, {repeat:,} of {len(segments):,} customers had bought again.")

        say("One customer's story:")
        with stage("story"), book.acting("agent:lin", purpose="support", channel="phone"):
            figures["story"] = _story(book, say)

        say("She asks to be erased:")
        with stage("evidence"), book.acting("dpo:demo", purpose="subject_rights"):
            figures["evidence"] = _evidence(book, path.parent, figures["story"]["customer"], say)

        with stage("verify"):
            checks = book.audit.verify(against=path.parent / ELSEWHERE / "kept.checkpoint")
        figures["verified"] = all(check.holds for check in checks)
        say(
            f"Verified: the Merkle root of {checks[0].size:,} leaves, recomputed from the stored bytes, is "
            f"{checks[0].root[:16]}…; it goes on from the checkpoint that was kept."
            if figures["verified"]
            else f"NOT VERIFIED: {[check.problem for check in checks]}"
        )
        with stage("certificate"):
            certificate = book.replay()
        figures["certificate"] = {"holds": certificate.holds, **asdict(certificate)}
        say(
            f"Certificate: replaying {certificate.facts:,} facts reproduces all {certificate.matched:,} decisions."
            if certificate.holds
            else f"CERTIFICATE FAILS: {certificate.first}"
        )
        with stage("backtest"):
            outcome = book.backtest(candidate)
        figures["backtest"] = {
            "candidate": outcome.candidate,
            "matrix": outcome.matrix,
            "moved_up": outcome.moved_up,
            "moved_down": outcome.moved_down,
            "outstanding_before": outcome.before.outstanding,
            "outstanding_after": outcome.after.outstanding,
        }
        say(f"Backtest of {outcome.candidate}: who would be in which tier (rows: as recorded):")
        tiers = outcome.tiers
        say("  " + " ".join(f"{name:>10}" for name in ["", *tiers]))
        for tier in tiers:
            row = [outcome.matrix.get(tier, {}).get(other, 0) for other in tiers]
            say("  " + " ".join([f"{tier:>10}", *[f"{count:>10,}" for count in row]]))
        say(
            f"  {outcome.moved_up:,} move up, {outcome.moved_down:,} down; points outstanding "
            f"{outcome.before.outstanding:,} → {outcome.after.outstanding:,}."
        )
        figures.update(
            customers=report.customers,
            purchases=report.recorded,
            events=book.position(),
            events_per_second=round(rate),
        )
    found = _in_the_clear(path)
    figures["personal_values_in_the_clear"] = found
    say(f"Searched the files of book and pack for the personal values above: {found} found in the clear.")
    figures["seconds"] = {**seconds, "total": round(sum(seconds.values()), 2)}
    say(f"All in {sum(seconds.values()):.1f} s. Try next:")
    for command in _next_commands(path):
        say(f"  {command}")
    return figures


def _story(book: Any, say: Callable[[str], None]) -> dict[str, Any]:
    name, email, complaint, order = PERSONAL
    ada = book.customers.register(name=name, email=email, birth_date="1815-12-10", country="GB")
    book.loyalty.enrol(ada)
    bought = book.customers.record_purchase(
        ada, [{"sku": "engine-notes", "category": "books", "quantity": 2, "net_minor": 12_000}], order_id=order
    )
    say(f"  buys for 120.00 USD: {bought.points} points, now {bought.tier}")
    case = book.tickets.open(ada, kind="complaint", subject=complaint, severity="high")
    book.tickets.assign(case, "agent:lin")
    book.tickets.reply(case, "We are sorry. A new copy is on its way.")
    book.customers.record_return(ada, {1: 1}, order_id=order, reason="damaged")
    book.tickets.resolve(case, "replaced")
    book.tickets.compensate(case, 50, reason="damaged")
    balance = book.loyalty.balance(ada)
    say(f"  complains, is answered, returns one copy, gets 50 points: {balance} points, {_tier(book, ada)}")
    try:
        book.loyalty.redeem(ada, 5_000, reward="voucher-50")
        refused = False
    except Refused as error:
        refused = error.code == "insufficient_points"
    say(f"  asks for a reward of 5,000 points: {'refused, and the attempt recorded' if refused else 'PAID'}")
    paid = book.loyalty.redeem(ada, 100, reward="voucher-1")
    say(f"  takes one of 100 points: {paid.balance} left")
    profile = book.profiles.get(ada)
    trail = book.audit.trail(ada)
    reads = [entry for entry in trail if entry.log == "reads"]
    looked = reads[0]
    say(
        f"  {looked.actor} looks at the profile of {profile['name']}, for {looked.purpose}: "
        f"{len(looked.fields)} fields {looked.outcome}, on record"
    )
    say(f"  her audit trail: {len(trail) - len(reads)} events and {len(reads)} reads")
    return {
        "customer": str(ada),
        "points": paid.balance,
        "refused": refused,
        "trail": len(trail),
        "reads": len(reads),
    }


def _evidence(book: Any, folder: Path, customer: str, say: Callable[[str], None]) -> dict[str, Any]:
    elsewhere = folder / ELSEWHERE
    elsewhere.mkdir()
    kept = book.audit.checkpoint()
    (elsewhere / "kept.checkpoint").write_text(kept.note, encoding="utf-8")
    (elsewhere / "log.vkey").write_text(book.audit.vkey + "\n", encoding="utf-8")
    say(f"  a checkpoint of {kept.size:,} leaves is signed, and kept elsewhere with the public key")

    receipt = book.erasures.erase(customer, reason="gdpr-17")
    (elsewhere / "receipt.json").write_text(json.dumps(asdict(receipt), default=str, indent=2), encoding="utf-8")
    name = book.profiles.get(customer)["name"]
    points = book.loyalty.balance(customer)
    say(
        f"  her key is destroyed (look-ups removed: {receipt.lookups}): her name reads as {name}, "
        f"her {points} points stay"
    )

    packed = book.audit.export(folder / PACK, after=receipt.position - 1)
    answer = subprocess.run(  # noqa: S603 - the verifier that was just written
        [
            *(sys.executable, "-I", str(folder / PACK / "verify.py"), str(folder / PACK), "--json"),
            *("--vkey", str(elsewhere / "log.vkey"), "--against", str(elsewhere / "kept.checkpoint")),
            *("--proof", str(elsewhere / "receipt.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    holds = answer.returncode == 0 and json.loads(answer.stdout)["holds"] is True
    say(
        f"  an auditor's pack of {packed.size:,} leaves, and her receipt under them, by the pack's own verifier: "
        + ("verified" if holds else f"NOT VERIFIED {answer.stdout}{answer.stderr}")
    )
    return {
        "kept": kept.size,
        "erased_at": receipt.position,
        "lookups": receipt.lookups,
        "name": str(name),
        "points": points,
        "verified_by_a_stranger": holds,
    }


def _tier(book: Any, customer: Any) -> str:
    return str(book.loyalty.account(customer).tier)


def _in_the_clear(path: Path) -> int:
    found = 0
    folder = path.parent
    made = [*folder.glob(path.name + "*"), *(folder / ELSEWHERE).rglob("*"), *(folder / PACK).rglob("*")]
    for file in made:
        content = file.read_bytes() if file.is_file() else b""
        found += sum(value.encode() in content for value in PERSONAL)
    return found


def _make_room(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "shop.book"
    marker = directory / MARKER
    made = marker.read_text(encoding="utf-8").split() if marker.exists() else []
    there = [file for file in directory.glob("shop.book*") if file.is_file()]
    there += [folder for name in (ELSEWHERE, PACK) if (folder := directory / name).exists()]
    if there and (not made or _identity(path) != made[0]):
        raise NotABook(
            f"{there[0]} is there, and no demo made it.", path=str(path), remedy="Name another folder for the demo."
        )
    for suffix in FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    for name in (ELSEWHERE, PACK):
        shutil.rmtree(directory / name, ignore_errors=True)
    marker.unlink(missing_ok=True)
    return path


def _identity(path: Path) -> str:
    """The origin of the book at a path; nothing if there is none."""
    try:
        with open_book(f"sqlite:///{path}", create=False) as book:
            return book.origin
    except BookError:
        return ""


def _next_commands(path: Path) -> list[str]:
    url = f"sqlite:///{path}"
    who = "--actor agent:you --purpose demo"
    return [
        f"tallybook show customer cdnow:00111 --as-of 1997-09-30 --book {url} {who}",
        f"tallybook show account cdnow:00111 --as-of 1998-06-30 --book {url} {who}",
        f"tallybook audit trail --subject cdnow:00111 --book {url} {who}",
        f"tallybook tiers --as-of 1997-12-31 --book {url}",
        f"tallybook audit verify --against {path.parent / ELSEWHERE / 'kept.checkpoint'} --book {url}",
        f"tallybook audit review exposure --by agent:lin --book {url} --actor auditor:you --purpose audit",
        f"tallybook segments --as-of 1997-09-30 --csv --book {url} {who}",
    ]
