"""Every error that Tallybook raises on purpose, as one small tree.

    TallybookError
    ├── Refused               a guard said no; `code`, `values`, `remedy`; nothing happened unless the code says so
    │   ├── InvalidInput      the arguments make no sense
    │   ├── NotFound          what was named is not in the book
    │   ├── NotAllowed        a rule of the domain, or the lack of an actor, forbids it
    │   └── Conflict          somebody else was first
    ├── BookError             a book can't be opened or used; `path`, `remedy`
    ├── StoredFormError       stored bytes can't be read; names the position and the event
    ├── ReadModelFailed       a read model can't fold an event; names its position
    ├── SealError             a sealed value can't be opened: wrong key, moved or altered bytes
    ├── RuleSetError          a rule set document is wrong; `problems` name the path
    ├── PolicyError           an access policy document is wrong; `problems` name the path
    ├── ImportFileError       a line of an import file can't be read; names file and line
    ├── NoteError             a checkpoint, a proof or a key is malformed, or not signed by whom it must be
    └── MissingExtra          an optional dependency is not installed; names the command that installs it

A refusal's code is stable: hosts may switch on it. `REFUSALS` is the one catalogue of them. Within one command,
when several apply, the one that stands first in the catalogue wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TallybookError(Exception):
    """Root of everything that Tallybook raises on purpose. Errors can be pickled, whatever they are made from."""

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[TallybookError], args: tuple[object, ...], state: dict[str, object]) -> TallybookError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Refused(TallybookError):
    """A command was refused.

    `code` is stable, `values` are what decided (never personal), `remedy` tells how to mend it.
    """

    def __init__(self, code: str, message: str, values: dict[str, object] | None = None, remedy: str = "") -> None:
        self.code = code
        self.message = message
        self.values: dict[str, object] = values or {}
        self.remedy = remedy or REFUSALS[code].remedy
        super().__init__(f"{message} [{code}] {self.remedy}")


class InvalidInput(Refused):
    """The arguments make no sense, whatever the book holds."""


class NotFound(Refused):
    """What was named is not in the book."""


class NotAllowed(Refused):
    """A rule of the domain, or the lack of an actor, forbids it."""


class Conflict(Refused):
    """Somebody else was first, or the command id was used for something else."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of the catalogue: which error a code raises, and what to do about it."""

    error: type[Refused]
    meaning: str
    remedy: str


