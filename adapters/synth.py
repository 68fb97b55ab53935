"""Made-up histories of customers as columns: realistic, seeded, of any length in bounded memory.

`chunks(History(seed=1, customers=1000))` gives `Chunk`s of whole customers. Customer k of a seed has the same history
whatever the size of the chunks and however many customers are asked for: customers are made in blocks of 4,096, each
from a generator of its own (SFC64 of SeedSequence(seed, spawn_key=(block,))), so that blocks can be made in any order,
and again. What is drawn goes through tables of integers, so that platforms agree.

A chunk has three tables. All arrays of a table have its length; offsets have one more entry.

**Customers**, from the ordinal `first` on:

    id_hi, id_lo    uint64   the customer's id, a UUID derived from seed and ordinal (`customer_id`)
    sort            uint8    place in SORTS: person, organisation, internal
    country         uint8    place in COUNTRIES, as registered
    source          uint8    place in SOURCES, as registered
    birth_month     uint8    1 to 12; 0: not known
    fact_start      int64    where the facts of each begin in the table of facts

**Facts**, by customer, then in the order in which they were recorded:

    customer        int32    ordinal
    kind            uint8    place in KINDS: the stored name of the event that it is
    effective_us    int64    when it happened
    recorded_us     int64    when it became known: about 5 % of facts days to months after they happened
    ref             int32    which fact of the same customer it rests on, counted from 0; -1: none
    peer            int32    ordinal of the other customer; -1: none
    code            int16    what it is about, by kind, see below; -1: nothing
    a, b            int64    numbers, by kind, see below
    channel         uint8    place in CHANNELS
    store           uint8    place in STORES; 0: none
    currency        uint8    place in CURRENCIES
    line_start      int64    where its lines begin in the table of lines

**Lines**, of purchases, returns, and what referrals came to:

    line            uint8    number in the purchase, from 1 on
    sku             int32    number of the article
    category        uint8    place in CATEGORIES
    quantity        int32    pieces
    net             int64    minor units; of a return, the part that came back
    tax, shipping, discount  int32  minor units; 0 in returns

What `code`, `a`, `b` and `ref` say:

    customer.changed                code: place in TRAITS, a: its new value (a place in COUNTRIES or SOURCES; a month)
    customer.interaction_recorded   code: place in INTERACTIONS, a: 1 if the customer came to us
    customer.referred, referred_by  peer; a: which one of those whom the referrer brought
    customer.purchase_recorded      a: net of all lines
    customer.return_recorded        ref: the purchase, a: net of all lines, code: place in REASONS
    loyalty.activity_recorded       code: place in ACTIVITIES, a: quantity, b: place in PARTNERS
    loyalty.earning_confirmed,
    loyalty.earning_withdrawn       ref: the purchase or activity
    loyalty.redemption_requested    code: place in REWARDS, a: points; ref: the hold that it captures
    loyalty.redemption_returned     ref: the redemption, a: points, b: 1 if all of it
    loyalty.hold_requested          a: points, b: until when (µs)
    loyalty.hold_release_requested  ref: the hold
    loyalty.transfer_requested      peer: to whom, a: points
    loyalty.transfer_received       peer: of whom, a: points, b: since when they are earned (µs)
    loyalty.goodwill_granted,
    loyalty.correction_recorded     a: points; ref: the ticket that a goodwill answers
    loyalty.extension_granted,
    loyalty.reinstatement_granted   a: points (of a reinstatement), b: until when (µs)
    loyalty.tier_overridden         code: rank of the tier, b: until when (µs)
    loyalty.tier_override_lifted    ref: the override
    loyalty.referral_credited       peer, code: place in OCCASIONS, a: number of the referral, b: 1 for the referrer
    loyalty.referral_reduced        peer, ref: the credit
    loyalty.coupon_granted          code: place in REWARDS
    loyalty.coupon_used, voided     ref: the coupon
    ticket.opened                   code: place in TICKETS
    ticket.assigned                 ref: the ticket, a: number of the agent
    ticket.replied                  ref: the ticket, a: place in AUTHORS
    ticket.compensated              ref: the ticket, a: points
    ticket.satisfaction_recorded    ref: the ticket, a: score, 1 to 5
    ticket.resolved, closed         ref: the ticket

A twin is recorded together with a fact of another customer (`TWINS`): what a transfer brought and what a referral came
to. Whether a book really says so is for its rules to decide; here, amounts are fixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from statistics import NormalDist
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from tallybook.domain.calendar import DAY_US, civil_from_days, days_from_civil
from tallybook.domain.errors import MissingExtra, refusal

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    raise MissingExtra("numpy", "replay") from missing

Ints = NDArray[Any]

BLOCK = 4096
"""Customers that are made together."""
CIRCLE = 64
"""Customers who know one another: transfers and referrals stay among them."""
CUSTOMERS_MAX = 50_000_000
YEARS_MAX = 30
MEAN_MIN, MEAN_MAX = 4, 500
"""Facts for each customer. A block is made as a whole: with the most, it takes 600 MB."""
FACTS_MAX = 100_000
"""How many facts a single customer has at most, about."""
END_US = days_from_civil(2025, 1, 1) * DAY_US
"""All histories end here, so that none lies in the future."""
TICK_US = 62_500
"""Facts are recorded at whole sixteenths of a second."""
ZIPF = 0.6
"""The customer of rank r has r**-ZIPF times as many facts as the first."""

KINDS = (
    "customer.registered",
    "customer.changed",
    "customer.interaction_recorded",
    "customer.purchase_recorded",
    "customer.return_recorded",
    "customer.referred",
    "customer.referred_by",
    "loyalty.enrolled",
    "loyalty.activity_recorded",
    "loyalty.earning_confirmed",
    "loyalty.earning_withdrawn",
    "loyalty.redemption_requested",
    "loyalty.redemption_returned",
    "loyalty.hold_requested",
    "loyalty.hold_release_requested",
    "loyalty.transfer_requested",
    "loyalty.transfer_received",
    "loyalty.goodwill_granted",
    "loyalty.correction_recorded",
    "loyalty.extension_granted",
    "loyalty.reinstatement_granted",
    "loyalty.tier_overridden",
    "loyalty.tier_override_lifted",
    "loyalty.referral_credited",
    "loyalty.referral_reduced",
    "loyalty.coupon_granted",
    "loyalty.coupon_used",
    "loyalty.coupon_voided",
    "loyalty.suspended",
    "loyalty.resumed",
    "loyalty.closed",
    "ticket.opened",
    "ticket.assigned",
    "ticket.replied",
    "ticket.resolved",
    "ticket.compensated",
    "ticket.satisfaction_recorded",
    "ticket.closed",
)
KIND = {name: place for place, name in enumerate(KINDS)}
TWINS = ("customer.referred_by", "loyalty.transfer_received", "loyalty.referral_credited", "loyalty.referral_reduced")
"""Kinds that the other customer's command records."""

