"""Ciphertexts in an adversary's hands: each attack is refused, whatever the seed."""

from __future__ import annotations

import random
import re
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import tallybook
from tallybook.adapters.keys import Keyring, MemoryKeyStore, commitment
from tallybook.domain.erasure import KEPT_KEY, ORDINARY_KEY
from tallybook.domain.errors import SealError
from tallybook.domain.personal import Erased, Sealed

SEEDS = range(3)
COUNT = 40


def any_id(chance: random.Random) -> UUID:
    return UUID(bytes=chance.randbytes(16))


def sealed_by(ring: Keyring, chance: random.Random, subject: UUID, key_id: int) -> Sealed:
    fields = tuple(chance.sample(["name", "note", "address", "company"], chance.randint(1, 3)))
    event = any_id(chance)
    name, version = chance.choice(["customer.registered", "customer.changed"]), chance.randint(1, 3)
    blob = ring.seal(subject, event, name, version, fields, [chance.randbytes(8).hex() for _ in fields], key_id)
    return Sealed(event, name, version, subject, key_id, fields, blob)


def swaps(chance: random.Random, count: int) -> int:
    """Put parts of one ciphertext, and of what it is bound to, into another, all keys being there: none opens."""
    store = MemoryKeyStore("tallybook/adversary")
    ring = Keyring(store, lambda *name: commitment(store.get([name])[name]))
    subjects = [any_id(chance) for _ in range(3)]
    same = chance.randbytes(32)  # the worst case: what is bound is all that tells these two apart
    keys = {(one, key_id): chance.randbytes(32) for one in subjects for key_id in (ORDINARY_KEY, KEPT_KEY)}
    store.add(keys | {(subjects[0], ORDINARY_KEY): same, (subjects[0], KEPT_KEY): same, (subjects[1], 1): same})
    tried = 0
    while tried < count:
        one, other = (
            sealed_by(ring, chance, chance.choice(subjects), chance.choice((ORDINARY_KEY, KEPT_KEY))) for _ in range(2)
        )
        assert ring.open(one)
        moved = one._replace(
            **{name: getattr(other, name) for name in chance.sample(Sealed._fields, chance.randint(1, 5))}
        )
        cut = chance.randrange(4)
        if cut == 0:
            moved = moved._replace(blob=moved.blob[:12] + other.blob[12:])
        elif cut == 1:
            moved = moved._replace(blob=other.blob[:12] + moved.blob[12:])
        elif cut == 2:
            at = chance.randrange(len(moved.blob))
            moved = moved._replace(
                blob=moved.blob[:at] + bytes([moved.blob[at] ^ 1 << chance.randrange(8)]) + moved.blob[at + 1 :]
            )
        if moved in (one, other):
            continue
        with pytest.raises(SealError, match=str(moved.event_id)):
            ring.open(moved)
        tried += 1
    return tried


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_was_swapped_opens(seed: int) -> None:
    assert swaps(random.Random(seed), COUNT) == COUNT


BOUND: dict[str, Any] = {
    "origin": None,
    "event_id": UUID(int=7),
    "stored_name": "customer.changed",
    "schema_version": 2,
    "subject_id": UUID(int=8),
    "key_id": KEPT_KEY,
    "fields": ("note",),
}


@pytest.mark.parametrize("part", BOUND)
def test_each_part_of_what_is_bound_counts_by_itself(part: str) -> None:
    key, ada, event = bytes(range(32)), UUID(int=1), UUID(int=2)
    names = [(one, key_id) for one in (ada, UUID(int=8)) for key_id in (ORDINARY_KEY, KEPT_KEY)]
    rings = []
    for origin in ("tallybook/one", "tallybook/two"):
        store = MemoryKeyStore(origin)
        store.add(dict.fromkeys(names, key))
        rings.append(Keyring(store, lambda *_: commitment(key)))
    blob = rings[0].seal(ada, event, "customer.registered", 1, ["name"], ["Ada"])
    sealed = Sealed(event, "customer.registered", 1, ada, ORDINARY_KEY, ("name",), blob)
    assert rings[0].open(sealed) == {"name": "Ada"}
    with pytest.raises(SealError, match="moved or altered"):
        rings[1].open(sealed) if part == "origin" else rings[0].open(sealed._replace(**{part: BOUND[part]}))


# ── a ciphertext that opens under two keys ────────────────────────────────────────────────────────────────────────


def times(one: int, other: int) -> int:
    """The product in GF(2^128), as GCM counts its bits."""
    product = 0
    for bit in range(127, -1, -1):
        if other >> bit & 1:
            product ^= one
        one = one >> 1 ^ (0xE1 << 120 if one & 1 else 0)
    return product


def inverse(one: int) -> int:
    result, power, square = 1 << 127, 2**128 - 2, one
    while power:
        if power & 1:
            result = times(result, square)
        square, power = times(square, square), power >> 1
    return result


def block(key: bytes, data: bytes) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return int.from_bytes(encryptor.update(data), "big")