# In order of precedence.
REFUSALS: dict[str, Refusal] = {
    "acting_required": Refusal(
        NotAllowed,
        "a command or a read of personal data outside of `book.acting(…)`",
        "Wrap it in `with book.acting(actor, purpose=…)`, or give --actor and --purpose.",
    ),
    "actor_reserved": Refusal(
        NotAllowed,
        "an actor whose name begins with `system:`, by which the log tells what the book did by itself",
        "Name the actor otherwise: `agent:…` for people, `job:…` for what a scheduler runs.",
    ),
    "access_denied": Refusal(
        NotAllowed,
        "the access policy does not allow the command or the read to whoever acts, for the purpose; the attempt is "
        "recorded",
        "See `tallybook policy explain` for what is allowed to whom; ask for a role, or act for another purpose.",
    ),
    "command_id_reused": Refusal(
        Conflict,
        "the command id was used before, for another command or with other arguments",
        "Give each command an id of its own; repeat an id only to repeat the same call.",
    ),
    "invalid_argument": Refusal(
        InvalidInput,
        "an argument is of the wrong type, out of range or badly formed",
        "Correct the argument that the message names.",
    ),
    "naive_time": Refusal(
        InvalidInput,
        "a time without a zone",
        "Give an aware datetime, or an ISO 8601 text with an offset or Z.",
    ),
    "effective_in_future": Refusal(
        NotAllowed,
        "a fact dated after the moment at which it is recorded",
        "Record facts when they have happened; check the zone of the time that you give.",
    ),
    "unknown_customer": Refusal(
        NotFound,
        "no customer with that id",
        "Register the customer first, or look the id up with `book.customers.find(system, external_id)`.",
    ),
    "customer_erased": Refusal(
        NotAllowed,
        "the customer was erased: nothing new can be recorded of them",
        "Register a person who comes back as a new customer. See `tallybook erasures show` for the receipt.",
    ),
    "erasure_held": Refusal(
        NotAllowed,
        "something stands in the way of erasing the customer: the data is restricted, or a data-subject request is "
        "open that nothing would be left to answer by",
        "Lift the restriction, or complete the request, first; to erase all the same, say why: `even_so`, --even-so.",
    ),
    "not_erased": Refusal(
        NotFound,
        "the customer was not erased",
        "See `tallybook erasures list` for who was.",
    ),
    "still_kept": Refusal(
        NotAllowed,
        "a retention schedule demands to keep what an erasure kept for longer",
        "Wait until the moment that the message names; if nobody demands it any more, withdraw the schedule.",
    ),
    "already_registered": Refusal(
        Conflict, "a customer with that id exists", "Use the existing customer, or leave the id out."
    ),
    "identifier_taken": Refusal(
        Conflict,
        "the external id belongs to another customer",
        "Look its owner up with `book.customers.find(system, external_id)`.",
    ),
    "identifier_linked": Refusal(
        Conflict,
        "the customer already has an external id in that system",
        "Remove the one that is there first.",
    ),
    "unknown_identifier": Refusal(
        NotFound, "the customer has no external id in that system", "See `show customer` for what is linked."
    ),
    "unknown_contact_point": Refusal(
        NotFound,
        "the customer has no such contact point",
        "See `show customer` for the ids of contact points.",
    ),
    "unknown_consent": Refusal(
        NotFound,
        "the customer has no such consent, or it is withdrawn",
        "See `consent show` for the consents and their ids.",
    ),
    "consent_confirmed": Refusal(Conflict, "the consent is confirmed already", "Nothing is left to do."),
    "already_restricted": Refusal(
        Conflict, "the processing of the customer's data is restricted already", "Lift that restriction first."
    ),
    "not_restricted": Refusal(
        NotAllowed, "the processing of the customer's data is not restricted", "See `consent show` for what holds."
    ),
    "already_objected": Refusal(Conflict, "the customer objects to that already", "Nothing is left to do."),
    "no_objection": Refusal(NotAllowed, "the customer does not object to that", "See `consent show` for what holds."),
    "unknown_request": Refusal(
        NotFound, "the customer has no such data-subject request", "See `request list` for the requests and their ids."
    ),
    "request_of_other_kind": Refusal(
        NotAllowed,
        "the data-subject request makes use of another right than the command carries out",
        "Give the id of a request for erasure, or leave it out. See `request list` for the requests.",
    ),
    "request_completed": Refusal(
        Conflict, "the data-subject request was answered before", "Record a new request if the customer made one."
    ),
    "nothing_changed": Refusal(
        InvalidInput, "a change without any field", "Give at least one field to set or to clear."
    ),
    "no_lines": Refusal(InvalidInput, "a purchase or a return without lines", "Give at least one line."),
    "order_recorded": Refusal(
        Conflict,
        "the order id was recorded before",
        "Repeat the first call with its command_id to get its result; a new order needs a new id.",
    ),
    "unknown_purchase": Refusal(
        NotFound,
        "the customer has no such purchase",
        "Give the purchase id that `record_purchase` returned, or the order id.",
    ),
    "unknown_line": Refusal(
        NotFound,
        "the purchase has no such line",
        "Lines count from 1, in the order in which they were given.",
    ),
    "returned_too_much": Refusal(
        NotAllowed,
        "more of a line is returned than was bought and not returned yet",
        "Reduce the quantity to what is left.",
    ),
    "unknown_ticket": Refusal(NotFound, "no ticket with that id", "Open it first."),
    "ticket_closed": Refusal(
        NotAllowed, "the ticket is closed", "Open a new ticket that names the old one in its text."
    ),
    "effective_too_early": Refusal(
        NotAllowed,
        "a fact dated before what it rests on: a return before its purchase, a reply before the ticket was opened",
        "Check the effective time, or correct that of the earlier fact's record.",
    ),
    "not_enrolled": Refusal(
        NotFound,
        "the customer has no account in the programme",
        "Enrol first: `book.loyalty.enrol(customer)`.",
    ),
    "already_enrolled": Refusal(
        Conflict, "the customer has an account in the programme", "Use the account that is there."
    ),
    "no_rule_set": Refusal(
        NotAllowed,
        "no rule set is in force for the programme at that time",
        "Adopt one: `tallybook rules adopt FILE`, or `book.rules.adopt(…)`, in force from early enough.",
    ),
    "insufficient_points": Refusal(
        NotAllowed,
        "fewer active points than the redemption asks for; the attempt is recorded",
        "Redeem at most the balance.",
    ),
    "account_closed": Refusal(
        NotAllowed,
        "a command about a closed account; an attempt to spend is recorded",
        "Enrol the customer in another programme.",
    ),
    "account_suspended": Refusal(
        NotAllowed,
        "earning or spending on a suspended account; an attempt to spend is recorded",
        "Resume the account: `book.loyalty.resume(…)`.",
    ),
    "account_full": Refusal(
        NotAllowed,
        "more points than one account ever takes, 2^61; an earning of them is recorded as refused",
        "Give them to another account. See `tallybook show account` for what came to this one.",
    ),
    "unknown_reward": Refusal(
        NotFound, "a reward that the rule set in force does not have", "See `tallybook rules show` for its rewards."
    ),
    "tier_required": Refusal(NotAllowed, "the reward is for other tiers", "See `tallybook rules show` for which."),
    "segment_required": Refusal(
        NotAllowed, "the reward is for other segments", "See `tallybook rules show` for which."
    ),
    "out_of_stock": Refusal(
        NotAllowed,
        "no piece of the reward is left, or fewer than are taken out",
        "Stock it: `book.loyalty.stock_reward(…)`.",
    ),
    "limit_exceeded": Refusal(
        NotAllowed,
        "a limit of the rule set against fraud is reached; the attempt is recorded",
        "Wait for the next period.",
    ),
    "transfers_not_allowed": Refusal(
        NotAllowed, "the rule set in force allows no transfers", "Adopt one that has transfers.allowed."
    ),
    "receiver_closed": Refusal(
        NotAllowed,
        "the account that points are to go to is closed; the attempt is recorded",
        "Give them to an account that is open.",
    ),
    "receiver_suspended": Refusal(
        NotAllowed,
        "the account that points are to go to is suspended; the attempt is recorded",
        "Resume that account first: `book.loyalty.resume(…)`.",
    ),
    "unknown_redemption": Refusal(
        NotFound, "the account paid for no such redemption", "Give the id that `redeem` returned."
    ),
    "unknown_earning": Refusal(
        NotFound,
        "the account earned nothing for that fact",
        "Give the id of the purchase or the activity; of a referral's or an enrolment's points, that of their lot.",
    ),
    "unknown_decision": Refusal(
        NotFound, "no decision about an account has that id", "`book.loyalty.explain_account(…)` names them all."
    ),
    "mixed_currencies": Refusal(
        NotAllowed,
        "the programme's rule sets have different currencies, so that no figure tells what its points are worth",
        "Allocate what was sold before the change by hand: `book.loyalty.allocate(…)`.",
    ),
    "unknown_hold": Refusal(NotFound, "the account holds nothing under that id", "Give the id that `hold` returned."),
    "unknown_lot": Refusal(
        NotFound, "the account never had such a lot of points", "See `book.loyalty.account(…)` for its lots."
    ),
    "unknown_tier": Refusal(NotFound, "a tier that the rule set in force does not have", "See `tallybook rules show`."),
    "no_override": Refusal(NotAllowed, "no override of the tier is in force", "Nothing is to be lifted."),
    "not_suspended": Refusal(NotAllowed, "the account is not suspended", "Nothing is to be resumed."),
    "unknown_coupon": Refusal(
        NotFound,
        "the account has no such coupon; an attempt to use it is recorded, without the code",
        "Give its id, or its code.",
    ),
    "coupon_used": Refusal(NotAllowed, "the coupon was used", "It is good once."),
    "coupon_voided": Refusal(NotAllowed, "the coupon was taken back", "Issue another."),
    "coupon_expired": Refusal(NotAllowed, "the coupon's time is over", "Issue another."),
    "coupon_whole": Refusal(
        NotAllowed,
        "a part of the points is to come back that a coupon was paid with",
        "A coupon goes back whole: leave `points` out.",
    ),
    "not_proposed": Refusal(NotFound, "a rule set that is not put forward", "See `book.rules.proposals()`."),
    "backtest_required": Refusal(
        NotAllowed,
        "the programme's rule sets are adopted with a backtest on record only, named by its digest",
        "Run `book.backtest(candidate, record=True)`, and give its `digest()` as `backtest=`.",
    ),
    "already_referred": Refusal(Conflict, "the customer was referred before", "A customer is brought once."),
    "referral_circle": Refusal(
        NotAllowed, "the referrer was brought, directly or not, by the customer", "Nobody brings whoever brought them."
    ),
    "code_taken": Refusal(Conflict, "another coupon has that code", "Draw another code."),
    "owner_required": Refusal(NotAllowed, "a complaint needs a named owner before it is resolved", "Assign it first."),
    "not_resolved": Refusal(NotAllowed, "the ticket is not resolved yet", "Resolve it first."),
    "sweep_goes_back": Refusal(
        NotAllowed,
        "a sweep up to a moment before an earlier sweep's",
        "Sweep to the same moment or a later one.",
    ),
    "sweep_unfinished": Refusal(
        NotAllowed,
        "a rule set is to be adopted while a sweep is under way, or was cut short",
        "Let the sweep end, or run it again to the same moment: it goes on.",
    ),
    "rule_set_adopted": Refusal(
        Conflict,
        "a rule set of that name and version was adopted with other content",
        "Give the changed rule set a new version.",
    ),
    "policy_adopted": Refusal(
        Conflict,
        "an access policy of that name and version was adopted with other content",
        "Give the changed policy a new version.",
    ),
    "no_policy": Refusal(NotFound, "no access policy is in force", "Adopt one: `tallybook policy adopt FILE`."),
    "role_not_granted": Refusal(
        NotFound, "the actor does not have that role", "See `tallybook policy roles` for who has which."
    ),
    "policy_locks_out": Refusal(
        NotAllowed,
        "after it nobody could adopt another access policy: no role without end is allowed the command policy.adopt",
        "First grant such a role to somebody: `tallybook policy grant ACTOR ROLE`; or give the command to a role that "
        "somebody has.",
    ),
    "read_model_stopped": Refusal(
        NotAllowed,
        "a read model is paused, failed or retired, and behind the log: its answer would be stale",
        "See `tallybook projections status`; then resume, retry, skip or rebuild it.",
    ),
    "not_failed": Refusal(
        NotAllowed,
        "the read model has not failed at that position: there is nothing to retry or to skip",
        "See `tallybook projections status` for what failed, and where.",
    ),
    "schedule_declared": Refusal(
        Conflict,
        "a retention schedule of that name is in force with other content",
        "Withdraw it first, or give the new one a name of its own.",
    ),
    "unknown_schedule": Refusal(
        NotFound, "no retention schedule of that name is in force", "See `retention show` for those that are."
    ),
    "conflict": Refusal(
        Conflict,
        "other writers changed the same streams each time that the command was tried",
        "Try again; the command had no effect.",
    ),
    "busy": Refusal(
        Conflict,
        "another process held a lock of the book for too long, or the server broke off a statement",
        "Try again; the command had no effect. See `lock_timeout_s` of `tallybook.open`.",
    ),
}