SORTS = ("person", "organisation", "internal")
COUNTRIES = ("US", "CA", "GB", "DE", "FR", "IT", "NL", "ES", "JP", "AU", "BR", "IN")
UTC_OFFSETS_H = (-6, -5, 0, 1, 1, 1, 1, 1, 9, 10, -3, 5)
SOURCES = ("web", "store", "app", "referral", "campaign", "partner")
TRAITS = ("country", "source", "birth_month", "name")
CHANNELS = ("web", "app", "store", "phone", "mail")
ONLINE = 2
"""The first channels are online, with deliveries."""
STORES = ("", *(f"store-{number:02d}" for number in range(1, 41)))
CURRENCIES = ("home", "foreign-1", "foreign-2")
"""The programme's currency, and others."""
CATEGORIES = (
    "grocery", "drinks", "household", "beauty", "music", "books", "toys", "garden", "sport", "seat", "baggage",
    "lounge", "alcohol", "tobacco", "gift_card", "top_up",
)  # fmt: skip
UNTAXED = 14
"""From this category on, lines are money themselves: without tax."""
INTERACTIONS = ("enquiry", "browsing", "campaign", "greeting", "follow_up", "visit")
REASONS = ("size", "damaged", "unwanted", "late", "wrong_item")
ACTIVITIES = (
    "visit", "check_in", "review", "survey", "own_bag", "personal_cup", "card_spending", "hotel_night", "flight",
    "profile_completed",
)  # fmt: skip
QUANTITIES = (1, 1, 1, 1, 1, 1, 400, 3, 4000, 1)
"""The largest quantity of each activity."""
PARTNERS = ("", "alpine_air", "pacific_wings")
REWARDS = ("voucher-5", "voucher-10", "voucher-25", "coffee", "cinema", "upgrade", "donation", "gift")
OCCASIONS = ("registration", "first_purchase")
TICKETS = ("enquiry", "incident", "complaint", "after_sales", "request", "feedback")
COMPLAINT = 2
AUTHORS = ("human", "customer", "bot")
AGENTS = 60
SKUS = 5000

LATE_SHARE = 0.05
RETURNED_SHARE = 0.08
PER_PRIMARY = 1.25
"""How many facts come of what a customer does by himself, with all that follows from it."""
FIRST_FACTS = 2.05
"""And with registration, enrolment and referrals."""

_CELLS = 1 << 16
_PRIMARIES = {
    "customer.purchase_recorded": 0.745,
    "loyalty.activity_recorded": 0.085,
    "loyalty.redemption_requested": 0.055,
    "customer.interaction_recorded": 0.034,
    "ticket.opened": 0.022,
    "loyalty.hold_requested": 0.013,
    "customer.changed": 0.014,
    "loyalty.goodwill_granted": 0.009,
    "loyalty.coupon_granted": 0.008,
    "loyalty.transfer_requested": 0.005,
    "loyalty.correction_recorded": 0.003,
    "loyalty.tier_overridden": 0.002,
    "loyalty.suspended": 0.002,
    "loyalty.extension_granted": 0.0015,
    "loyalty.reinstatement_granted": 0.0015,
}
"""What customers do by themselves, and how often."""


