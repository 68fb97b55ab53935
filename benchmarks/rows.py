"""The rows of the comparison: what each measures, against what, and which ratio is aimed at."""

from __future__ import annotations

from dataclasses import dataclass

RAW, STOCK, OURS = "raw", "stock", "ours"
WHO = (RAW, STOCK, OURS)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; empty for who is not measured. Aims: `least_ratio`: ours against stock; `least_raw_ratio`: ours against
    raw; `least_rate`: ours, in units a second. `raw_is_floor`: raw does a part of what ours does and nothing else, so
    that ours can't be faster."""

    key: str
    title: str
    raw: str
    stock: str
    ours: str
    unit: str = "events"
    least_ratio: float | None = None
    least_raw_ratio: float | None = None
    least_rate: float | None = None
    raw_is_floor: bool = True


_RECORDER_RAW = "`executemany` of the same rows, one transaction a commit."
_RECORDER_STOCK = (
    "`SQLiteApplicationRecorder.insert_events` of as many stored events, JSON states of the same purchases."
)
_RECORDER_OURS = (
    "`LogRecorder.append` of rows that are ready: in the same transaction head, Merkle leaves, frontier and a receipt."
)
_COMMAND_RAW = "`executemany` of all events that Tallybook's commands stored, one transaction a command."
_COMMAND_STOCK = "`repository.get` (cache of 2,000), `trigger_event`, `save`: {} alone, nothing decided."


def _recorder(key: str, title: str, least_raw_ratio: float) -> Row:
    return Row(key, title, _RECORDER_RAW, _RECORDER_STOCK, _RECORDER_OURS, least_raw_ratio=least_raw_ratio)


_APPEND_STOCK = "Aggregates held in memory: `trigger_event` for each purchase, then `Application.save`."


def _append(key: str, title: str, least_ratio: float | None = None) -> Row:
    return Row(
        key,
        title,
        "`executemany` of the blobs that Tallybook stored, one transaction a commit.",
        _APPEND_STOCK,
        "Drafts held in memory: `Customer.record_purchase` for each purchase (line and event validated), then "
        "`BookApplication.save`: head, Merkle leaves and frontier in the same transaction. No personal field.",
        least_ratio=least_ratio,
    )


def _inline(key: str, title: str, ours: str) -> Row:
    stock = "**Not stock:** Tallybook's `record_purchase` with its decisions; read models are left behind."
    return Row(key, title, "", stock, ours, unit="commands")


def _sweep(key: str, title: str, due: str, least_rate: float | None) -> Row:
    return Row(
        key,
        title,
        "",
        "**Not stock:** Tallybook's own sweep without its notes of when something is next due: every account is "
        "loaded.",
        f"`book.loyalty.sweep` to a month's end, after that of the night before: {due} 1 % bought in between. "
        "All accounts, divided by the time of the whole sweep: the notes of all of them read and checked, by their "
        "MACs and against the accounts' versions; those due loaded, decided, recorded and noted anew.",
        unit="accounts",
        least_rate=least_rate,
    )


def _postgres(key: str, title: str, least_ratio: float | None, least_raw_ratio: float | None) -> Row:
    return Row(
        key,
        title,
        "psycopg: one `INSERT … SELECT unnest` a commit in binary form; positions from a sequence, no lock: nothing "
        "keeps a reader from missing rows.",
        "`PostgresApplicationRecorder.insert_events` of the same rows, with the package's defaults: its table lock, "
        "its sequence.",
        "`LogRecorder.append` of the same rows: the head's row locked, in the same transaction Merkle leaves, frontier "
        "and a receipt.",
        least_ratio=least_ratio,
        least_raw_ratio=least_raw_ratio,
    )