def refusal(code: str, message: str, *, remedy: str = "", **values: object) -> Refused:
    """The error for a code of the catalogue, to be raised by the guard that found it. `remedy`: if it knows better."""
    return REFUSALS[code].error(code, message, values, remedy)


def whole(value: object, name: str, least: int = 1, most: int = 10**12) -> int:
    """A whole number within bounds, as a command's argument. Refuses: invalid_argument."""
    if type(value) is not int or not least <= value <= most:
        raise refusal("invalid_argument", f"{name}: a whole number from {least} to {most} is wanted.", argument=name)
    return value


def text(value: object, name: str, *, nul: bool = False) -> str:
    """A text as an argument: not empty, of Unicode, and without NUL, which no column of PostgreSQL takes.

    `nul`: where it goes into a hash only. Refuses: invalid_argument.
    """
    if not isinstance(value, str) or not value.strip():
        raise refusal("invalid_argument", f"{name}: a text that is not empty is wanted.", argument=name)
    if "\0" in value and not nul:
        raise refusal("invalid_argument", f"{name}: the text holds the character NUL.", argument=name)
    try:
        value.encode()
    except UnicodeError:
        raise refusal(
            "invalid_argument", f"{name}: the text holds a character that is not Unicode.", argument=name
        ) from None
    return value


