"""What happens to accounts, as arrays: the rows that `machine` runs over.

One row a fact that an account can react to, in the order of (customer, position). What a fact says stands in up to four
slots; lines, lots and segments are items.

| kind | slots | items |
|---|---|---|
| purchase | currency, store | net, quantity, tax, shipping, sku, category |
| return | row of the purchase | line, quantity, net |
| activity | quantity, activity, partner | |
| earning confirmed, withdrawn | row, number of the lot | |
| redemption requested | points, reward, whether none is in stock, row of the hold | segment |
| redemption returned | row, points, whether all | |
| hold requested | points, until | |
| hold release requested | row | |
| transfer requested | points, why it is barred, the other account | |
| transfer received | | points, earned, expires |
| goodwill granted | points | |
| correction recorded | points, whether into a debt | |
| extension granted | row, until, number of the lot | |
| reinstatement granted | points, until | |
| tier overridden | tier, until | |
| referral credited | number, occasion, role | net |
| referral reduced | row, number of the lot | what came back |
| coupon granted | reward, whether none is in stock | |
| coupon used, voided | row, or what tier granted it | |

A row that a fact names is an index; NO_REF: none is named; from UNKNOWN_REF downwards: an id of nothing here.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any
from uuid import UUID

from tallybook.domain.control import RuleSetAdopted, SweepFinished, Swept
from tallybook.domain.customer import ProfileFact, PurchaseRecorded, ReturnRecorded, Traits, note_traits, traits_of
from tallybook.domain.events import Event
from tallybook.domain.loyalty import tier_coupon_id
from tallybook.domain.points import (
    ActivityRecorded,
    CorrectionRecorded,
    CouponGranted,
    CouponUsed,
    CouponVoided,
    EarningConfirmed,
    EarningWithdrawn,
    Enrolled,
    ExtensionGranted,
    GoodwillGranted,
    HoldReleaseRequested,
    HoldRequested,
    RedemptionRequested,
    RedemptionReturned,
    ReferralCredited,
    ReferralReduced,
    ReinstatementGranted,
    TierOverridden,
    TransferReceived,
    TransferRequested,
    number_of,
)

from .machine import tables
from .machine.layout import (
    F_ACTIVITY,
    F_ENROLLED,
    F_PURCHASE,
    F_REFERRAL,
    FACTS,
    GRANT_BITS,
    ITEMS,
    NAMING,
    NO_REF,
    NONE,
    SLOTS,
    TIER_COUPON,
)
from .names import Id, Names
from .native import compiled

Array = Any
"""A numpy array."""
_KINDS = {name: number for number, name in enumerate(FACTS)}
CONTROL = (RuleSetAdopted, Swept, SweepFinished)
EARNING = (F_PURCHASE, F_ACTIVITY, F_ENROLLED, F_REFERRAL)
"""In the order of `tables.sort_out`."""
BLOCK = 1 << 15
"""About so many rows are at work at once: they stay in the processor's own memory meanwhile."""


