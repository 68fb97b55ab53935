"""Made-up histories (tallybook.adapters.synth) as the arrays that the columnar executor reads, and rules for them.

They are the facts of the history, as they stand there, not those that a book would hold: what a command would have
refused stays in (redemptions that give back what was never paid, coupons of rewards that have none, what is told of an
account that is closed), and so do twins (what a transfer brought), whose amounts are fixed. A transfer brings one lot
that lives for two years from when it was earned. Changes of traits fall away: all facts see the customer as registered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID

import numpy as np

from tallybook.adapters import synth
from tallybook.adapters.form import uuid_of
from tallybook.adapters.rule_files import frozen_zone, load_rule_set
from tallybook.adapters.synth import Chunk
from tallybook.domain.account import CLOSED, SUSPENDED
from tallybook.domain.calendar import DAY_US
from tallybook.domain.control import SweepFinished, Swept
from tallybook.domain.customer import CustomerRegistered, Line, ReturnLine, Traits
from tallybook.domain.earning import Rules
from tallybook.domain.events import REGISTRY, Event, Metadata
from tallybook.domain.loyalty import TAKES_NOTHING
from tallybook.domain.points import NewLot
from tallybook.projections.columnar.facts import Accounts, Facts, Ids
from tallybook.projections.columnar.machine import layout as m
from tallybook.projections.columnar.names import Names

Array = Any

RULE_SETS = Path(__file__).parent / "rule_sets"
PROGRAMME = "main"
TIERS = ("basic", "silver", "gold")
"""What the ranks are called that a tier by hand is told by."""
CURRENCIES = ("USD", "EUR", "GBP")
"""The programme's, and others."""
TRANSFERRED_US = 730 * DAY_US
"""How long points that were transferred live, from when they were earned."""


def rules_of(name: str) -> Rules:
    """A rule set of `RULE_SETS`: L1, L2, every."""
    rule_set = load_rule_set(RULE_SETS / f"{name}.toml")
    return Rules(rule_set, frozen_zone(rule_set.zone))


_FACT_OF = np.array([m.FACTS.index(name) if name in m.FACTS else -1 for name in synth.KINDS], np.int64)
_OF_ACCOUNT = np.array([name.startswith("loyalty.") for name in m.FACTS])
_BIRTH_MONTHS = 13


class _Codes:
    """The codes of what a history tells by places in tables."""

    def __init__(self, names: Names, tiers: Sequence[str], currencies: Sequence[str]) -> None:
        def texts(words: Iterable[str]) -> Array:
            return np.array([names.text(word) for word in words], np.int64)

        self.currencies = texts(currencies)
        self.stores = texts(synth.STORES)
        self.channels = texts(synth.CHANNELS)
        self.categories = texts(synth.CATEGORIES)
        self.activities = texts(synth.ACTIVITIES)
        self.partners = texts(synth.PARTNERS)
        self.rewards = texts(synth.REWARDS)
        self.occasions = texts(synth.OCCASIONS)
        self.roles = texts(("referred", "referrer"))
        self.skus = texts(f"sku-{number}" for number in range(synth.SKUS))
        self.tiers = np.array([names.tier(tier) for tier in tiers], np.int64)


@dataclass(slots=True)
class _Piece:
    """The facts of one chunk; rows and accounts are numbered on from those before."""

    kind: Array
    at_us: Array
    recorded_us: Array
    account: Array
    slots: Array
    counts: Array
    items: Array
    channel: Array
    rows: Array
    """How many each customer has."""
    trait: Array
    """Of each customer: a number of all traits."""
    members: Array
    transfers: Array
    """Row, and ordinal of the other customer."""