def listed(value: object, name: str, what: str) -> tuple[str, ...]:
    """A list of names as an argument: one text is none. Refuses: invalid_argument."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refusal("invalid_argument", f"{name}: a list of {what} is wanted, not one text.", argument=name)
    return tuple(value)


class BookError(TallybookError):
    """A book can't be opened or used."""

    def __init__(self, message: str, *, path: str = "", remedy: str = "") -> None:
        self.message = message
        self.path = path
        self.remedy = remedy
        super().__init__(" ".join(part for part in (message, remedy) if part))


class BookNotFound(BookError):
    """There is no book at that place, and none was to be created."""


class NotABook(BookError):
    """The file is something else."""


class NewerBook(BookError):
    """A later release of Tallybook wrote the book."""


class BookReadOnly(BookError):
    """The file or its folder can't be written."""


class BookFull(BookError):
    """There is no space left on the disk; what was being written is not in the book."""


class BookDamaged(BookError):
    """The file is damaged: its pages make no sense any more."""


class BookUnreachable(BookError):
    """The database server can't be reached, or the connection to it was lost.

    `unknown`: it was lost in the middle of a commit, so that what was being written may be in the book.
    """

    def __init__(self, message: str, *, path: str = "", remedy: str = "", unknown: bool = False) -> None:
        self.unknown = unknown
        super().__init__(message, path=path, remedy=remedy)