@dataclass(frozen=True, slots=True)
class History:
    """Which history is made. `events`: about so many facts in all (default: 21 for each customer).

    It begins `years` before 2025-01-01 and ends there. Refuses: invalid_argument.
    """

    seed: int = 1
    customers: int = 1000
    events: int | None = None
    years: int = 5

    def __post_init__(self) -> None:
        _whole(self.seed, "seed", 0, 2**63 - 1)
        _whole(self.customers, "customers", 1, CUSTOMERS_MAX)
        _whole(self.years, "years", 1, YEARS_MAX)
        if self.events is not None:
            _whole(self.events, "events", self.customers * MEAN_MIN, self.customers * MEAN_MAX)

    @property
    def mean(self) -> float:
        """Facts for each customer."""
        return 21.0 if self.events is None else self.events / self.customers

    @property
    def start_us(self) -> int:
        """When it begins."""
        return days_from_civil(2025 - self.years, 1, 1) * DAY_US

    def months(self) -> list[int]:
        """When each month of it ends, in µs: the next one's beginning."""
        begin = 2025 - self.years
        firsts = [(begin + number // 12, number % 12 + 1) for number in range(1, self.years * 12 + 1)]
        return [days_from_civil(year, month, 1) * DAY_US for year, month in firsts]


def _whole(value: object, name: str, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise refusal(
            "invalid_argument",
            f"{name}: {value!r} is given, and a whole number from {least:,} to {most:,} is wanted.",
            argument=name,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole customers, from the ordinal `first` on; the columns are in the module's description."""

    first: int
    id_hi: Ints
    id_lo: Ints
    sort: Ints
    country: Ints
    source: Ints
    birth_month: Ints
    fact_start: Ints
    customer: Ints
    kind: Ints
    effective_us: Ints
    recorded_us: Ints
    ref: Ints
    peer: Ints
    code: Ints
    a: Ints
    b: Ints
    channel: Ints
    store: Ints
    currency: Ints
    line_start: Ints
    line: Ints
    sku: Ints
    category: Ints
    quantity: Ints
    net: Ints
    tax: Ints
    shipping: Ints
    discount: Ints

    @property
    def customers(self) -> int:
        """How many there are."""
        return len(self.sort)

    @property
    def facts(self) -> int:
        """How many there are."""
        return len(self.kind)

    def customer_id(self, ordinal: int) -> UUID:
        """The id of one of its customers."""
        place = ordinal - self.first
        return UUID(int=int(self.id_hi[place]) << 64 | int(self.id_lo[place]))


OF_CUSTOMERS = ("id_hi", "id_lo", "sort", "country", "source", "birth_month")
OF_FACTS = (
    "customer", "kind", "effective_us", "recorded_us", "ref", "peer", "code", "a", "b", "channel", "store", "currency",
)  # fmt: skip
OF_LINES = ("line", "sku", "category", "quantity", "net", "tax", "shipping", "discount")
OFFSETS = ("fact_start", "line_start")


def chunks(history: History, *, customers: int = BLOCK, first: int = 0) -> Iterator[Chunk]:
    """The whole history in chunks of so many customers, from the ordinal `first` on."""
    _whole(customers, "customers", 1, CUSTOMERS_MAX)
    _whole(first, "first", 0, CUSTOMERS_MAX)
    made: Chunk | None = None
    while first < history.customers:
        last = min(first + customers, history.customers)
        parts = []
        for number in range(first // BLOCK, (last - 1) // BLOCK + 1):
            begin = number * BLOCK
            if made is None or made.first != begin:
                made = block(history, number)
            parts.append(_cut(made, max(first - begin, 0), min(last - begin, BLOCK)))
        yield parts[0] if len(parts) == 1 else _joined(parts)
        first = last


def _cut(one: Chunk, begin: int, end: int) -> Chunk:
    """Customers of a chunk, by place."""
    if (begin, end) == (0, one.customers):
        return one
    facts = slice(one.fact_start[begin], one.fact_start[end])
    lines = slice(one.line_start[facts.start], one.line_start[facts.stop])
    found: dict[str, Any] = {name: getattr(one, name)[begin:end] for name in OF_CUSTOMERS}
    found |= {name: getattr(one, name)[facts] for name in OF_FACTS}
    found |= {name: getattr(one, name)[lines] for name in OF_LINES}
    found["fact_start"] = one.fact_start[begin : end + 1] - facts.start
    found["line_start"] = one.line_start[facts.start : facts.stop + 1] - lines.start
    return Chunk(first=one.first + begin, **found)


def _joined(parts: list[Chunk]) -> Chunk:
    found: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in parts]) for name in (*OF_CUSTOMERS, *OF_FACTS, *OF_LINES)
    }
    for name in OFFSETS:
        found[name] = np.concatenate([[0], *(np.diff(getattr(one, name)) for one in parts)]).cumsum()
    return Chunk(first=parts[0].first, **found)


class Digest:
    """SHA-256 over all columns, the same however customers are cut into chunks."""

    def __init__(self, history: History) -> None:
        self._of = repr(history)
        self._columns = {one.name: hashlib.sha256() for one in fields(Chunk) if one.name != "first"}

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk in."""
        for name, column in self._columns.items():
            values = getattr(chunk, name)
            if name in OFFSETS:
                values = np.diff(values)
            column.update(np.ascontiguousarray(values).data)

    def hexdigest(self) -> str:
        """Of what was taken in so far."""
        whole = hashlib.sha256(self._of.encode())
        for name, column in sorted(self._columns.items()):
            whole.update(name.encode() + column.digest())
        return whole.hexdigest()


# ── chance ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Chance:
    """Random numbers of one block."""

    def __init__(self, seed: int, number: int) -> None:
        self._bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(number,)))

    def raw(self, count: int) -> Ints:
        """64 bits each."""
        found: Ints = self._bits.random_raw(count)
        return found

    def unit(self, count: int) -> Ints:
        """From 0 to below 1."""
        return (self.raw(count) >> np.uint64(11)) * 2.0**-53

    def cells(self, count: int) -> Ints:
        """16 bits each: places in a table."""
        found: Ints = self.raw((count + 3) // 4).astype("<u8", copy=False).view("<u2")[:count]
        return found

    def of(self, table: Ints, count: int) -> Ints:
        """Entries of a table of 65,536."""
        found: Ints = table[self.cells(count)]
        return found

    def some(self, share: float, count: int) -> Ints:
        """Which of so many, each with the same chance."""
        found: Ints = np.flatnonzero(self.cells(count) < int(share * _CELLS))
        return found

    def below(self, limit: Ints | int, count: int) -> Ints:
        """Whole numbers from 0 to below a limit, which is at most 2**32."""
        high = self.raw(count) >> np.uint64(32)
        found: Ints = (high * np.asarray(limit, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)
        return found


def _choice(shares: Any, dtype: Any = np.uint8) -> Ints:
    """A table from which places come up by their shares."""
    upto = np.cumsum(np.asarray(shares, dtype=np.float64))
    return np.searchsorted(upto / upto[-1], (np.arange(_CELLS) + 0.5) / _CELLS).astype(dtype)


def _zipf(count: int, power: float = 1.0) -> Ints:
    return np.arange(1, count + 1, dtype=np.float64) ** -power


_QUANTILES = np.repeat([NormalDist().inv_cdf((cell + 0.5) / 2048) for cell in range(2048)], _CELLS // 2048)


def _lognormal(median: float, sigma: float, least: float, most: float) -> Ints:
    """A table of a log-normal distribution, in whole numbers."""
    return np.clip(median * np.exp(sigma * _QUANTILES), least, most).astype(np.int64)


_SECOND_US, _HOUR_US = 1_000_000, 3_600_000_000
_KIND_OF = _choice(list(_PRIMARIES.values()))
_KIND_OF = np.array([KIND[name] for name in _PRIMARIES], dtype=np.uint8)[_KIND_OF]
_SORT_OF = _choice([0.93, 0.05, 0.02])
_COUNTRY_OF = _choice(_zipf(len(COUNTRIES), 1.4))
_SOURCE_OF = _choice(_zipf(len(SOURCES), 0.8))
_STORE_OF = _choice(_zipf(len(STORES) - 1)) + np.uint8(1)
_CHANNEL_OF = _choice([0.38, 0.24, 0.33, 0.04, 0.01])
_CURRENCY_OF = _choice([0.965, 0.025, 0.01])
_LEVEL_OF = _lognormal(100, 0.45, 25, 600)
_LINES_OF = _choice([0.56, 0.24, 0.11, 0.06, 0.03]) + np.uint8(1)
_SKU_OF = _choice(_zipf(SKUS), np.int32)
_QUANTITY_OF = _choice([0.78, 0.13, 0.04, 0.02, 0.01, 0.01, 0.003, 0.003, 0.001, 0.001, 0.001, 0.001]) + np.uint8(1)
_DISCOUNT_OF = np.array([0, 5, 10, 15, 20, 30, 50], dtype=np.int64)[_choice([0.76, 0.05, 0.08, 0.02, 0.05, 0.03, 0.01])]
# Which article costs what, and of which category it is, is the same in every history.
_MIXED = (np.arange(SKUS, dtype=np.uint64) * np.uint64(40503) + np.uint64(29_000)) % np.uint64(_CELLS)
_PRICE_OF_SKU = _lognormal(1650, 0.85, 99, 150_000)[_MIXED]
_PRICE_OF_SKU[_MIXED < 300] = 0  # samples
_CATEGORY_OF_SKU = _choice(_zipf(len(CATEGORIES), 0.9))[_MIXED * np.uint64(7919) % np.uint64(_CELLS)]
_ACTIVITY_OF = _choice(_zipf(len(ACTIVITIES), 0.7))
_PARTNER_OF = _choice([0.86, 0.09, 0.05])
_REWARD_OF = _choice(_zipf(len(REWARDS)))
_INTERACTION_OF = _choice(_zipf(len(INTERACTIONS)))
_TICKET_OF = _choice([0.32, 0.14, 0.24, 0.16, 0.09, 0.05])
_REASON_OF = _choice(_zipf(len(REASONS), 0.7))
_SCORE_OF = _choice([0.09, 0.08, 0.16, 0.33, 0.34]) + np.uint8(1)
_SPEND_OF = _lognormal(45, 0.5, 5, 95)
_PROMPT_US = (-20e6 * np.log1p(-(np.arange(_CELLS) + 0.5) / _CELLS)).astype(np.int64) + 300_000
_LATE_US = _lognormal(12 * 86_400, 0.8, 86_400, 150 * 86_400) * _SECOND_US
_RETURN_US = _lognormal(9 * 86_400, 0.8, 3_600, 200 * 86_400) * _SECOND_US
_REPLY_US = _lognormal(5 * 3_600, 1.1, 120, 20 * 86_400) * _SECOND_US
_DAYS_US = _lognormal(5 * 86_400, 0.6, 3_600, 40 * 86_400) * _SECOND_US


def _hours(shares: list[int]) -> Ints:
    """A table of times of the day (µs), by shares of its hours."""
    hour = _choice(shares, np.int64)
    within = np.arange(_CELLS) * 40_503 % 3_600
    return hour * _HOUR_US + within * _SECOND_US


_IN_STORES = _hours([0, 0, 0, 0, 0, 0, 0, 1, 4, 8, 10, 12, 14, 11, 9, 9, 11, 14, 13, 8, 3, 0, 0, 0])
_AT_HOME = _hours([2, 1, 1, 0, 0, 1, 2, 4, 5, 6, 6, 6, 7, 6, 5, 5, 6, 7, 8, 11, 13, 14, 10, 5])
_MONTH_SHARES = (0.86, 0.80, 0.92, 0.95, 1.0, 0.98, 0.93, 0.92, 0.97, 1.04, 1.30, 1.52)
_WEEKDAY_SHARES = (0.86, 0.88, 0.92, 0.98, 1.14, 1.30, 0.92)


@lru_cache(maxsize=8)
def _days(years: int) -> Ints:
    """A table of the days of a span, weighed by season and weekday: the day at each share of all activity."""
    begin, end = days_from_civil(2025 - years, 1, 1), END_US // DAY_US
    shares = [_MONTH_SHARES[civil_from_days(day)[1] - 1] * _WEEKDAY_SHARES[(day + 3) % 7] for day in range(begin, end)]
    return _choice(shares, np.int64) + begin


# ── rows in the making ────────────────────────────────────────────────────────────────────────────────────────────────


class _Rows:
    """Facts in the order in which they come up; `place` of a fact is how the others refer to it."""

    DEFAULTS: ClassVar[dict[str, int]] = {"ref": -1, "peer": -1, "code": -1}

    def __init__(self) -> None:
        self._groups: list[dict[str, Any]] = []
        self.count = 0

    def add(self, kind: str | Ints, who: Ints, effective_us: Ints, recorded_us: Ints, **more: Any) -> Ints:
        """Facts of a kind; their places."""
        count = len(who)
        given = {"who": who, "kind": KIND[kind] if isinstance(kind, str) else kind}
        self._groups.append({**given, "effective_us": effective_us, "recorded_us": recorded_us, "count": count, **more})
        self.count += count
        return np.arange(self.count - count, self.count)

    def column(self, name: str, dtype: Any = np.int64) -> Ints:
        """All facts' values."""
        found: Ints = np.empty(self.count, dtype=dtype)
        default = self.DEFAULTS.get(name, 0)
        at = 0
        for group in self._groups:
            found[at : at + group["count"]] = group.get(name, default)
            at += group["count"]
        return found


class _Lines:
    """Lines in the making."""

    def __init__(self) -> None:
        self._groups: list[dict[str, Ints]] = []
        self.count = 0

    def add(self, **columns: Ints) -> int:
        """Lines; where they begin."""
        self._groups.append(columns)
        begin = self.count
        self.count += len(columns["line"])
        return begin

    def column(self, name: str, dtype: Any) -> Ints:
        """All lines' values."""
        found: Ints = np.zeros(self.count, dtype=dtype)
        at = 0
        for group in self._groups:
            count = len(group["line"])
            if name in group:
                found[at : at + count] = group[name]
            at += count
        return found


def spread(starts: Ints, counts: Ints) -> Ints:
    """Places of ragged pieces, one after the other."""
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    found: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return found


# ── a block ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_PURCHASE, _ACTIVITY, _TRANSFER = (
    KIND[name] for name in ("customer.purchase_recorded", "loyalty.activity_recorded", "loyalty.transfer_requested")
)
_OF_LOYALTY = np.array([name.startswith("loyalty.") for name in KINDS])
_COMES_LATE = np.array([name in ("customer.purchase_recorded", "loyalty.activity_recorded") for name in KINDS])
_SPENDS = np.array(
    [name in ("loyalty.redemption_requested", "loyalty.hold_requested", "loyalty.transfer_requested") for name in KINDS]
)
_LATE_OF_THEM = LATE_SHARE / 0.70
"""Share of late facts among purchases, activities and returns, which seven in ten facts are."""
_NEVER = 2**62
_GOLDEN = 0.6180339887498949
_BUSIEST = 12
"""Facts a day that nobody exceeds for long."""


def _mixed(values: Ints) -> Ints:
    """SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Ints = values ^ (values >> np.uint64(31))
    return found


def customer_ids(seed: int, ordinals: Ints) -> tuple[Ints, Ints]:
    """The ids of customers, by ordinal: UUIDs (version 4 by their form), in two halves."""
    step = np.uint64(0x9E3779B97F4A7C15)
    base = _mixed(np.array([seed], dtype=np.uint64) + step)
    high = _mixed(base + ordinals.astype(np.uint64) * np.uint64(2) * step)
    low = _mixed(base + (ordinals.astype(np.uint64) * np.uint64(2) + np.uint64(1)) * step)
    high = high & ~np.uint64(0xF000) | np.uint64(0x4000)
    return high, low & np.uint64(0x3FFFFFFFFFFFFFFF) | np.uint64(0x8000000000000000)


class _People(NamedTuple):
    """The customers of a block. Shares are of the span's activity."""

    sort: Ints
    country: Ints
    source: Ints
    birth_month: Ints
    primaries: Ints
    joins: Ints
    leaves: Ints
    joined_us: Ints
    known_us: Ints
    """When the registration was recorded."""
    enrolled_us: Ints
    member_us: Ints
    """When the enrolment was recorded; _NEVER: there was none."""
    closes: Ints


def block(history: History, number: int) -> Chunk:
    """The customers of a block, all 4,096 of them, whoever else is asked for."""
    chance = _Chance(history.seed, number)
    first = number * BLOCK
    days = _days(history.years)
    rows, lines = _Rows(), _Lines()
    people = _people(history, chance, first)
    _register(chance, people, rows, days)
    _live(chance, people, rows, lines, days, first)
    return _table(history, chance, people, rows, lines, first)


def _people(history: History, chance: _Chance, first: int) -> _People:
    table = _days(history.years)
    days = int(table[-1] - table[0]) + 1
    # A golden-ratio sequence instead of independent draws: the total of any number of customers comes out.
    shift = int(np.random.SeedSequence(history.seed).generate_state(1, np.uint64)[0] >> np.uint64(11)) * 2.0**-53
    even = (np.arange(first + 1, first + BLOCK + 1) * _GOLDEN + shift) % 1.0
    # Nobody is larger than the first of a few times as many customers would be.
    even = np.maximum(even, 0.4 / np.arange(first + 300, first + 300 + BLOCK))
    activity = np.minimum((1 - ZIPF) * history.mean * even**-ZIPF, min(FACTS_MAX, 60 * days))
    sort = np.where(activity > 30 * history.mean, 1, chance.of(_SORT_OF, BLOCK)).astype(np.uint8)
    busy = np.minimum(activity / (_BUSIEST * days), 1.0)
    joins = np.minimum(chance.unit(BLOCK) ** 1.7 * 0.97, 1.0 - busy)
    stays = np.where(chance.cells(BLOCK) < 0.6 * _CELLS, 1.0, 0.05 + 0.95 * chance.unit(BLOCK))
    leaves = joins + (1.0 - joins) * np.maximum(stays, np.minimum(busy / np.maximum(1.0 - joins, 1e-9), 1.0))
    joins, leaves = np.clip(joins, 0.0, 1.0 - 1e-9), np.clip(leaves, 0.0, 1.0 - 1e-9)
    joined = _moments(chance, table, joins, chance.of(_AT_HOME, BLOCK))
    known = joined + chance.of(_PROMPT_US, BLOCK)
    waits = np.where(chance.cells(BLOCK) < 0.85 * _CELLS, 5 * _SECOND_US, chance.of(_DAYS_US, BLOCK) * 4)
    enrolled = joined + waits
    member = np.maximum(enrolled, known) + chance.of(_PROMPT_US, BLOCK)
    never = chance.some(0.03, BLOCK)
    enrolled[never] = member[never] = _NEVER
    closes = np.zeros(BLOCK, dtype=bool)
    closes[chance.some(0.1, BLOCK)] = True
    return _People(
        sort,
        chance.of(_COUNTRY_OF, BLOCK),
        chance.of(_SOURCE_OF, BLOCK),
        np.where((sort == 0) & (chance.cells(BLOCK) < 0.8 * _CELLS), 1 + chance.below(12, BLOCK), 0).astype(np.uint8),
        np.floor(np.maximum(activity - FIRST_FACTS, 0) / PER_PRIMARY + chance.unit(BLOCK)).astype(np.int64),
        joins,
        leaves,
        joined,
        known,
        enrolled,
        member,
        closes & (leaves < 0.97) & (enrolled < _NEVER),
    )


def _moments(chance: _Chance, days: Ints, shares: Ints, of_day_us: Ints) -> Ints:
    """Moments by shares of the span's activity and times of the day, with microseconds."""
    within = (chance.raw(len(shares)) >> np.uint64(44)).astype(np.int64)
    found: Ints = days[(shares * _CELLS).astype(np.int64)] * DAY_US + of_day_us + within
    return found


def _register(chance: _Chance, people: _People, rows: _Rows, days: Ints) -> None:
    """Registrations, enrolments, closures."""
    rows.add("customer.registered", np.arange(BLOCK), people.joined_us, people.known_us)
    members = np.flatnonzero(people.enrolled_us < _NEVER)
    rows.add("loyalty.enrolled", members, people.enrolled_us[members], people.member_us[members])
    leavers = np.flatnonzero(people.closes)
    at_us = _moments(chance, days, people.leaves[leavers], chance.of(_AT_HOME, len(leavers)))
    at_us = np.maximum(at_us, people.member_us[leavers])
    at_us += chance.of(_DAYS_US, len(leavers)) * 3
    rows.add("loyalty.closed", leavers, at_us, at_us + chance.of(_PROMPT_US, len(leavers)))


def _live(chance: _Chance, people: _People, rows: _Rows, lines: _Lines, days: Ints, first: int) -> None:
    """What customers do, and what follows from it."""
    who = np.repeat(np.arange(BLOCK), people.primaries)
    count = len(who)
    kind = chance.of(_KIND_OF, count)
    shares = people.joins[who] + chance.unit(count) * (people.leaves - people.joins)[who]
    channel = _channels(chance, who)
    of_day = np.where(channel == ONLINE, chance.of(_IN_STORES, count), chance.of(_AT_HOME, count))
    effective = _moments(chance, days, shares, of_day)
    effective -= np.array(UTC_OFFSETS_H, dtype=np.int64)[people.country[who]] * _HOUR_US
    earliest = people.joined_us[who] + 60 * _SECOND_US + (chance.raw(count) >> np.uint64(36)).astype(np.int64)
    effective = np.maximum(effective, earliest)
    # Who is no member yet buys.
    kind[_OF_LOYALTY[kind] & (effective <= people.enrolled_us[who] + 60 * _SECOND_US)] = _PURCHASE
    recorded = effective + chance.of(_PROMPT_US, count)
    late = chance.some(_LATE_OF_THEM, count)
    late = late[_COMES_LATE[kind[late]]]
    recorded[late] += chance.of(_LATE_US, len(late))
    recorded = np.maximum(recorded, people.known_us[who] + _SECOND_US)
    of_members = np.flatnonzero(_OF_LOYALTY[kind])
    recorded[of_members] = np.maximum(recorded[of_members], people.member_us[who[of_members]] + _SECOND_US)

    code, peer = np.full(count, -1), np.full(count, -1)
    a, b = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)

    def of(name: str) -> Ints:
        return np.flatnonzero(kind == KIND[name])

    them = of("loyalty.transfer_requested")
    other = who[them] // CIRCLE * CIRCLE + chance.below(CIRCLE, len(them))
    takes = (
        (other != who[them])
        & (people.member_us[other] < recorded[them])
        & (people.enrolled_us[other] < effective[them])
    )
    kind[them[~takes]] = KIND["loyalty.goodwill_granted"]
    gives, other = them[takes], other[takes]
    peer[gives] = first + other

    purchases, acts = of("customer.purchase_recorded"), of("loyalty.activity_recorded")
    code[acts] = chance.of(_ACTIVITY_OF, len(acts))
    a[acts] = 1 + chance.below(np.array(QUANTITIES)[code[acts]], len(acts))
    b[acts] = chance.of(_PARTNER_OF, len(acts))
    spends, holds = of("loyalty.redemption_requested"), of("loyalty.hold_requested")
    code[spends] = chance.of(_REWARD_OF, len(spends))
    b[holds] = effective[holds] + (1 + chance.below(7, len(holds))) * DAY_US
    them = of("customer.interaction_recorded")
    code[them], a[them] = chance.of(_INTERACTION_OF, len(them)), chance.below(2, len(them))
    them = of("customer.changed")
    code[them] = trait = chance.below(len(TRAITS), len(them))
    a[them] = chance.below(np.array([len(COUNTRIES), len(SOURCES), 12, 1000])[trait], len(them)) + (trait == 2)
    them = of("loyalty.goodwill_granted")
    a[them] = 25 * (1 + chance.below(20, len(them)))
    them = of("loyalty.correction_recorded")
    a[them] = 10 * (1 + chance.below(30, len(them)))
    coupons = of("loyalty.coupon_granted")
    code[coupons] = chance.of(_REWARD_OF, len(coupons))
    overrides = of("loyalty.tier_overridden")
    code[overrides] = 1 + chance.below(2, len(overrides))
    extended, given_back = of("loyalty.extension_granted"), of("loyalty.reinstatement_granted")
    for some, least in ((overrides, 30), (extended, 90), (given_back, 90)):
        b[some] = effective[some] + (least + chance.below(300, len(some))) * DAY_US
    a[given_back] = 10 * (1 + chance.below(50, len(given_back)))
    tickets = of("ticket.opened")
    code[tickets] = chance.of(_TICKET_OF, len(tickets))

    sizes, starts, goods = _goods(chance, people, who[purchases], channel[purchases])
    line_from, line_count = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    line_from[purchases], line_count[purchases] = starts + lines.add(**goods), sizes
    a[purchases] = np.add.reduceat(goods["net"], starts) if len(purchases) else 0
    place = rows.add(
        kind,
        who,
        effective,
        recorded,
        code=code,
        peer=peer,
        a=a,
        b=b,
        channel=channel,
        line_from=line_from,
        lines=line_count,
    )
    rows.add(
        "loyalty.transfer_received",
        other,
        effective[gives],
        recorded[gives] + 1,
        peer=first + who[gives],
        b=effective[gives] - 60 * DAY_US,
        ref=-2 - place[gives],
    )

    after = _After(chance, rows, place, who, effective, recorded, channel)
    refunds = _return(chance, after, lines, purchases, sizes, starts, goods)
    some = purchases[chance.some(0.05, len(purchases))]
    after.add("loyalty.earning_confirmed", some[people.member_us[who[some]] < recorded[some]], _DAYS_US)
    after.add("loyalty.earning_withdrawn", acts[chance.some(0.03, len(acts))], _DAYS_US)
    some = spends[chance.some(0.06, len(spends))]
    whole = (chance.cells(len(some)) < 0.7 * _CELLS).astype(np.int64)
    after.add("loyalty.redemption_returned", some, _DAYS_US, b=whole)
    fate = chance.cells(len(holds))
    some = holds[fate < 0.55 * _CELLS]
    before = chance.unit(len(some)) * 0.9 * (b[some] - effective[some])
    after.add(
        "loyalty.redemption_requested",
        some,
        before.astype(np.int64) + _SECOND_US,
        code=chance.of(_REWARD_OF, len(some)),
    )
    some = holds[(fate >= 0.55 * _CELLS) & (fate < 0.75 * _CELLS)]
    before = chance.unit(len(some)) * 0.9 * (b[some] - effective[some])
    after.add("loyalty.hold_release_requested", some, before.astype(np.int64) + _SECOND_US)
    some = overrides[chance.some(0.3, len(overrides))]
    after.add("loyalty.tier_override_lifted", some, _DAYS_US)
    some = of("loyalty.suspended")
    after.add("loyalty.resumed", some[chance.some(0.9, len(some))], _DAYS_US)
    fate = chance.cells(len(coupons))
    after.add("loyalty.coupon_used", coupons[fate < 0.6 * _CELLS], _REPLY_US)
    after.add("loyalty.coupon_voided", coupons[fate >= 0.88 * _CELLS], _REPLY_US)
    _answer(chance, after, tickets, code[tickets], people)
    _refer(chance, people, after, first, purchases, line_from, line_count, refunds)