def facts_of(
    chunks: Iterable[Chunk],
    names: Names,
    *,
    tiers: Sequence[str] = TIERS,
    currencies: Sequence[str] = CURRENCIES,
    left_out: Counter[str] | None = None,
) -> Facts:
    """The facts of made-up customers, in their order, as the executor reads them: positions are those of recording.

    All accounts are of one programme, "main". What no account reacts to is left out; `left_out` counts it, by kind.
    """
    codes = _Codes(names, tiers, currencies)
    gone: Counter[str] = Counter() if left_out is None else left_out
    pieces: list[_Piece] = []
    high: list[Array] = []
    low: list[Array] = []
    base = accounts = 0
    ordinal: int | None = None
    for chunk in chunks:
        ordinal = chunk.first if ordinal is None else ordinal
        pieces.append(_piece(chunk, codes, base, accounts, gone))
        base += len(pieces[-1].kind)
        accounts += int(pieces[-1].members.sum())
        high.append(chunk.id_hi)
        low.append(chunk.id_lo)

    def column(name: str) -> Array:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    customers = [
        uuid_of(one << 64 | other)
        for one, other in zip(np.concatenate(high).tolist(), np.concatenate(low).tolist(), strict=True)
    ]
    members = np.flatnonzero(column("members"))
    rows = column("rows")
    used, trait = np.unique(column("trait"), return_inverse=True)
    recorded = column("recorded_us")
    position = np.empty(len(recorded), np.int64)
    position[np.argsort(recorded, kind="stable")] = np.arange(1, len(recorded) + 1)
    facts = Facts(
        kind=column("kind"),
        position=position,
        at_us=column("at_us"),
        account=column("account"),
        slots=column("slots"),
        item=_offsets(column("counts")),
        items=column("items"),
        trait=np.repeat(trait, rows),
        channel=column("channel"),
        traits=tuple(_traits(number) for number in used.tolist()),
        customers=customers,
        first=_offsets(rows),
        accounts=_accounts([_account_id(customers[place]) for place in members.tolist()], members),
    )
    _name_receivers(facts, names, column("transfers"), ordinal or 0)
    return facts


def _offsets(counts: Array) -> Array:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def _account_id(customer: UUID) -> UUID:
    """As `account_id` in domain/loyalty.py, several times as fast."""
    digest = sha1(_NAMESPACE + f"{customer.int:032x}/{PROGRAMME}".encode(), usedforsecurity=False).digest()
    return uuid_of(int.from_bytes(digest[:16], "big") & ~_FORM | _VERSION_5)


_NAMESPACE = NAMESPACE_OID.bytes
_FORM = 0xF000 << 64 | 0xC000 << 48
_VERSION_5 = 0x5000 << 64 | 0x8000 << 48


def _traits_numbers(chunk: Chunk) -> Array:
    number = chunk.sort.astype(np.int64) * len(synth.COUNTRIES) + chunk.country
    return (number * len(synth.SOURCES) + chunk.source) * _BIRTH_MONTHS + chunk.birth_month


def _traits(number: int) -> Traits:
    number, month = divmod(number, _BIRTH_MONTHS)
    number, source = divmod(number, len(synth.SOURCES))
    sort, country = divmod(number, len(synth.COUNTRIES))
    return Traits(synth.SORTS[sort], synth.COUNTRIES[country], synth.SOURCES[source], month)


