"""Signed notes, checkpoints and proofs as texts: those of C2SP and of Go's sumdb/note, and anything else refused."""

from __future__ import annotations

import base64
import random
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallybook.adapters import notes
from tallybook.adapters.notes import Checkpoint, Proof, Signer, Verifier
from tallybook.domain.errors import NoteError

# The example of Go's golang.org/x/mod/sumdb/note.
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of C2SP's tlog-checkpoint, and the first of tlog-cosignature.
HEAD = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

SIGNER = Signer("shop.example/log", bytes(range(32)))
OTHER = Signer("shop.example/log", bytes(range(1, 33)))


def test_go_s_keys_and_note_are_read_and_made() -> None:
    signer = Signer.parse(GO_SKEY)
    assert (signer.text, signer.vkey) == (GO_SKEY, GO_VKEY)
    assert Verifier.parse(GO_VKEY) == signer.verifier
    assert notes.made(GO_TEXT, [signer.sign(GO_TEXT)]) == GO_NOTE
    assert notes.opened(GO_NOTE, [signer.verifier]).text == GO_TEXT
    assert GO_SKEY not in repr(signer)


def test_the_checkpoint_of_c2sp_is_read() -> None:
    head = Checkpoint.parse(HEAD)
    assert (head.origin, head.size, len(head.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert head.text == HEAD
    assert Checkpoint.parse(HEAD + "an extension\n") == head


def test_a_cosignature_is_of_the_time_and_the_text() -> None:
    line = SIGNER.cosign(HEAD, 1679315147)
    note = notes.made(HEAD, [SIGNER.sign(HEAD), line])
    known = SIGNER.verifier.cosigner()
    assert [one.seconds for one in notes.opened(note, [SIGNER.verifier, known]).signatures] == [None, 1679315147]
    # As the specification has it, without our code.
    name, data = line.removeprefix("— ").split()
    raw = base64.b64decode(data)
    public = SIGNER.verifier.public
    assert raw[:4] == sha256(name.encode() + b"\n\x04" + public).digest()[:4]
    assert raw[4:12] == (1679315147).to_bytes(8, "big")
    Ed25519PublicKey.from_public_bytes(public).verify(raw[12:], b"cosignature/v1\ntime 1679315147\n" + HEAD.encode())
    moved = base64.b64encode(raw[:11] + bytes([raw[11] ^ 1]) + raw[12:]).decode()
    with pytest.raises(NoteError, match="altered"):
        notes.opened(notes.made(HEAD, [f"— {name} {moved}\n"]), [known])


def test_signatures_of_others_are_passed_over_and_one_of_ours_must_be_there() -> None:
    stranger = Signer("witness.example/w", bytes(32))
    note = notes.made(HEAD, [stranger.sign(HEAD), SIGNER.sign(HEAD), OTHER.sign(HEAD)])
    assert [one.verifier for one in notes.opened(note, [SIGNER.verifier]).signatures] == [SIGNER.verifier]
    assert len(notes.opened(note, [SIGNER.verifier, OTHER.verifier]).signatures) == 2
    with pytest.raises(NoteError, match="None of the keys"):
        notes.opened(notes.made(HEAD, [stranger.sign(HEAD)]), [SIGNER.verifier])


def test_one_signature_of_ours_that_does_not_hold_spoils_the_note() -> None:
    forged = SIGNER.sign(HEAD.replace("20852163", "20852164"))
    with pytest.raises(NoteError, match="altered"):
        notes.opened(notes.made(HEAD, [OTHER.sign(HEAD), forged]), [SIGNER.verifier, OTHER.verifier])


@pytest.mark.parametrize("at", range(0, len(HEAD), 7))
def test_a_text_that_was_altered_does_not_hold(at: int) -> None:
    altered = HEAD[:at] + ("x" if HEAD[at] != "x" else "y") + HEAD[at + 1 :]
    with pytest.raises(NoteError):
        notes.opened(notes.made(altered, [SIGNER.sign(HEAD)]), [SIGNER.verifier])


NOTE = notes.made(HEAD, [SIGNER.sign(HEAD), SIGNER.cosign(HEAD, 5)])


@pytest.mark.parametrize(
    "wrong",
    [
        "", "\n", "\n\n", HEAD, HEAD + "\n", NOTE[:-1], NOTE.replace("— ", "- "), NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n\n", "\r\n\r\n"), NOTE + "x", NOTE + "— a\n", NOTE + "— a b\n", NOTE + "— a+b AAAAAAAA\n",
        NOTE + "— a AAAA\n", NOTE + "— a AAAAAA==x\n", NOTE + "\x00", b"\xff\xfe", NOTE.encode("utf-16"),
        NOTE + "— a AAAAAAAA\n" * 200, "x" * 2_000_000, "\ud800\n\n— a AAAAAAAA\n",
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(wrong: str | bytes) -> None:
    with pytest.raises(NoteError):
        notes.opened(wrong, [SIGNER.verifier, SIGNER.verifier.cosigner()])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
@example(0)
def test_a_note_with_any_bytes_altered_is_refused_or_says_the_same(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(NOTE.encode())
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randint(1, 9)]
            case _:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 4)))
    try:
        found = notes.opened(bytes(data), [SIGNER.verifier, SIGNER.verifier.cosigner()])
    except NoteError:
        return
    assert found.text == HEAD


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200)
    | st.sampled_from([GO_VKEY, GO_SKEY, HEAD]).flatmap(lambda one: st.permutations(list(one)).map("".join))
)
def test_anything_is_read_or_refused_with_an_error_of_ours(text: str) -> None:
    for read in (Signer.parse, Verifier.parse, Checkpoint.parse, Proof.parse, notes.taken_apart):
        try:
            read(text)
        except NoteError as error:
            assert text not in str(error) or len(text) < 60  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (Signer.parse, GO_VKEY), (Signer.parse, GO_SKEY[:-4] + "AAAA"), (Signer.parse, GO_SKEY.replace("c74f", "C74F")),
        (Signer.parse, GO_SKEY.replace("+AYE", "+AoE")), (Signer.parse, ""), (Verifier.parse, GO_SKEY),
        (Verifier.parse, GO_VKEY.replace("c74f20a3", "c74f20a4")), (Verifier.parse, GO_VKEY.replace("+AR", "+CR")),
        (Verifier.parse, "a b" + GO_VKEY), (Verifier.parse, GO_VKEY[12:]), (Verifier.parse, GO_VKEY + "="),
        (Checkpoint.parse, HEAD[:-1]), (Checkpoint.parse, HEAD.replace("20852163", "020852163")),
        (Checkpoint.parse, HEAD.replace("20852163", "-1")), (Checkpoint.parse, HEAD.replace("20852163", "٣")),
        (Checkpoint.parse, HEAD.replace("20852163", "9" * 19)), (Checkpoint.parse, HEAD.replace("CsUY", "")),
        (Checkpoint.parse, "\n" + HEAD), (Checkpoint.parse, HEAD.replace("2I=", "2J=")),
    ],
)  # fmt: skip
def test_keys_and_checkpoints_that_are_none_are_refused(read: object, wrong: str) -> None:
    with pytest.raises(NoteError):
        read(wrong)  # type: ignore[operator]  # one of several parsers


def test_a_proof_is_read_as_it_was_written() -> None:
    proof = Proof(73894, (bytes(32), bytes(range(32))), NOTE)
    assert Proof.parse(proof.text) == Proof(73894, [bytes(32), bytes(range(32))], NOTE)
    extra = proof.text.replace("index", "extra YWdl\nindex", 1)
    assert Proof.parse(extra).index == 73894
    for wrong in (
        proof.text.replace("@v1", "@v2"), proof.text.replace("index 7", "index 07"), proof.text.replace("index", "at"),
        proof.text.replace("\n\n", "\n", 1), proof.text.replace("AAAA", "AAA", 1), "c2sp.org/tlog-proof@v1\n\n",
    ):  # fmt: skip
        with pytest.raises(NoteError):
            Proof.parse(wrong)


def test_a_new_key_signs_under_its_name_and_another() -> None:
    made = Signer.new("a/b")
    again = Signer.parse(made.text)
    assert again.vkey == made.vkey
    assert Signer.new("a/b").vkey != made.vkey
    named = made.named("a/b/reads")
    assert named.verifier.public == made.verifier.public
    assert named.verifier.key_id != made.verifier.key_id
    for wrong in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(NoteError, match="no name"):
            made.named(wrong)