ROWS = (
    _recorder("recorder-1", "Recorder, 1 event a commit", 0.7),
    _recorder("recorder-100", "Recorder, 100 events a commit", 0.6),
    _recorder("bulk", "Recorder, one writer, 1,000 ready rows a commit", 0.6),
    Row(
        "merkle-append",
        "Append with the Merkle log, 100 events a commit",
        "The same book, keys and commands with no tree at all, and no MAC of the head.",
        "",
        "Append, 100 events a commit, as above, in four times as many commits: leaves, frontier and MAC in each, tiles "
        "as the log grows, signed checkpoints, one at the end. No garbage is collected meanwhile: when that is done "
        "depends on all that lies in memory.",
        least_raw_ratio=0.85,
    ),
    Row(
        "merkle-recorder",
        "Recorder with the Merkle log, 100 ready rows a commit",
        "The same recorder with no tree at all.",
        "",
        "The same of rows that are ready: nothing validated, sealed or folded. Two SHA-256 an event are most of it.",
    ),
    Row(
        "merkle-verify",
        "`audit verify` of a log",
        "SHA-256 over the same leaves, which lie in memory.",
        "",
        "Rows read, leaves packed and hashed, the tree, every tile and every checkpoint compared.",
        unit="leaves",
        least_rate=400_000,
    ),
    Row(
        "import",
        "Import CDNOW end to end",
        "`executemany` of all blobs that Tallybook stored, about as many a transaction; nothing read or decided.",
        "The same file read by the same parser; a registration for each new customer and a purchase for each line "
        "through `Application.save`, about as many events a commit. No decisions, identifiers, uniqueness, receipts, "
        "sealing or projections; it counts its own events, which are fewer (see the spread).",
        "The real import, as a host runs it: book opened, rule set adopted, file checked and imported (customers, "
        "identifiers, enrolment, purchases, points, tiers), sweep to 1998-07-01, all read models caught up.",
        least_rate=15_000,
    ),
    Row(
        "command-1",
        "Whole command, 1 interaction a commit",
        _COMMAND_RAW,
        _COMMAND_STOCK.format("an interaction"),
        "`book.customers.record_interaction`: acting context, the customer from memory, one event. No command id.",
        unit="commands",
        least_raw_ratio=0.5,
    ),
    Row(
        "command-1-id",
        "The same with a command id",
        "As above.",
        _COMMAND_STOCK.format("an interaction"),
        "The same with a command id: receipt looked up, arguments digested, receipt kept in the commit.",
        unit="commands",
    ),
    Row(
        "command-100",
        "Whole command, 100 events a commit",
        _COMMAND_RAW,
        _COMMAND_STOCK.format("100 purchases"),
        "A command of one's own that records 100 purchases of a customer without an account, as imports do: rules and "
        "sweeps read, lines and events validated, a command id and its receipt.",
        least_raw_ratio=0.3,
    ),
    _append("append-1", "Append, 1 event a commit"),
    _append("append-10", "Append, 10 events a commit"),
    _append("append-100", "Append, 100 events a commit", 1.5),
    Row(
        "append-100-sealed",
        "Append, 100 a commit, each with an order id",
        "As above.",
        _APPEND_STOCK + " The order id is written in the clear.",
        "As above, and the order id is sealed under its customer's key (AES-GCM).",
    ),
    Row(
        "command",
        "Whole command, 1 purchase a commit",
        _COMMAND_RAW,
        _COMMAND_STOCK.format("the purchase"),
        "`book.customers.record_purchase`: acting context, customer, account and rules loaded (cache of 2,000), due "
        "decisions, the purchase, points and tier decided, all recorded in one transaction. No command id.",
        unit="commands",
    ),
    Row(
        "load",
        "Load one aggregate of 1,000 events",
        "`SELECT` of the stream's rows.",
        "`repository.get` as it comes, without a cache or snapshot. More than half of its time goes into an assertion "
        "of the package's `project_aggregate` (`isinstance` of each event against a runtime-checkable protocol).",
        "`BookApplication.load` with an empty cache, without a snapshot.",
        least_ratio=6.0,
    ),
    Row(
        "load-plain",
        "Load, stock without its assertion",
        "As above.",
        "`repository.get` with a `projector_func` of one's own: a plain loop over `mutate`.",
        "As above.",
    ),
    Row(
        "scan",
        "Scan the log, sum the amounts",
        "The same `SELECT` as ours, of the same two columns, 500 rows at a time; nothing decoded or summed. Its rounds "
        "and ours take turns.",
        "`recorder.select_notifications`, 5,000 at a time, and `mapper.to_domain_event`.",
        "`BookApplication.scan` of the purchases' lines: clear fields as they are stored, no events made of them.",
        least_ratio=7.0,
        least_raw_ratio=1 / 1.6,
    ),
    Row(
        "scan-all",
        "The same, beside all columns of the rows",
        "`SELECT` of all rows in all five columns, 5,000 at a time; nothing decoded or summed. No floor of ours, which "
        "reads two.",
        "",
        "As above.",
        raw_is_floor=False,
    ),
    Row(
        "scan-events",
        "The same over whole events",
        "`SELECT` of all rows in all five columns, 5,000 at a time; nothing decoded or summed.",
        "`recorder.select_notifications`, 5,000 at a time, and `mapper.to_domain_event`.",
        "`log.iterate` (5,000 rows at a time) and `BookApplication.decode`: checked events with sealed handles.",
    ),
    Row(
        "catch-up",
        "Catch up three read models",
        "The log's rows read, and the final rows of all read models written by `executemany`, in as many "
        "transactions as the projector's; nothing decoded or folded.",
        "**Not stock:** Tallybook's own log, folds and store, but a transaction for each event (`Projector` with a "
        "batch of one; the log is still read in batches). It isolates what batching gives.",
        "`Projector.catch_up`: profiles, tiers and audit trail, from a fresh log.",
        least_ratio=10.0,
        least_rate=100_000,
    ),
    Row(
        "catch-up-stock",
        "Catch up, against the stock way",
        "As above.",
        "What `ProjectionRunner` does for each event. SQLite recorders have no subscription, so its loop is "
        "emulated: notifications pulled 500 at a time, `to_domain_event`, and for each event one transaction with a "
        "trail row, a profile row and the tracking. Its log holds as many events, all of them purchases, of as many "
        "customers; two read models in one transaction, no tiers.",
        "As above.",
    ),
    Row(
        "catch-up-all",
        "Catch up all four read models",
        "As above.",
        "",
        "The same with balances, which have a row of every bucket for each lot.",
    ),
    Row(
        "load-long",
        "Load an account of 100,000 events",
        "`SELECT` of the stream's rows, all at once.",
        "`repository.get` of a customer of as many purchases, with a `projector_func` of one's own (a plain loop).",
        "`BookApplication.load` with an empty cache, without a snapshot: lots, tier window and earnings, 1,024 rows at "
        "a time.",
    ),
    Row(
        "load-long-snapshot",
        "The same from a snapshot",
        "As above.",
        "As above: the package's snapshots would hold an aggregate like ours as JSON.",
        "The same load where a snapshot stands at the last event: read, checked and unpacked.",
    ),
    Row(
        "rebuild",
        "Rebuild all read models, 2 processes",
        "",
        "**Not stock:** Tallybook's `projections.rebuild` with one process that writes 20,000 events at once, as each "
        "of the two does; as it comes it writes 2,000, and takes longer.",
        "`projections.rebuild(processes=2)` of profiles, tiers and audit trail of the imported history, beside the "
        "live ones, to the swap. Starting the processes counts.",
        least_ratio=1.7,
    ),
    _inline("inline-tiers", "Purchases, tiers inline", '`record_purchase` on a book opened with `inline=["tiers"]`.'),
    _inline("inline-all", "Purchases, all three inline", "The same with profiles, tiers and audit trail inline."),
    _inline(
        "inline-ask",
        "Purchases, a question after each",
        "Without inline: `tiers.counts` after each command, which catches all three read models up.",
    ),
    Row(
        "reads",
        "Reads accounted, 64 threads",
        "`executemany` of the same rows, one transaction a read, one thread.",
        "",
        "`Gate.record`: who, whose, which fields and why, one record each; it returns when its record is durable. "
        "Threads that come during a commit share the next one.",
        unit="reads",
        least_rate=20_000,
        raw_is_floor=False,
    ),
    Row(
        "reads-alone",
        "Reads accounted, one thread",
        "As above.",
        "",
        "The same by one thread: a transaction a read.",
        unit="reads",
    ),
    Row(
        "reads-open",
        "Values released, 64 threads",
        "As above.",
        "",
        "`Gate.open` of an external id: policy, record, whether the subject was erased, then the value.",
        unit="reads",
        least_rate=20_000,
        raw_is_floor=False,
    ),
    Row(
        "reads-policy",
        "The same under the shipped policy",
        "As above.",
        "",
        "The same where `shop` is in force: roles, fields, hours and restrictions count, too.",
        unit="reads",
        raw_is_floor=False,
    ),
    Row(
        "reads-profile",
        "Whole profiles, 64 threads",
        "As above.",
        "",
        "`book.profiles.get`: the read model caught up, its row and the events behind it read, then the same.",
        unit="reads",
        raw_is_floor=False,
    ),
    Row(
        "decisions",
        "Decisions of the access policy",
        "",
        "",
        "The policy in force, the roles now, what they may read by an action, and one field of it: from memory.",
        unit="decisions",
        least_rate=1_000_000,
    ),
    Row(
        "reads-bulk",
        "Bulk read, one record for all subjects",
        "",
        "",
        "`Gate.open` of the external ids of 10,000 subjects, read from the log before: one record with the list.",
        unit="subjects",
    ),
    Row(
        "expressions",
        "Conditions of rule sets",
        "The same condition as a Python function written by hand, of the same rows.",
        "",
        "A compiled expression on three fields of a purchase, of rows that are ready: two comparisons and one `in`.",
        unit="evaluations",
        least_raw_ratio=0.8,
        raw_is_floor=False,
    ),
    Row(
        "expressions-lines",
        "The same over the lines of a purchase",
        "As above, with `any` and `sum` over generators.",
        "",
        "`lines.exists` and `lines.sum` of three lines.",
        unit="evaluations",
        least_raw_ratio=0.8,
        raw_is_floor=False,
    ),
    _sweep("sweep-5", "Month end, 5 % of the accounts due", "the points of 5 % of the accounts expire.", 20_000),
    _sweep("sweep-20", "Month end, 20 % due", "those of 20 %.", 20_000),
    _sweep("sweep-all", "Month end, all due", "those of every account, so that all are loaded either way.", None),
    Row(
        "redeem-lots",
        "Redemption with 5,000 open lots",
        "",
        "**Not stock:** the same commands on an account with 5 open lots.",
        "`book.loyalty.redeem` on an account with 5,000 open lots, again and again: due decisions looked for, lots "
        "chosen, request and decision recorded in one transaction. Both accounts are in memory, as after any command.",
        unit="commands",
        least_ratio=1 / 3,
    ),
    _postgres("postgres-1", "PostgreSQL, 4 writers, 1 a commit", 1.0, None),
    _postgres("postgres-100", "PostgreSQL, 4 writers, 100 a commit", None, 0.8),
)

BY_KEY = {row.key: row for row in ROWS}

BYTES_MAX = 300
"""Aim: bytes on disk for each event, with head, claims, receipts and keys."""