def _piece(chunk: Chunk, codes: _Codes, base: int, accounts: int, left_out: Counter[str]) -> _Piece:
    all_kinds = _FACT_OF[chunk.kind]
    who = chunk.customer - chunk.first
    members = np.zeros(chunk.customers, bool)
    members[who[all_kinds == m.F_ENROLLED]] = True
    keep = all_kinds >= 0
    for name, count in zip(synth.KINDS, np.bincount(chunk.kind[~keep], minlength=len(synth.KINDS)), strict=True):
        if count:
            left_out[name] += int(count)
    kept = np.flatnonzero(keep)
    place = np.cumsum(keep) - 1

    kind, who = all_kinds[kept], who[kept]
    if (_OF_ACCOUNT[kind] & ~members[who]).any():
        raise ValueError("an account is told of that nobody has")
    ref = chunk.ref[kept].astype(np.int64)
    parent = np.where(ref >= 0, place[chunk.fact_start[who] + np.maximum(ref, 0)], -1)
    rests_on = np.where(ref >= 0, parent + base, m.NO_REF)
    slots = np.zeros((len(kept), 4), np.int64)
    code, a, b = chunk.code[kept], chunk.a[kept], chunk.b[kept]
    for number, columns in m.NAMING.items():
        some = np.flatnonzero(kind == number)
        slots[some, columns[0]] = m.NO_REF if number == m.F_EXTENSION else rests_on[some]

    def of(number: int, *told: Array, first: int = 0) -> None:
        some = np.flatnonzero(kind == number)
        for slot, values in enumerate(told, first):
            slots[some, slot] = values(some) if callable(values) else values[some]

    of(m.F_PURCHASE, codes.currencies[chunk.currency[kept]], codes.stores[chunk.store[kept]])
    of(m.F_ACTIVITY, a, lambda some: codes.activities[code[some]], lambda some: codes.partners[b[some]])
    of(m.F_REDEEM, a, lambda some: codes.rewards[code[some]])
    of(m.F_HOLD, a, b)
    of(m.F_TRANSFER, a, np.full(len(kept), m.NONE))
    of(m.F_GOODWILL, a)
    of(m.F_CORRECTION, a, (a % 20 == 0).astype(np.int64))
    of(m.F_EXTENSION, b, first=1)
    of(m.F_REINSTATEMENT, a, b)
    of(m.F_OVERRIDE, lambda some: codes.tiers[np.minimum(code[some], len(codes.tiers) - 1)], b)
    of(m.F_REFERRAL, a, lambda some: codes.occasions[code[some]], lambda some: codes.roles[b[some]])
    of(m.F_COUPON_GRANTED, lambda some: codes.rewards[code[some]])
    back = np.flatnonzero(kind == m.F_REDEMPTION_RETURNED)
    paid = a[parent[back]]
    slots[back, 1] = np.minimum(a[back], paid)
    slots[back, 2] = a[back] >= paid

    counts, items = _items(chunk, codes, kept, kind, parent, a, b)
    transfers = np.flatnonzero(kind == m.F_TRANSFER)
    member_of = np.cumsum(members) - 1 + accounts
    return _Piece(
        kind=kind,
        at_us=chunk.effective_us[kept],
        recorded_us=chunk.recorded_us[kept],
        account=np.where(_OF_ACCOUNT[kind], member_of[who], -1),
        slots=slots,
        counts=counts,
        items=items,
        channel=codes.channels[chunk.channel[kept]],
        rows=np.bincount(who, minlength=chunk.customers),
        trait=_traits_numbers(chunk),
        members=members,
        transfers=np.column_stack((transfers + base, chunk.peer[kept[transfers]].astype(np.int64))),
    )


def _items(
    chunk: Chunk, codes: _Codes, kept: Array, kind: Array, parent: Array, a: Array, b: Array
) -> tuple[Array, Array]:
    """How many items each fact has, and all of them."""
    counts = np.diff(chunk.line_start)[kept]
    told = counts.copy()
    reduced, received = np.flatnonzero(kind == m.F_REDUCED), np.flatnonzero(kind == m.F_RECEIVED)
    counts[reduced] = counts[parent[reduced]]
    counts[received] = 1
    start = _offsets(counts)
    items = np.zeros((int(start[-1]), m.ITEMS), np.int64)

    def lines(number: int) -> tuple[Array, Array]:
        """The lines of facts, and the items that they are."""
        some = np.flatnonzero(kind == number)
        return (
            synth.spread(chunk.line_start[kept[some]], counts[some]),
            synth.spread(start[some], counts[some]),
        )

    of, to = lines(m.F_PURCHASE)
    columns = (chunk.net, chunk.quantity, chunk.tax, chunk.shipping)
    for number, values in enumerate(columns):
        items[to, number] = values[of]
    items[to, 4], items[to, 5] = codes.skus[chunk.sku[of]], codes.categories[chunk.category[of]]
    of, to = lines(m.F_RETURN)
    for number, values in enumerate((chunk.line, chunk.quantity, chunk.net)):
        items[to, number] = values[of]
    of, to = lines(m.F_REFERRAL)
    items[to, 0] = chunk.net[of]
    # What came back of each line of the purchase, as many as the credit has.
    of = synth.spread(chunk.line_start[kept[reduced]], told[reduced])
    np.add.at(items[:, 0], np.repeat(start[reduced], told[reduced]) + chunk.line[of] - 1, chunk.net[of])
    items[start[received], 0] = a[received]
    items[start[received], 1] = b[received]
    items[start[received], 2] = b[received] + TRANSFERRED_US
    return counts, items