def _channels(chance: _Chance, who: Ints) -> Ints:
    """Half of what somebody does goes by the channel of his habit."""
    own = chance.of(_CHANNEL_OF, BLOCK)
    found: Ints = np.where(chance.cells(len(who)) < _CELLS // 2, own[who], chance.of(_CHANNEL_OF, len(who)))
    return found


def _goods(chance: _Chance, people: _People, who: Ints, channel: Ints) -> tuple[Ints, Ints, dict[str, Ints]]:
    """How many lines each purchase has, where they begin, and the lines."""
    sizes = chance.of(_LINES_OF, len(who)).astype(np.int64)
    ends = sizes.cumsum()
    starts = ends - sizes
    count = int(ends[-1]) if len(ends) else 0
    level = chance.of(_LEVEL_OF, BLOCK)
    order = np.repeat(np.arange(len(who)), sizes)
    sku = chance.of(_SKU_OF, count)
    quantity = chance.of(_QUANTITY_OF, count).astype(np.int64)
    quantity[people.sort[who[order]] == 1] *= 4
    full = _PRICE_OF_SKU[sku] * level[who[order]] // 100 * quantity
    discount = full * chance.of(_DISCOUNT_OF, count) // 100
    net = full - discount
    category = _CATEGORY_OF_SKU[sku]
    tax = np.where(category < UNTAXED, net * 8 // 100, 0)
    shipping = np.zeros(count, dtype=np.int64)
    if count:
        totals = np.add.reduceat(net, starts)
        shipping[starts] = np.where((channel < ONLINE) & (totals < 5000), 495, 0)
    return sizes, starts, {
        "line": (np.arange(count) - starts[order] + 1).astype(np.uint8),
        "sku": sku,
        "category": category,
        "quantity": quantity,
        "net": net,
        "tax": tax,
        "shipping": shipping,
        "discount": discount,
    }  # fmt: skip


class _After:
    """What follows from facts: later than they, and recorded later."""

    def __init__(
        self, chance: _Chance, rows: _Rows, place: Ints, who: Ints, effective_us: Ints, recorded_us: Ints, channel: Ints
    ) -> None:
        self.chance, self.rows, self.place, self.channel = chance, rows, place, channel
        self.who, self.effective_us, self.recorded_us = who, effective_us, recorded_us

    def times(self, effective_us: Ints, recorded_us: Ints, delay: Ints) -> tuple[Ints, Ints]:
        """Of what follows. `delay`: a table, or µs for each."""
        count = len(effective_us)
        if len(delay) == _CELLS:
            delay = self.chance.of(delay, count) + (self.chance.raw(count) >> np.uint64(34)).astype(np.int64)
        then = effective_us + delay
        return then, np.maximum(then, recorded_us) + _SECOND_US + self.chance.of(_PROMPT_US, count)

    def add(self, kind: str, facts: Ints, delay: Ints, **more: Any) -> Ints:
        """Facts that rest on others, each of the same customer; their places."""
        then, known = self.times(self.effective_us[facts], self.recorded_us[facts], delay)
        return self.rows.add(
            kind, self.who[facts], then, known, ref=self.place[facts], channel=self.channel[facts], **more
        )


class _Refunds(NamedTuple):
    """First returns: of which purchase (its index), where the fact stands, when, and which lines come back."""

    purchase: Ints
    effective_us: Ints
    recorded_us: Ints
    line_from: Ints
    lines: Ints


def _return(
    chance: _Chance,
    after: _After,
    lines: _Lines,
    purchases: Ints,
    sizes: Ints,
    starts: Ints,
    goods: dict[str, Ints],
) -> _Refunds:
    """Returns: all of a purchase, or pieces of one line, and of these some again."""
    some = chance.some(RETURNED_SHARE, len(purchases))
    count = len(some)
    size, start = sizes[some], starts[some]
    net, quantity = goods["net"], goods["quantity"]
    line = chance.below(size, count)
    pieces = quantity[start + line]
    whole = (chance.cells(count) < 0.45 * _CELLS) | ((size == 1) & (pieces == 1))
    part = 1 + chance.below(np.where(size == 1, np.maximum(pieces - 1, 1), pieces), count)
    back_size = np.where(whole, size, 1)
    of = spread(np.where(whole, start, start + line), back_size)
    asked = np.where(np.repeat(whole, back_size), quantity[of], np.repeat(part, back_size))
    back = net[of] * asked // quantity[of]
    begin = lines.add(
        line=goods["line"][of], sku=goods["sku"][of], category=goods["category"][of], quantity=asked, net=back
    )
    ends = back_size.cumsum()
    totals = np.add.reduceat(back, ends - back_size) if count else back
    facts = purchases[some]
    then, known = after.times(after.effective_us[facts], after.recorded_us[facts], _RETURN_US)
    late = chance.some(_LATE_OF_THEM, count)
    known[late] += chance.of(_LATE_US, len(late))
    line_from = begin + ends - back_size
    reason = chance.of(_REASON_OF, count)
    after.rows.add(
        "customer.return_recorded",
        after.who[facts],
        then,
        known,
        ref=after.place[facts],
        a=totals,
        code=reason,
        channel=after.channel[facts],
        line_from=line_from,
        lines=back_size,
    )
    # Once more: the next line, or one more piece of the only one.
    more = np.flatnonzero(~whole & ((size > 1) | (part < pieces)) & (chance.cells(count) < _CELLS // 4))
    single = size[more] == 1
    of = start[more] + np.where(single, line[more], (line[more] + 1) % size[more])
    had = np.where(single, part[more], 0)
    asked = np.where(single, 1, quantity[of])
    again = net[of] * (had + asked) // quantity[of] - net[of] * had // quantity[of]
    begin = lines.add(
        line=goods["line"][of], sku=goods["sku"][of], category=goods["category"][of], quantity=asked, net=again
    )
    then_again, known_again = after.times(then[more], known[more], _RETURN_US)
    after.rows.add(
        "customer.return_recorded",
        after.who[facts[more]],
        then_again,
        known_again,
        ref=after.place[facts[more]],
        a=again,
        code=reason[more],
        channel=after.channel[facts[more]],
        line_from=begin + np.arange(len(more)),
        lines=np.ones(len(more), dtype=np.int64),
    )
    return _Refunds(facts, then, known, line_from, back_size)


def _answer(chance: _Chance, after: _After, tickets: Ints, kinds: Ints, people: _People) -> None:
    """What happens in tickets, one after the other."""
    who, ref = after.who[tickets], after.place[tickets]
    then, known = after.effective_us[tickets], after.recorded_us[tickets]
    count = len(tickets)
    complaint = kinds == COMPLAINT
    open_still = np.ones(count, dtype=bool)
    agent = 1 + chance.below(AGENTS, count)
    solved = chance.cells(count) < 0.94 * _CELLS
    member = people.member_us[who] < known
    steps: tuple[tuple[str, Ints, dict[str, Ints]], ...] = (
        ("ticket.assigned", complaint | (chance.cells(count) < 0.9 * _CELLS), {"a": agent}),
        ("ticket.replied", chance.cells(count) < 0.3 * _CELLS, {"a": np.full(count, 2)}),
        ("ticket.replied", chance.cells(count) < 0.97 * _CELLS, {"a": np.zeros(count, dtype=np.int64)}),
        ("ticket.replied", chance.cells(count) < 0.4 * _CELLS, {"a": np.ones(count, dtype=np.int64)}),
        (
            "ticket.compensated",
            complaint & member & (chance.cells(count) < 0.45 * _CELLS),
            {"a": 25 * (1 + chance.below(20, count))},
        ),
        ("ticket.resolved", solved, {}),
        (
            "ticket.satisfaction_recorded",
            solved & (chance.cells(count) < 0.55 * _CELLS),
            {"a": chance.of(_SCORE_OF, count).astype(np.int64) - (complaint & (chance.cells(count) < _CELLS // 2))},
        ),
        ("ticket.closed", solved & (chance.cells(count) < 0.7 * _CELLS), {}),
    )
    for name, happens, values in steps:
        then, known = after.times(then, known, _REPLY_US)
        some = np.flatnonzero(happens & open_still)
        picked = {column: of[some] for column, of in values.items()}
        picked["channel"] = after.channel[tickets[some]]
        if name == "ticket.satisfaction_recorded":
            picked["a"] = np.maximum(picked["a"], 1)
        after.rows.add(name, who[some], then[some], known[some], ref=ref[some], **picked)
        if name == "ticket.compensated":
            goodwill = "loyalty.goodwill_granted"
            after.rows.add(goodwill, who[some], then[some], known[some] + 1, ref=ref[some], **picked)


def _refer(
    chance: _Chance,
    people: _People,
    after: _After,
    first: int,
    purchases: Ints,
    line_from: Ints,
    line_count: Ints,
    refunds: _Refunds,
) -> None:
    """Some customers are brought by others of their circle, and what that came to."""
    rows, who, recorded = after.rows, after.who, after.recorded_us
    by_age = np.lexsort((people.known_us, np.arange(BLOCK) // CIRCLE))
    some = chance.some(0.06, BLOCK)
    some = some[some % CIRCLE > 0]
    brought, bringer = by_age[some], by_age[some - 1 - chance.below(some % CIRCLE, len(some))]
    at_us = people.joined_us[brought] + 2 * _SECOND_US
    known = np.maximum(people.known_us[brought], people.known_us[bringer]) + _SECOND_US
    # In the order of recording, which numbers them.
    order = np.argsort(known, kind="stable")
    brought, bringer, at_us, known = brought[order], bringer[order], np.maximum(at_us, 0)[order], known[order]
    at_us = np.minimum(np.maximum(at_us, people.joined_us[bringer]), known)
    by_bringer = np.argsort(bringer, kind="stable")
    groups = bringer[by_bringer]
    number = np.empty(len(groups), dtype=np.int64)
    number[by_bringer] = np.arange(len(groups)) - np.searchsorted(groups, groups) + 1
    twin = {"peer": first + brought, "a": number}
    rows.add("customer.referred", bringer, at_us, known, **twin)
    rows.add("customer.referred_by", brought, at_us, known + 1, peer=first + bringer, a=number)

    both = np.maximum(people.member_us[brought], people.member_us[bringer])
    some = np.flatnonzero(both < _NEVER)
    then = np.maximum.reduce([at_us, people.enrolled_us[brought], people.enrolled_us[bringer]])
    when = np.maximum(both, known)[some] + 2
    for role, whose, other in ((1, bringer, brought), (0, brought, bringer)):
        rows.add(
            "loyalty.referral_credited",
            whose[some],
            then[some],
            when + role,
            peer=first + other[some],
            code=np.zeros(len(some), dtype=np.int64),
            a=number[some],
            b=np.full(len(some), role),
        )
    # The first purchase that became known after that.
    bought = purchases[np.isin(who[purchases], brought[some])]
    told = np.full(BLOCK, _NEVER)
    told[brought[some]] = when
    bought = bought[recorded[bought] > told[who[bought]]]
    bought = bought[np.lexsort((recorded[bought], who[bought]))]
    bought = bought[np.unique(who[bought], return_index=True)[1]]
    of = np.full(BLOCK, -1)
    of[brought[some]] = some
    link = of[who[bought]]
    _, at, refund = np.intersect1d(bought, refunds.purchase, assume_unique=True, return_indices=True)
    for role, whose, other in ((1, bringer, brought), (0, brought, bringer)):
        credited = rows.add(
            "loyalty.referral_credited",
            whose[link],
            after.effective_us[bought],
            recorded[bought] + 1 + role,
            peer=first + other[link],
            code=np.ones(len(link), dtype=np.int64),
            a=number[link],
            b=np.full(len(link), role),
            line_from=line_from[bought],
            lines=line_count[bought],
        )
        rows.add(
            "loyalty.referral_reduced",
            whose[link[at]],
            refunds.effective_us[refund],
            refunds.recorded_us[refund] + 1 + role,
            peer=first + other[link[at]],
            ref=credited[at],
            line_from=refunds.line_from[refund],
            lines=refunds.lines[refund],
        )


def _table(history: History, chance: _Chance, people: _People, rows: _Rows, lines: _Lines, first: int) -> Chunk:
    """The facts that are known by the end, by customer and in the order of recording, with what they are about."""
    tick = -((history.start_us - DAY_US - rows.column("recorded_us")) // TICK_US)
    who = rows.column("who", np.int32)
    last = (END_US - history.start_us + DAY_US) // TICK_US
    kept = np.flatnonzero(tick < last)
    # Who, when, and what came up first, in one number, if that fits: many times faster than to sort places.
    order = _sorted(who[kept].astype(np.int64), tick[kept], int(last).bit_length())
    order = kept[order]
    recorded = tick[order] * TICK_US + (history.start_us - DAY_US)
    place = np.full(rows.count, -1)
    place[order] = np.arange(len(order))
    who = who[order]
    fact_start = np.searchsorted(who, np.arange(BLOCK + 1))

    kind = rows.column("kind", np.uint8)[order]
    ref = rows.column("ref")[order]
    a, b, code = rows.column("a")[order], rows.column("b")[order], rows.column("code")[order]
    rests = np.flatnonzero(ref >= 0)
    parent = place[ref[rests]]
    _spend(chance, who, kind, ref, a, fact_start)
    _take_over(chance, kind, rests, parent, a, b)
    given = np.flatnonzero(ref <= -2)
    a[given] = a[place[-2 - ref[given]]]
    ref[given] = -1
    ref[rests] = parent - fact_start[who[rests]]

    channel = rows.column("channel", np.uint8)[order]
    store = np.where(channel == ONLINE, chance.of(_STORE_OF, len(who)), 0)
    sizes = rows.column("lines")[order]
    of = spread(rows.column("line_from")[order], sizes)
    high, low = customer_ids(history.seed, np.arange(first, first + BLOCK))
    return Chunk(
        first=first,
        id_hi=high,
        id_lo=low,
        sort=people.sort,
        country=people.country,
        source=people.source,
        birth_month=people.birth_month,
        fact_start=fact_start,
        customer=who + np.int32(first),
        kind=kind,
        effective_us=rows.column("effective_us")[order],
        recorded_us=recorded,
        ref=ref.astype(np.int32),
        peer=rows.column("peer")[order].astype(np.int32),
        code=code.astype(np.int16),
        a=a,
        b=b,
        channel=channel,
        store=store.astype(np.uint8),
        currency=chance.of(_CURRENCY_OF, len(who)),
        line_start=np.concatenate([[0], sizes.cumsum()]),
        line=lines.column("line", np.uint8)[of],
        sku=lines.column("sku", np.int32)[of],
        category=lines.column("category", np.uint8)[of],
        quantity=lines.column("quantity", np.int32)[of],
        net=lines.column("net", np.int64)[of],
        tax=lines.column("tax", np.int32)[of],
        shipping=lines.column("shipping", np.int32)[of],
        discount=lines.column("discount", np.int32)[of],
    )


def _sorted(who: Ints, tick: Ints, tick_bits: int) -> Ints:
    """Places by who and when; of the same moment, as they came up."""
    key = who << tick_bits | tick
    bits = len(who).bit_length()
    if BLOCK.bit_length() - 1 + tick_bits + bits > 63:
        return np.argsort(key, kind="stable")
    return np.sort(key << bits | np.arange(len(who))) & ((1 << bits) - 1)


def _spend(chance: _Chance, who: Ints, kind: Ints, ref: Ints, a: Ints, fact_start: Ints) -> None:
    """How many points are asked for: mostly a part of what a point for each whole unit of money has brought since the
    last time; sometimes several times as many, which can't be paid.
    """
    spends = np.flatnonzero(_SPENDS[kind] & (ref == -1))
    count = len(spends)
    earned = np.where(kind == _PURCHASE, a // 100, 0)
    upto = np.concatenate([[0], earned.cumsum()])
    since = fact_start[who[spends]]
    again = np.flatnonzero(who[spends[1:]] == who[spends[:-1]]) + 1
    since[again] = spends[again - 1]
    share = chance.of(_SPEND_OF, count)
    share = np.where(chance.cells(count) < 0.1 * _CELLS, share * (3 + chance.below(5, count)), share)
    share = np.where(kind[spends] == _TRANSFER, share // 4, share)
    a[spends] = np.maximum((upto[spends] - upto[since]) * share // 100, 10)


def _take_over(chance: _Chance, kind: Ints, rests: Ints, parent: Ints, a: Ints, b: Ints) -> None:
    """Amounts that are those of the fact on which another rests, or a part of them."""
    captures = kind[rests] == KIND["loyalty.redemption_requested"]
    a[rests[captures]] = a[parent[captures]]
    backs = kind[rests] == KIND["loyalty.redemption_returned"]
    them, of = rests[backs], parent[backs]
    share = np.where(b[them] == 1, 100, 10 + chance.below(80, len(them)))
    a[them] = np.maximum(a[of] * share // 100, 1)