class KeysMissing(BookError):
    """The book's key file is not there, or belongs to another book."""


class KeyLost(KeysMissing):
    """A subject's data key is gone, and nobody destroyed it: the store was damaged, or put back from too old a copy."""


class SigningKeyMissing(BookError):
    """The key that signs the book's checkpoints is not there, or is another's."""


class ReadsMissing(BookError):
    """The book's log of reads is not there, or belongs to another book."""


class ArchiveError(BookError):
    """An archive is not there, or a file of it is not what its manifest says. The next catch-up makes it anew."""


class BookClosed(BookError):
    """The book was closed."""


class StoredFormError(TallybookError):
    """Stored bytes can't be read as the event that they claim to be.

    `where` names the event: its position (when it is known), stream, version and stored name.
    """

    def __init__(self, message: str, *, where: str) -> None:
        self.where = where
        super().__init__(f"{where}: {message}")


def not_a_document(kind: str, label: str, error: ValueError) -> StoredFormError:
    """For what was adopted as a document, was valid then, and is none now."""
    return StoredFormError(
        f"what is stored as its document is none: somebody altered it ({str(error).splitlines()[0]}). "
        "See what `tallybook doctor` finds, and restore the book from a backup.",
        where=f"{kind} {label}",
    )


class UnknownStoredName(StoredFormError):
    """The stored name is not in the closed registry."""


class NewerSchema(StoredFormError):
    """A later release wrote the event."""


class ReadModelFailed(TallybookError):
    """A read model can't fold the event at a position. Nothing else is affected; the live rows stay as they are."""

    def __init__(self, model: str, position: int, error: str) -> None:
        self.model = model
        self.position = position
        super().__init__(f"The read model {model!r} can't fold the event at position {position}: {error}")


class SealError(TallybookError):
    """A sealed value can't be opened: no key, a wrong key, or bytes that were moved or altered."""


class RuleSetError(TallybookError):
    """A rule set document is wrong; each of `problems` names the path and what to write there."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))


class PolicyError(TallybookError):
    """An access policy document is wrong; each of `problems` names the path and what to write there."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))


class ImportFileError(TallybookError):
    """A line of an import file can't be read. Nothing of the file was recorded."""

    def __init__(self, file: str, line: int, message: str) -> None:
        self.file = file
        self.line = line
        super().__init__(f"{file}, line {line}: {message}")


class NoteError(TallybookError):
    """A checkpoint, a proof or a key is malformed, or is not signed by whom it must be."""


class MissingExtra(TallybookError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"This needs {package}, which is not installed. Install it with: pip install 'tallybook[{extra}]'"
        )