def _name_receivers(facts: Facts, names: Names, transfers: Array, ordinal: int) -> None:
    """Of transfers: the account of the receiver, and what it says against it, as it stands by then."""
    account_of = np.full(len(facts.customers), -1)
    account_of[[place for _, _, place in facts.accounts]] = np.arange(len(facts.accounts))
    changes = np.flatnonzero(np.isin(facts.kind, (m.F_ENROLLED, m.F_SUSPENDED, m.F_RESUMED, m.F_CLOSED)))
    end = len(facts) + 1
    changed = facts.account[changes] * end + facts.position[changes]
    order = np.argsort(changed)
    changes, changed = changes[order], changed[order]
    bars = {
        m.F_SUSPENDED: names.text(TAKES_NOTHING[SUSPENDED]),
        m.F_CLOSED: names.text(TAKES_NOTHING[CLOSED]),
    }
    for row, peer in transfers.tolist():
        place = peer - ordinal
        receiver = int(account_of[place]) if 0 <= place < len(account_of) else -1
        if receiver < 0:  # one who was not asked for
            facts.slots[row, 2] = names.unknown(UUID(int=1 << 64 | peer))[0]
            continue
        facts.slots[row, 2] = names.unknown(facts.accounts[receiver][0])[0]
        last = int(np.searchsorted(changed, receiver * end + int(facts.position[row]))) - 1
        facts.slots[row, 1] = bars.get(int(facts.kind[changes[last]]), m.NONE)


def swept(facts: Facts) -> list[tuple[int, Event]]:
    """A sweep behind the last of the facts, up to the end of the history."""
    end = int(facts.position.max()) + 1
    told: dict[str, Any] = {
        "originator_id": _ELSEWHERE,
        "originator_version": 1,
        "effective_us": synth.END_US,
        "subject_id": None,
        "metadata": _metadata(""),
        "until_us": synth.END_US,
    }
    over = SweepFinished(event_id=event_id(end + 1), accounts=len(facts.accounts), decisions=0, **told)
    return [(end, Swept(event_id=event_id(end), **told)), (end + 1, over)]


def _accounts(ids: Sequence[UUID], customers: Array) -> Accounts:
    """Accounts of the programme, of customers at places."""
    return Accounts(Ids(b"".join(one.bytes for one in ids)), [PROGRAMME], np.zeros(len(ids), np.int64), customers)


def events_of(facts: Facts, names: Names) -> Iterator[tuple[int, Event]]:
    """The same facts as events, with their positions, in the order of these; first, at 0, who the customers are."""
    told = _Told(facts, names)
    for place, customer in enumerate(facts.customers):
        row = int(facts.first[place])
        if row < facts.first[place + 1]:
            yield 0, told.registered(customer, facts.traits[int(facts.trait[row])])
    for row in np.argsort(facts.position).tolist():
        yield int(facts.position[row]), told.event(row)


def event_id(position: int) -> UUID:
    """The id of a fact as an event."""
    return UUID(int=position)


_ELSEWHERE = UUID(int=2**100)
"""Stands for what is not of the customer."""
_WHY = "made_up"