def of_two_keys(one: bytes, other: bytes, nonce: bytes, body: bytes, bound: bytes) -> bytes:
    """A ciphertext, with its tag, that is sound under both keys: one more block makes the two tags equal.

    The tag is a polynomial in H, which differs by key, plus a mask. With a free last block c, both are linear in c:
    (c + r1) H1² + l H1 + m1 = (c + r2) H2² + l H2 + m2, which is solved for c. (Dodis, Grubbs, Ristenpart, Woodage.)
    """
    assert len(body) % 16 == 0
    padded = bound + bytes(-len(bound) % 16)
    lengths = (len(bound) * 8) << 64 | (len(body) + 16) * 8
    sides = []
    for key in (one, other):
        h, mask, rest = block(key, bytes(16)), block(key, nonce + b"\0\0\0\1"), 0
        for start in range(0, len(padded), 16):
            rest = times(rest ^ int.from_bytes(padded[start : start + 16], "big"), h)
        for start in range(0, len(body), 16):
            rest = times(rest ^ int.from_bytes(body[start : start + 16], "big"), h)
        square = times(h, h)
        sides.append((square, times(rest, square) ^ times(lengths, h) ^ mask))
    (square1, rest1), (square2, rest2) = sides
    free = times(rest1 ^ rest2, inverse(square1 ^ square2))
    tag = times(free, square1) ^ rest1
    return body + free.to_bytes(16, "big") + tag.to_bytes(16, "big")


def two_keys(chance: random.Random, count: int) -> int:
    """Make ciphertexts that open under two keys, and give the store each of them: the log commits to one."""
    for _ in range(count):
        one, other = chance.randbytes(32), chance.randbytes(32)
        subject, event = any_id(chance), any_id(chance)
        committed = commitment(one)
        refused = 0
        for key in (one, other):
            store = MemoryKeyStore("tallybook/adversary")
            store.add({(subject, ORDINARY_KEY): key})
            ring = Keyring(store, lambda *_, committed=committed: committed)
            bound = ring._bound(event, "customer.registered", 1, subject, ORDINARY_KEY, ["name"])
            nonce = bytes(12)
            both = of_two_keys(one, other, nonce, chance.randbytes(32), bound)
            plain = [AESGCM(key).decrypt(nonce, both, bound) for key in (one, other)]
            assert plain[0] != plain[1], "the ciphertext opens under both keys, and says something else"
            sealed = Sealed(event, "customer.registered", 1, subject, ORDINARY_KEY, ("name",), nonce + both)
            if key == other:
                with pytest.raises(SealError, match="not the one that the log commits to"):
                    ring.open(sealed)
                refused += 1
        assert refused == 1
    return count


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ciphertext_of_two_keys_opens_under_the_committed_one_alone(seed: int) -> None:
    assert two_keys(random.Random(seed), 3) == 3


# ── two subjects in one event ─────────────────────────────────────────────────────────────────────────────────────


def test_each_part_of_an_event_about_two_opens_under_its_own_subjects_key_alone() -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
        ada, bob = book.customers.register(name="Ada"), book.customers.register(name="Bob")
        book.customers.refer(ada, bob, note="in her own words", relation="sister")
        [recorded] = book._core.history(["customer.referred"])
        event: Any = recorded.event
        handles = {"note": event.note, "relation": event.relation}
        ring = book._core.keyring
        note, relation = handles["note"].sealed, handles["relation"].sealed
        assert ring.open(note) == {"note": "in her own words"}
        assert ring.open(relation) == {"relation": "sister"}
        for moved in (
            note._replace(subject_id=bob),
            relation._replace(subject_id=ada),
            note._replace(blob=relation.blob),
            relation._replace(fields=("note",)),
        ):
            with pytest.raises(SealError):
                ring.open(moved)
        for one in (ada, bob):
            assert [entry.action for entry in book.audit.trail(one)].count("customer.referred") == 1
        assert [entry.action for entry in book.audit.trail()].count("customer.referred") == 1
        ring.destroy([(bob, 1)], book.position())
        metadata = book._core.gate_metadata(book._core.acting_now())
        opened = book._core.gate.open(metadata, "test", handles)
        assert opened == {"note": "in her own words", "relation": Erased(bob)}
        assert event.subject_ids() == (ada, bob)
        alone = book.customers.refer(bob, book.customers.register(), relation="brother")
        [_, second] = book._core.history(["customer.referred"])
        other: Any = second.event
        assert (other.event_id, other.note) == (alone, None)
        assert ring.open(other.relation.sealed) == {"relation": "brother"}
        cy = book.customers.register()
        ring.destroy([(cy, 1)], book.position())
        with pytest.raises(tallybook.Refused, match="customer_erased"):
            book.customers.refer(ada, cy, relation="sister")
        with pytest.raises(tallybook.Refused, match=re.escape("refers themselves")):
            book.customers.refer(ada, ada)