@dataclass(frozen=True, eq=False)
class Facts:
    """The rows of some customers.

    All arrays are of 64-bit integers. By row: `kind`, `position`, `at_us`, `account` (-1: of all of the customer's),
    `slots` (n × 4), `item` (n + 1: where the items of each row begin), `trait` (place in `traits`), `channel`. `items`
    is m × 6. The rows of customer i of `customers` are `first[i]` up to `first[i + 1]`. Of `accounts`: id, programme,
    place of the customer.
    """

    kind: Array
    position: Array
    at_us: Array
    account: Array
    slots: Array
    item: Array
    items: Array
    trait: Array
    channel: Array
    traits: Sequence[Traits]
    customers: Sequence[UUID]
    first: Array
    accounts: Sequence[tuple[UUID, str, int]]

    def __post_init__(self) -> None:
        """In memory, slots and items lie column by column: so machine code reads them, turned round."""
        import numpy as np

        for name in ("slots", "items"):
            object.__setattr__(self, name, np.asfortranarray(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def most(self) -> int:
        """The most rows that a customer has."""
        return int((self.first[1:] - self.first[:-1]).max(initial=0))

    def members(self, programme: str) -> tuple[Array, Array]:
        """The accounts of a programme, as places, and the place of each one's customer."""
        import numpy as np

        accounts = self.accounts
        if isinstance(accounts, Accounts):
            code = accounts.programmes.index(programme) if programme in accounts.programmes else -1
            places = np.flatnonzero(accounts.programme == code)
            return places, accounts.customer[places]
        found = [(place, customer) for place, (_, of, customer) in enumerate(accounts) if of == programme]
        places, customers = np.array(found, np.int64).reshape(-1, 2).T
        return np.ascontiguousarray(places), np.ascontiguousarray(customers)

    def split(self, parts: int) -> Iterator[Facts]:
        """The same facts by customers, in up to so many parts of about the same length: views, where nothing names a
        row. All in one, where accounts do not stand in the order of their customers, or several customers share one."""
        import numpy as np

        accounts = self.accounts if isinstance(self.accounts, Accounts) else Accounts.of(self.accounts)
        on_account = self.account >= 0
        customers = np.repeat(np.arange(len(self.customers)), np.diff(self.first))[on_account]
        shared = (accounts.customer[self.account[on_account]] != customers).any()
        aims = np.arange(1, parts) * len(self) // parts
        cuts = {0, *np.searchsorted(self.first[1:], aims, side="left").tolist(), len(self.customers)}
        if len(cuts) < 3 or shared or (np.diff(accounts.customer) < 0).any():
            # Coupons' names are told anew in it.
            yield replace(self, accounts=accounts, slots=self.slots.copy(order="K"))
            return
        for begin, end in pairwise(sorted(cuts)):
            first, last = int(self.first[begin]), int(self.first[end])
            item0, item1 = int(self.item[first]), int(self.item[last])
            account0, account1 = np.searchsorted(accounts.customer, (begin, end)).tolist()
            kind, slots = self.kind[first:last], self.slots[first:last].copy(order="K")
            for number, columns in NAMING.items():
                rows = np.flatnonzero(kind == number)
                for column in columns:
                    named = slots[rows, column]
                    slots[rows, column] = np.where(named >= 0, named - first, named)
            account = self.account[first:last]
            yield Facts(
                kind=kind,
                position=self.position[first:last],
                at_us=self.at_us[first:last],
                account=np.where(account >= 0, account - account0, -1),
                slots=slots,
                item=self.item[first : last + 1] - item0,
                items=self.items[item0:item1],
                trait=self.trait[first:last],
                channel=self.channel[first:last],
                traits=self.traits,
                customers=self.customers[begin:end],
                first=self.first[begin : end + 1] - first,
                accounts=accounts.part(account0, account1, begin),
            )

    def account_ids(self) -> Array:
        """The ids of accounts: n × 16 bytes."""
        return _bytes_of(
            self.accounts.ids if isinstance(self.accounts, Accounts) else [one for one, _, _ in self.accounts]
        )

    def customer_ids(self) -> Array:
        """The ids of customers: n × 16 bytes."""
        return _bytes_of(self.customers)

    @cached_property
    def lined(self) -> Array:
        """By row: 1 if another fact takes back what it earned, so that its lines have to be kept."""
        return self._sorted[0]

    @cached_property
    def earning(self) -> Mapping[int, Array]:
        """The rows of each kind of fact that earning rules are about."""
        return dict(zip(EARNING, self._sorted[2:], strict=True))

    @cached_property
    def ordinal(self) -> Array:
        """By row: the place of the fact among those of its kind; 0 where no earning rule is about it."""
        return self._sorted[1]

    @cached_property
    def _sorted(self) -> list[Array]:
        """By row: whether its lines have to be kept, and its ordinal; and the rows of the kinds of EARNING."""
        import numpy as np

        made = np.empty((6, len(self)), np.int64)
        counts = np.zeros(4, np.int64)
        compiled(tables.sort_out)(self.kind, self.slots.T, made, counts)
        return [made[0], made[1], *(made[2 + place, :count] for place, count in enumerate(counts.tolist()))]


def in_blocks(facts: Facts) -> Iterator[Facts]:
    """Facts in parts that are worked on at once."""
    return facts.split(max(1, -(-len(facts) // BLOCK)))


def _bytes_of(ids: Sequence[UUID]) -> Array:
    import numpy as np

    data = ids.data if isinstance(ids, Ids) else b"".join(one.bytes for one in ids)
    return np.frombuffer(data, np.uint8).reshape(-1, 16)


class Ids(Sequence[UUID]):
    """Ids of 16 bytes each, one after another: an object only for what is asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data) // 16

    @typing.overload
    def __getitem__(self, place: int) -> UUID: ...
    @typing.overload
    def __getitem__(self, place: slice) -> Sequence[UUID]: ...
    def __getitem__(self, place: int | slice) -> UUID | Sequence[UUID]:
        if isinstance(place, slice):
            begin, end, step = place.indices(len(self))
            if step == 1:
                return Ids(self.data[16 * begin : 16 * end])
            return [self[one] for one in range(begin, end, step)]
        at = 16 * range(len(self))[place]
        return UUID(int=int.from_bytes(self.data[at : at + 16], "big"))


class Accounts(Sequence[tuple[UUID, str, int]]):
    """Accounts as arrays: the ids; of each, its programme (place in `programmes`) and the place of its customer."""

    def __init__(self, ids: Ids, programmes: Sequence[str], programme: Array, customer: Array) -> None:
        self.ids, self.programmes, self.programme, self.customer = ids, programmes, programme, customer

    @classmethod
    def of(cls, accounts: Sequence[tuple[UUID, str, int]]) -> Accounts:
        """The same accounts."""
        import numpy as np

        programmes = sorted({programme for _, programme, _ in accounts})
        codes = [programmes.index(programme) for _, programme, _ in accounts]
        customers = [customer for _, _, customer in accounts]
        ids = Ids(b"".join(one.bytes for one, _, _ in accounts))
        return cls(ids, programmes, np.array(codes, np.int64), np.array(customers, np.int64))

    def part(self, first: int, last: int, before: int) -> Accounts:
        """Some of them, of customers behind so many others."""
        ids = Ids(self.ids.data[16 * first : 16 * last])
        return Accounts(ids, self.programmes, self.programme[first:last], self.customer[first:last] - before)

    def __len__(self) -> int:
        return len(self.ids)

    @typing.overload
    def __getitem__(self, place: int) -> tuple[UUID, str, int]: ...
    @typing.overload
    def __getitem__(self, place: slice) -> Sequence[tuple[UUID, str, int]]: ...
    def __getitem__(self, place: int | slice) -> tuple[UUID, str, int] | Sequence[tuple[UUID, str, int]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return self.ids[place], self.programmes[int(self.programme[place])], int(self.customer[place])


@dataclass(slots=True)
class _Customer:
    """What was told of one customer, so far."""

    rows: list[tuple[int, Event]] = field(default_factory=list)
    traits: list[Traits] = field(default_factory=list)
    noted: dict[str, tuple[int, str]] = field(default_factory=dict)


class Gathering:
    """Facts of a history, put together: fed in order of positions."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._customers: dict[UUID, _Customer] = {}
        self.control: list[tuple[int, Event]] = []
        """What concerns all accounts, with its position."""

    def feed(self, position: int, event: Event) -> None:
        """Take in the next event; what no account reacts to is passed over."""
        if isinstance(event, CONTROL):
            self.control.append((position, event))
        elif event.subject_id is not None and (isinstance(event, ProfileFact) or event.stored_name in _KINDS):
            customer = self._customers.setdefault(event.subject_id, _Customer())
            if isinstance(event, ProfileFact):
                note_traits(customer.noted, event)
            else:
                customer.rows.append((position, event))
                customer.traits.append(traits_of(customer.noted))

    def facts(self) -> Facts:
        """All of them as arrays."""
        return _arrays(self._customers, self._names)


def _arrays(customers: dict[UUID, _Customer], names: Names) -> Facts:
    import numpy as np

    kind: list[int] = []
    position: list[int] = []
    at_us: list[int] = []
    account: list[int] = []
    slots: list[list[int]] = []
    item = [0]
    items: list[list[int]] = []
    trait: list[int] = []
    channel: list[int] = []
    traits: dict[Traits, int] = {Traits(): 0}
    first = [0]
    accounts: dict[UUID, tuple[int, str, int]] = {}
    for place, one in enumerate(customers.values()):
        ids = References(names, {event.event_id: row for row, (_, event) in enumerate(one.rows, len(kind))})
        for (at, event), seen in zip(one.rows, one.traits, strict=True):
            on_account = event.stored_name.startswith("loyalty.")
            if on_account and event.originator_id not in accounts:
                accounts[event.originator_id] = len(accounts), "", place
            if isinstance(event, Enrolled) and not accounts[event.originator_id][1]:
                accounts[event.originator_id] = accounts[event.originator_id][0], event.programme, place
            kind.append(_KINDS[event.stored_name])
            position.append(at)
            at_us.append(event.effective_us)
            account.append(accounts[event.originator_id][0] if on_account else -1)
            told, of = _told(event, ids, names)
            slots.append([*told, *[0] * (SLOTS - len(told))])
            items += ([*row, *[0] * (ITEMS - len(row))] for row in of)
            item.append(len(items))
            trait.append(traits.setdefault(seen, len(traits)))
            channel.append(names.text(event.metadata.channel or ""))
        first.append(len(kind))
    return Facts(
        np.array(kind, np.int64),
        np.array(position, np.int64),
        np.array(at_us, np.int64),
        np.array(account, np.int64),
        np.array(slots, np.int64).reshape(-1, SLOTS),
        np.array(item, np.int64),
        np.array(items, np.int64).reshape(-1, ITEMS),
        np.array(trait, np.int64),
        np.array(channel, np.int64),
        tuple(traits),
        tuple(customers),
        np.array(first, np.int64),
        tuple((stream, programme, place) for stream, (_, programme, place) in accounts.items()),
    )


class References:
    """The rows of one customer by the ids of their events."""

    def __init__(self, names: Names, rows: dict[UUID, int]) -> None:
        self._names = names
        self._rows = rows

    def row(self, named: UUID | None) -> int:
        """The row of an event."""
        if named is None:
            return NO_REF
        found = self._rows.get(named)
        return self._names.reference(named) if found is None else found

    def lot(self, named: UUID | None) -> tuple[int, int]:
        """The row of the fact that brought a lot, and the lot's number of it."""
        if named is None or named in self._rows:
            return self.row(named), 0
        for event_id, row in self._rows.items():
            number = number_of(event_id, named)
            if number is not None:
                return row, number
        return self._names.reference(named), 0


def _none_left(stock: int | None) -> int:
    return int(stock is not None and stock < 1)


def _told(event: Event, ids: References, names: Names) -> tuple[list[int], Iterable[Sequence[int]]]:
    """The slots and the items of a fact."""
    match event:
        case PurchaseRecorded():
            lines = (
                (
                    line.net_minor,
                    line.quantity,
                    line.tax_minor,
                    line.shipping_minor,
                    names.text(line.sku),
                    names.text(line.category or ""),
                )
                for line in event.lines
            )
            return [names.text(event.currency), names.text(event.store or "")], lines
        case ReturnRecorded():
            back = ((line.line, line.quantity, line.net_minor) for line in event.lines)
            return [ids.row(event.purchase_id)], back
        case ActivityRecorded():
            return [event.quantity, names.text(event.activity), names.text(event.partner or "")], ()
        case EarningConfirmed() | EarningWithdrawn():
            return list(ids.lot(event.fact_id)), ()
        case RedemptionRequested():
            told = [event.points, names.text(event.reward), _none_left(event.stock), ids.row(event.hold_id)]
            return told, ((names.text(segment),) for segment in event.segments)
        case RedemptionReturned():
            return [ids.row(event.redemption_id), event.points, int(event.whole)], ()
        case HoldRequested():
            return [event.points, event.until_us], ()
        case HoldReleaseRequested():
            return [ids.row(event.hold_id)], ()
        case TransferRequested():
            barred = NONE if event.barred is None else names.text(event.barred)
            return [event.points, barred, names.unknown(event.to_account)[0]], ()
        case TransferReceived():
            return [], ((lot.points, lot.earned_us, lot.expires_us) for lot in event.lots)
        case GoodwillGranted():
            return [event.points], ()
        case CorrectionRecorded():
            return [event.points, int(event.into_debt)], ()
        case ExtensionGranted():
            row, number = ids.lot(event.lot_id)
            return [row, event.until_us, number], ()
        case ReinstatementGranted():
            return [event.points, event.until_us], ()
        case TierOverridden():
            return [names.tier(event.tier), event.until_us], ()
        case ReferralCredited():
            told = [event.number, names.text(event.occasion), names.text(event.role)]
            return told, ((net,) for net in event.lines)
        case ReferralReduced():
            return list(ids.lot(event.credit_id)), ((back,) for back in event.returned)
        case CouponGranted():
            return [names.text(event.reward), _none_left(event.stock)], ()
        case CouponUsed() | CouponVoided():
            return [ids.row(event.coupon_id)], ()
        case _:
            return [], ()


def granted_by_tiers(
    account: UUID, grants: Iterable[tuple[str, str]], years: Iterable[int], names: Names
) -> dict[UUID, Id]:
    """The ids of the coupons that tiers (tier, reward) may grant an account in some years, as words."""
    return {
        tier_coupon_id(account, tier, reward, year): (-1 - (names.tier(tier) << GRANT_BITS | names.text(reward)), year)
        for tier, reward in grants
        for year in years
    }


def with_tier_coupons(facts: Facts, grants: Sequence[tuple[str, str]], years: range, names: Names) -> None:
    """Facts about coupons that name one which a tier may grant: what they name is told as the machine calls it."""
    import numpy as np

    used, voided = _KINDS[CouponUsed.stored_name], _KINDS[CouponVoided.stored_name]
    rows = np.flatnonzero(((facts.kind == used) | (facts.kind == voided)) & (facts.slots[:, 0] < TIER_COUPON))
    if not len(rows) or not grants:
        return
    named = {reference: other for other, reference in ((other, names.reference(other)) for other in names.ids)}
    known: dict[int, dict[UUID, Id]] = {}
    for row in rows:
        account = int(facts.account[row])
        if account not in known:
            known[account] = granted_by_tiers(facts.accounts[account][0], grants, years, names)
        found = known[account].get(named[int(facts.slots[row, 0])])
        if found is not None:
            facts.slots[row, :3] = (TIER_COUPON, *found)