class _Told:
    """Facts told as events."""

    def __init__(self, facts: Facts, names: Names) -> None:
        self.facts = facts
        self.text = {code: text for text, code in names.texts.items()}
        self.tier = {code: tier for tier, code in names.tiers.items()}
        self.stream = {names.unknown(other)[0]: other for other in names.ids}
        self.customer = np.repeat(np.arange(len(facts.customers)), np.diff(facts.first))

    def registered(self, customer: UUID, traits: Traits) -> Event:
        """Who a customer is."""
        return CustomerRegistered(
            originator_id=customer,
            originator_version=1,
            event_id=customer,
            effective_us=0,
            subject_id=customer,
            metadata=_metadata(""),
            kind=traits.kind,
            country=traits.country or None,
            source=traits.source or None,
            birth_month=traits.birth_month or None,
        )

    def event(self, row: int) -> Event:
        """The fact of a row."""
        facts = self.facts
        kind, account = int(facts.kind[row]), int(facts.account[row])
        customer = facts.customers[int(self.customer[row])]
        a, b, c, d = facts.slots[row].tolist()
        made: Event = REGISTRY[m.FACTS[kind]].event_class.model_validate(
            {
                "originator_id": customer if account < 0 else facts.accounts[account][0],
                "originator_version": 1,
                "event_id": event_id(int(facts.position[row])),
                "effective_us": int(facts.at_us[row]),
                "subject_id": customer,
                "metadata": _metadata(self.text[int(facts.channel[row])]),
                **self._fields(kind, a, b, c, d, self._items(row)),
            }
        )
        return made

    def _items(self, row: int) -> list[list[int]]:
        found: list[list[int]] = self.facts.items[self.facts.item[row] : self.facts.item[row + 1]].tolist()
        return found

    def _id(self, row: int) -> UUID | None:
        return event_id(int(self.facts.position[row])) if row >= 0 else None

    def _fields(self, kind: int, a: int, b: int, c: int, d: int, items: list[list[int]]) -> dict[str, Any]:
        text = self.text
        match kind:
            case m.F_ENROLLED:
                return {"programme": PROGRAMME}
            case m.F_PURCHASE:
                lines = tuple(
                    Line(
                        sku=text[sku],
                        quantity=quantity,
                        net_minor=net,
                        category=text[category] or None,
                        tax_minor=tax,
                        shipping_minor=shipping,
                    )
                    for net, quantity, tax, shipping, sku, category in items
                )
                return {"currency": text[a], "store": text[b] or None, "lines": lines}
            case m.F_RETURN:
                back = tuple(
                    ReturnLine(line=line, quantity=quantity, net_minor=net) for line, quantity, net, *_ in items
                )
                return {"purchase_id": self._id(a), "lines": back}
            case m.F_ACTIVITY:
                return {"quantity": a, "activity": text[b], "partner": text[c] or None}
            case m.F_CONFIRMED:
                return {"fact_id": self._id(a)}
            case m.F_WITHDRAWN:
                return {"fact_id": self._id(a), "reason": _WHY}
            case m.F_REDEEM:
                return {"points": a, "reward": text[b], "hold_id": self._id(d)}
            case m.F_REDEMPTION_RETURNED:
                return {"redemption_id": self._id(a), "points": b, "whole": bool(c), "reason": _WHY}
            case m.F_HOLD:
                return {"points": a, "until_us": b, "purpose": _WHY}
            case m.F_HOLD_RELEASE:
                return {"hold_id": self._id(a)}
            case m.F_TRANSFER:
                return {"points": a, "barred": None if b == m.NONE else text[b], "to_account": self.stream[c]}
            case m.F_RECEIVED:
                lots = tuple(
                    NewLot(lot_id=_ELSEWHERE, points=points, earned_us=earned, expires_us=expires)
                    for points, earned, expires, *_ in items
                )
                return {"transfer_id": _ELSEWHERE, "from_account": _ELSEWHERE, "lots": lots}
            case m.F_GOODWILL:
                return {"points": a, "reason": _WHY}
            case m.F_CORRECTION:
                return {"points": a, "into_debt": bool(b), "reason": _WHY}
            case m.F_EXTENSION:
                return {"lot_id": self._id(a), "until_us": b, "reason": _WHY}
            case m.F_REINSTATEMENT:
                return {"points": a, "until_us": b, "reason": _WHY}
            case m.F_OVERRIDE:
                return {"tier": self.tier[a], "until_us": b, "reason": _WHY}
            case m.F_REFERRAL:
                nets = tuple(net for net, *_ in items)
                told = {"number": a, "occasion": text[b], "role": text[c], "lines": nets}
                return {**told, "fact_id": _ELSEWHERE}
            case m.F_REDUCED:
                return {"credit_id": self._id(a), "return_id": _ELSEWHERE, "returned": tuple(net for net, *_ in items)}
            case m.F_COUPON_GRANTED:
                return {"reward": text[a], "reason": _WHY}
            case m.F_COUPON_USED:
                return {"coupon_id": self._id(a)}
            case m.F_COUPON_VOIDED:
                return {"coupon_id": self._id(a), "reason": _WHY}
            case m.F_CLOSED | m.F_SUSPENDED | m.F_RESUMED | m.F_LIFT:
                return {"reason": _WHY}
            case _:
                raise ValueError(m.FACTS[kind])


@cache
def _metadata(channel: str) -> Metadata:
    return Metadata(recorded_us=0, actor="system:synth", purpose="administration", channel=channel or None)
