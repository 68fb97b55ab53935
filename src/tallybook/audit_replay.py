"""`book.audit.replay`: how the book stood about one subject at a moment, why each decision fell, and the evidence."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tallybook.adapters import merkle
from tallybook.adapters.checkpoints import Checkpoints, Stored
from tallybook.adapters.clear_form import as_json
from tallybook.adapters.policy_files import decider_of
from tallybook.adapters.reports import Column, Kind, Report, Section, as_html
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.erasure import DESTROYING
from tallybook.domain.errors import refusal, whole
from tallybook.domain.personal import Erased, Masked, Withheld
from tallybook.domain.retention import RetentionSwept
from tallybook.projections.audit_replay import Material, filled, handles, replayed
from tallybook.projections.read_models import Recorded

from .core import Core
from .times import When, as_of_us, iso

ACTION = "audit.replay"


@dataclass(frozen=True, slots=True)
class AuditReplay:
    """How a book stood about one subject at a moment, as it knew it.

    `document` holds what the book said: the same question to the same events gives the same bytes (`canonical()`),
    whose SHA-256 is `digest`. Two things change it later: an erasure, and a sweep that prunes records of reads; the
    document tells of both. A personal value is a text, or `{"erased": true}`, `{"masked": …}`,
    `{"withheld": reason}`, `{"sealed": true}`. `evidence` holds what shows that the events are in the log; it may grow
    with time.
    """

    subject: UUID
    document: Mapping[str, Any]
    evidence: Mapping[str, Any]
    digest: str
    generated_at: str

    def canonical(self) -> bytes:
        """The document as canonical JSON: names in order, whole numbers, times in UTC, UTF-8, a newline at the end."""
        return as_json(self.document, canonical=True)

    def json(self) -> bytes:
        """Document, digest and evidence, in the same form."""
        answer = {"digest": self.digest, "document": self.document, "evidence": self.evidence}
        return as_json(answer, canonical=True)

    def report(self) -> Report:
        """As a report of tables."""
        question = self.document["question"]
        made_of = {
            "book": str(self.document["book"]),
            **{name: str(value) for name, value in question.items()},
            "digest of the document": self.digest,
        }
        return Report("Audit replay", self.generated_at, made_of, tuple(_sections(self.document, self.evidence)))

    def html(self) -> str:
        """One page that needs nothing else."""
        return as_html(self.report())


def audit_replay(
    core: Core, subject: UUID, at: When, known_at: When | int | None, *, sealed: bool, proofs: bool
) -> AuditReplay:
    """See `AuditView.replay`."""
    acting = core.acting_now()
    now_us = core.now_us()
    at_us = as_of_us(at, "at")
    if at_us >= now_us:
        # What is still to be recorded would be in a second replay and not in the first.
        raise refusal("invalid_argument", "at: a time that is over is wanted.", argument="at")
    core.catch_up(core.trail)
    head = core.app.position()
    if known_at is None:
        known_at = head
    if isinstance(known_at, int):
        whole(known_at, "known_at", 0, head)
    material = _material(core, subject, at_us, known_at, head)
    tree = replayed(material)
    if tree is None:
        raise refusal("unknown_customer", "There is no such customer, or not by then.", customer=subject)
    metadata = core.gate_metadata(acting)
    found = handles(tree)
    if sealed:
        core.gate.record(metadata, ACTION, [subject], [])
        values: dict[Any, object] = dict.fromkeys(found, _SEALED)
    else:
        values = core.gate.open(metadata, ACTION, found, [subject])
    document = {
        "book": core.origin,
        "question": {
            "subject": str(subject),
            "at": iso(at_us),
            "known_at": known_at if isinstance(known_at, int) else iso(as_of_us(known_at, "known_at")),
        },
        **filled(tree, lambda path: _value(values[path])),
    }
    digest = hashlib.sha256(as_json(document, canonical=True)).hexdigest()
    evidence = _evidence(core, material, known_at if isinstance(known_at, int) else None, proofs=proofs)
    return AuditReplay(subject, document, evidence, digest, iso(now_us) or "")


_SEALED = object()


def _value(value: object) -> Any:
    if value is _SEALED:
        return {"sealed": True}
    if isinstance(value, Erased):
        return {"erased": True}
    if isinstance(value, Masked):
        return {"masked": value.text}
    return {"withheld": value.reason} if isinstance(value, Withheld) else value


def _material(core: Core, subject: UUID, at_us: int, known_at: When | int, head: int) -> Material:
    known = core.known(known_at)
    history = [one for one in core.whole_history(subject) if known(one)]
    if isinstance(known_at, int):
        whole_to = _whole_to(core, known_at, head)
        # The book stood at a position until the next event: so long, reads were recorded beside it.
        following = core.at_positions([known_at + 1]) if known_at < head else []
        reads_until_us = min([at_us, *(one.event.metadata.recorded_us - 1 for one in following)])
    else:
        whole_to = head
        reads_until_us = min(at_us, as_of_us(known_at, "known_at"))
    reads, pruned_us = _reads(core, subject, reads_until_us)
    return Material(
        subject,
        at_us,
        history,
        [one for one in core.stream(core.book_id) if known(one)],
        [one for one in core.stream(core.policy_id) if known(one)],
        core.policies(),
        reads,
        pruned_us,
        decider_of,
        whole_to,
    )


def _reads(core: Core, subject: UUID, until_us: int) -> tuple[list[Recorded], int | None]:
    """The reads of a subject up to a time, from the rows that hold its id; and up to when records were pruned (at most
    that time), None: none ever were.

    What was pruned, the sweeps on record say: rows that are still to go are gone for everybody.
    """
    log = core.gate.reads
    rows = log.iterate(topics=[PersonalDataRead.stored_name])
    found = [
        one
        for one in core.app.decode(row for row in rows if subject.bytes in row[-1])
        if isinstance(one.event, PersonalDataRead)
        and subject in one.event.subjects
        and one.event.metadata.recorded_us <= until_us
    ]
    # Read after the rows: who prunes them meanwhile has recorded it before.
    swept = [event for _, event in core.history([RetentionSwept.stored_name]) if isinstance(event, RetentionSwept)]
    pruned = max([one.reads_pruned for one in swept], default=0)
    if not pruned:
        return found, None
    first = next(iter(core.app.decode(log.iterate(pruned, stop=pruned + 1))))  # a sweep leaves one
    return [one for one in found if one.position > pruned], min(first.event.metadata.recorded_us, until_us)


def _whole_to(core: Core, position: int, head: int) -> int:
    """The last position up to one at which a command ends. The events of a command have ids that count on."""
    if position >= head:
        return position
    [(_, after)] = core.at_positions([position + 1])
    while position > 0:
        [(_, event)] = core.at_positions([position])
        if event.metadata != after.metadata or event.event_id.int + 1 != after.event_id.int:
            break
        position, after = position - 1, event
    return position


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _evidence(core: Core, material: Material, position: int | None, *, proofs: bool) -> dict[str, Any]:
    rests_on = material.positions()
    reads = [one.position for one in material.reads]
    pruned = core.reads_pruned()
    later = [one for one in core.stream(material.subject) if isinstance(one.event, DESTROYING)]
    return {
        "events": _log_evidence(core, "events", rests_on, max([position or 0, *rests_on]), proofs=proofs),
        "reads": _log_evidence(core, "reads", reads, max([0, *reads]), proofs=proofs),
        **({} if pruned is None else {"reads_pruned": {"position": pruned.reads, "at": iso(pruned.at_us)}}),
        "erasures": [
            {
                "position": one.position,
                "event_id": str(one.event.event_id),
                "erased_at": iso(one.event.effective_us),
                "recorded_at": iso(one.event.metadata.recorded_us),
                "actor": one.event.metadata.actor,
                "reason": one.event.reason,  # type: ignore[attr-defined]  # the list holds these only
                "keys": list(one.event.key_ids),  # type: ignore[attr-defined]  # as above
                "proof": _log_evidence(core, "events", [one.position], one.position, proofs=True),
            }
            for one in later
        ],
    }


def _log_evidence(core: Core, log: str, positions: Sequence[int], covers: int, *, proofs: bool) -> dict[str, Any]:
    """Where in a log something stands, and the first checkpoint that covers it: asked again, it is the same one."""
    found: dict[str, Any] = {"positions": list(positions), "covers": covers, "checkpoint": None}
    if core.storage.signing is None or covers == 0:
        return found
    checkpoints = core.checkpoints[log]
    stored = _covering(checkpoints, covers)
    found["checkpoint"] = {
        "size": stored.size,
        "root": stored.root.hex(),
        "signed_at": iso(stored.signed_us),
        "note": stored.note,
        "vkeys": [one.vkey for one in checkpoints.verifiers()],
    }
    if proofs:
        rows = dict(zip(positions, checkpoints.log.rows_at(positions), strict=True))
        found["proofs"] = [
            {
                "position": one,
                "leaf": base64.b64encode(merkle.leaf(core.origin, *rows[one])).decode(),
                "proof": checkpoints.proof(one, stored).text,
            }
            for one in positions
        ]
    return found


def _covering(checkpoints: Checkpoints, position: int) -> Stored:
    return next(checkpoints.genuine(position - 1), None) or checkpoints.sign()


# ── for people ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        if "erased" in value:
            return "(erased)"
        if "sealed" in value:
            return "(sealed)"
        return value["masked"] if "masked" in value else f"(withheld: {value['withheld']})"
    return value


def _details(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_detail(one)}" for name, one in value.items())


def _detail(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{one} {name}" for name, one in value.items())
    if isinstance(value, list):
        return f"{len(value)} parts" if value and isinstance(value[0], dict) else " and ".join(map(str, value))
    return str(value)


def _sections(document: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[Section]:
    state, privacy, access = document["state"], document["privacy"], document["access"]
    verification = document["verification"]
    entries = [
        *(("field", name, one) for name, one in state["fields"].items()),
        *(("identifier", name, one) for name, one in state["identifiers"].items()),
        *(("contact point", one["kind"], one) for one in state["contact_points"]),
    ]
    text, count, time, an_id = Kind.TEXT, Kind.COUNT, Kind.TIME, Kind.ID
    first = verification["first_divergence"]
    verdict = (
        f"{verification['agreed']} of {verification['decisions']} decisions follow from {verification['facts']} facts, "
        f"up to position {verification['up_to']}."
        if first is None
        else f"NOT what the facts lead to: {first['kind']} at position {first['position']}, expected "
        f"{first['expected']}, found {first['found']}."
    )
    policy = access["policy"]
    return [
        Section(
            "Profile",
            f"A {state['kind']}, registered at {state['registered_at']}. {_details(state['counts'])}.",
            _columns(
                what=text, name=text, value=text, since=time, position=count, event=text, actor=text, rule=text,
                policy=text,
            ),
            [
                (
                    what, name, _shown(one["value"]), one["since"],
                    *_origin(one["source"], "position", "event", "actor", "rule", "policy"),
                )
                for what, name, one in entries
            ],
        ),
        Section(
            "Accounts",
            "As the facts lead to it that had taken effect by then, with what time alone had made due.",
            _columns(
                programme=text, tier=text, since=time, qualifying=count, balance=count, debt=count, earned=count,
                spent=count, expired=count, reversed=count, due=text,
            ),
            [
                (
                    one["programme"], one["tier"], one["tier_since"], one["qualifying"], one["balance"], one["debt"],
                    one["earned"], one["spent"], one["expired"], one["reversed"], "; ".join(one["due"]),
                )
                for one in state["accounts"]
            ],
        ),
        Section(
            "Lots",
            "",
            _columns(programme=text, lot=an_id, points=count, earned=time, expires=time),
            [
                (one["programme"], lot["lot_id"], lot["points"], lot["earned_at"], lot["expires_at"])
                for one in state["accounts"]
                for lot in one["lots"]
            ],
        ),
        Section(
            "Tickets",
            "",
            _columns(
                ticket=an_id, kind=text, subject=text, state=text, owner=text, opened=time, first_response=time,
                resolved=time, replies=count, compensated=count,
            ),
            [
                (
                    one["ticket_id"], one["kind"], _shown(one["subject"]), one["state"], one["owner"], one["opened_at"],
                    one["first_response_at"], one["resolved_at"], len(one["replies"]), one["compensated_points"],
                )
                for one in state["tickets"]
            ],
        ),
        Section(
            "Consents",
            "",
            _columns(
                purpose=text, in_force=text, text=text, basis=text, brand=text, captured=time, until=time, ended=time,
                position=count,
            ),
            [
                (
                    one["purpose"], "yes" if one["in_force"] else "no", one["text_version"], one["basis"], one["brand"],
                    one["captured_at"], one["until"], one["ended_at"], one["source"]["position"],
                )
                for one in privacy["consents"]
            ],
        ),
        Section(
            "Restriction, objections, requests",
            "",
            _columns(what=text, about=text, since=time, due=time),
            [
                *(
                    ("restriction", one["reason"], one["since"], None)
                    for one in [privacy["restriction"]]
                    if one is not None
                ),
                *(("objection", one["to"], one["since"], None) for one in privacy["objections"]),
                *(("open request", one["kind"], one["received_at"], one["due_at"]) for one in privacy["open_requests"]),
            ],
        ),
        Section(
            "Who could see what",
            "No access policy was in force: whoever named himself and a purpose could see everything."
            if policy is None
            else f"Under the access policy {policy['label']}, digest {policy['digest']}, adopted at position "
            f"{policy['source']['position']}.",
            _columns(
                actor=text, roles=text, purpose=text, doors=text, allowed=text, masked=text, withheld=text, why=text
            ),
            [
                (
                    one["actor"], ", ".join(role["role"] for role in one["roles"]), sight["purpose"] or "any",
                    *(", ".join(sight[name]) for name in ("actions", "allowed", "masked", "withheld")),
                    sight["reason"] or ", ".join(sight["rules"]),
                )
                for one in access["actors"]
                for sight in one["could_see"]
                if policy is None or sight["allowed"] or sight["masked"] or sight["reason"] is not None
            ],
        ),
        Section(
            "Roles granted and revoked",
            "",
            _columns(actor=text, what=text, role=text, at=time, by=text, position=count),
            [
                (
                    one["actor"], grant["event"], grant["says"]["role"],
                    *_origin(grant, "effective_at", "actor", "position"),
                )
                for one in access["actors"]
                for grant in one["grants"]
            ],
        ),
        Section(
            "Who saw what",
            f"Records of reads up to {access['reads_pruned_up_to']} were pruned: who looked by then, nobody can tell."
            if "reads_pruned_up_to" in access
            else "",
            _columns(
                position=count, at=time, actor=text, purpose=text, action=text, fields=text, masked=text, withheld=text,
                outcome=text,
            ),
            sorted(
                (
                    seen["position"], seen["at"], one["actor"], seen["purpose"], seen["action"],
                    *(", ".join(seen[name]) for name in ("fields", "masked", "withheld")), seen["outcome"],
                )
                for one in access["actors"]
                for seen in one["saw"]
            ),
        ),
        Section(
            "Rule sets",
            "",
            _columns(programme=text, rule_set=text, in_force=text, since=time, adopted=time, by=text, position=count,
                     digest=an_id),
            [
                (
                    one["programme"], one["label"], "yes" if one["in_force"] else "no",
                    *_origin(adoption, "effective_at", "recorded_at", "actor", "position"), one["digest"],
                )
                for one in document["rule_sets"]
                for adoption in one["adoptions"]
            ],
        ),
        Section(
            "Decisions",
            verdict,
            _columns(
                position=count, at=time, decision=text, says=text, rule_set=text, rests_on=text, why=text, agrees=text
            ),
            [
                (
                    one["position"], one["effective_at"], one["event"],
                    _details({name: said for name, said in one["says"].items() if name not in ("facts", "rules")}),
                    one["rules"],
                    "; ".join(f"{fact['event']} at {fact['position']}" for fact in one["facts"]),
                    "\n".join(one["why"]),
                    {True: "yes", False: "NO", None: "not compared"}[one["agrees"]],
                )
                for one in document["decisions"]
            ],
        ),
        Section(
            "Evidence",
            "",
            _columns(log=text, events=count, covers=count, size=count, root=an_id, signed=time),
            [
                (
                    log, len(one["positions"]), one["covers"],
                    *((head["size"], head["root"], head["signed_at"]) if head else (None, None, None)),
                )
                for log in ("events", "reads")
                for one in [evidence[log]]
                for head in [one["checkpoint"]]
            ],
        ),
        Section(
            "Erasures",
            "Those by now, whatever the moment that was asked for.",
            _columns(position=count, erased=time, by=text, reason=text, keys=text),
            [
                (
                    one["position"], one["erased_at"], one["actor"], one["reason"], ", ".join(map(str, one["keys"])),
                )
                for one in evidence["erasures"]
            ],
        ),
    ]  # fmt: skip


def _columns(**kinds: Kind) -> tuple[Column, ...]:
    return tuple(Column(name.replace("_", " "), kind) for name, kind in kinds.items())


def _origin(source: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(source[name] for name in names)


__all__ = ["AuditReplay", "audit_replay"]
