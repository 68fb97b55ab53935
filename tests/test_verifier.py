"""The standalone verifier: its parts against the specifications' own examples and against other implementations."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FILE = Path(__file__).parent.parent / "src" / "tallybook" / "data" / "verify.py"


def loaded() -> ModuleType:
    """The verifier as a module: it belongs to no package."""
    spec = importlib.util.spec_from_file_location("standalone_verifier", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


verifier: Any = loaded()

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
        "55141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
        "2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
        "d9bef1177331a704",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032_verify(public: str, message: str, signature: str) -> None:
    parts = [bytes.fromhex(one) for one in (public, message, signature)]
    assert verifier.verify_ed25519(*parts)
    assert not verifier.verify_ed25519(parts[0], parts[1] + b"x", parts[2])


def accepted(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_random_and_mangled_signatures_are_judged_as_openssl_judges_them() -> None:
    drawn = random.Random(8032)
    for _ in range(60):
        key = Ed25519PrivateKey.from_private_bytes(drawn.randbytes(32))
        public = key.public_key().public_bytes_raw()
        message = drawn.randbytes(drawn.randrange(200))
        signature = key.sign(message)
        assert verifier.verify_ed25519(public, message, signature)
        for part in ("key", "signature", "message"):
            mangled = {"key": public, "signature": signature, "message": message or b"?"}
            at = drawn.randrange(len(mangled[part]) * 8)
            raw = bytearray(mangled[part])
            raw[at // 8] ^= 1 << at % 8
            mangled[part] = bytes(raw)
            given = (mangled["key"], mangled["message"], mangled["signature"])
            if message or part != "message":
                assert verifier.verify_ed25519(*given) == accepted(*given)
            assert not verifier.verify_ed25519(*given)


def test_no_second_form_of_a_signature_is_valid() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, message = key.public_key().public_bytes_raw(), b"a checkpoint"
    signature = key.sign(message)
    s = int.from_bytes(signature[32:], "little") + ORDER
    assert not verifier.verify_ed25519(public, message, signature[:32] + s.to_bytes(32, "little"))
    assert not verifier.verify_ed25519(public, message, signature + b"\0")
    assert not verifier.verify_ed25519(public[:-1], message, signature)


@pytest.mark.parametrize(
    "public",
    [
        (1).to_bytes(32, "little"),  # the identity: with S = 0 and R = it, any message would verify
        bytes(32),  # of order 4
        (2**255 - 19 + 1).to_bytes(32, "little"),  # the identity again, in a form that is not canonical
        (1 + 2**255).to_bytes(32, "little"),  # x = 0 with the sign of a negative one
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),  # of order 8
    ],
)
def test_keys_of_small_order_and_points_in_no_canonical_form_are_refused(public: bytes) -> None:
    assert not verifier.verify_ed25519(public, b"anything", (1).to_bytes(32, "little") + bytes(32))


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def test_the_tree_is_that_of_rfc_6962_at_every_size() -> None:
    leaves = [bytes([one % 251, one // 251]) for one in range(1100)]
    hashes = [verifier.leaf_hash(one) for one in leaves]
    for size in [*range(70), 255, 256, 257, 511, 512, 513, 767, 768, 1023, 1024, 1025, 1100]:
        full = [verifier.tree_hash(hashes[at : at + 256]) for at in range(0, size - size % 256, 256)]
        assert verifier.root_of(full, hashes[size - size % 256 : size]) == naive_root(leaves[:size])


def test_inclusion_proofs_of_another_implementation_hold_and_mangled_ones_do_not() -> None:
    tamperlog = pytest.importorskip("tamperlog.merkle")
    leaves = [bytes([one]) for one in range(40)]
    hashes = [verifier.leaf_hash(one) for one in leaves]
    for size in range(1, 41):
        root = tamperlog.merkle_root(hashes[:size])
        for index in range(size):
            proof = tamperlog.inclusion_proof(index, hashes[:size])
            assert verifier.check_inclusion(hashes[index], index, size, proof, root)
            assert not verifier.check_inclusion(hashes[index], index, size, [*proof, bytes(32)], root)
            assert not verifier.check_inclusion(hashes[index], (index + 1) % (size + 1), size, proof, root)
            if proof:
                assert not verifier.check_inclusion(hashes[index], index, size, proof[:-1], root)


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (1, 1234067, 256, "tile/1/x001/x234/067"),
        (0, 1000, 3, "tile/0/x001/000.p/3"),
        ("entries", 999, 255, "tile/entries/999.p/255"),
    ],
)
def test_paths_of_tiles_are_those_of_the_specification(level: int | str, index: int, width: int, path: str) -> None:
    assert verifier.tile_path(level, index, width) == path


VALUES: list[Any] = [None, True, False, 0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1]
VALUES += [-1, -32, -33, -128, -129, -(2**15), -(2**31), -(2**63), "", "a" * 31, "ü" * 40, "x" * 300, "y" * 70_000]
VALUES += [b"", b"z" * 255, b"z" * 256, b"z" * 70_000, [], [1, ["a", [None]]], list(range(20)), [0] * 70_000]


def test_the_reader_of_msgpack_reads_what_msgpack_writes() -> None:
    for value in VALUES:
        found = verifier.parse_msgpack(msgpack.packb(value))
        assert found == value
        assert type(found) is type(value)


def test_the_reader_of_msgpack_refuses_all_else_and_never_fails_otherwise() -> None:
    drawn = random.Random(4)
    packed = msgpack.packb(["origin", 7, b"s" * 16, 1, "name", b"state" * 9, [None, True, -5, 2**40]])
    for cut in range(len(packed)):
        with pytest.raises(ValueError, match=r"."):
            verifier.parse_msgpack(packed[:cut])
    for bad in (packed + b"\0", b"\x80", b"\xca\0\0\0\0", b"\xc7\0\0", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 99):
        with pytest.raises(ValueError, match=r"."):
            verifier.parse_msgpack(bad)
    for _ in range(3000):
        raw = bytearray(packed)
        for _ in range(drawn.randint(1, 4)):
            raw[drawn.randrange(len(raw))] = drawn.randrange(256)
        try:
            expected: Any = msgpack.unpackb(bytes(raw))
        except Exception:  # noqa: BLE001 - msgpack raises many kinds
            expected = ValueError
        with suppress(ValueError):  # stricter: maps, floats and extension types are in no entry
            assert verifier.parse_msgpack(bytes(raw)) == expected


NAME = "example.com/log"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()
TEXT = f"{NAME}\n5\n{base64.b64encode(bytes(32)).decode()}\n"


def vkey(name: str = NAME, public: bytes = PUBLIC, kind: int = 1) -> str:
    key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes([kind]) + public).decode()}"


def line(text: str, *, kind: int = 1, time_s: int = 1_700_000_000, name: str = NAME) -> str:
    key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + PUBLIC).digest()[:4]
    if kind == 4:
        value = time_s.to_bytes(8, "big") + KEY.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    else:
        value = KEY.sign(text.encode())
    return f"— {name} {base64.b64encode(key_id + value).decode()}\n"


def checked(note: str | bytes, key: str | None = None) -> Any:
    raw = note if isinstance(note, bytes) else note.encode()
    return verifier.check_checkpoint(raw, [verifier.parse_vkey(key or vkey())], "checkpoint")


def test_a_checkpoint_with_both_kinds_of_signatures_is_read() -> None:
    found = checked(f"{TEXT}\n{line(TEXT)}{line(TEXT, kind=4)}— stranger.example/w AAAAAAAA\n")
    assert (found.origin, found.size, found.root, found.time_s) == (NAME, 5, bytes(32), 1_700_000_000)


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{line(TEXT)}"[:-1],
        f"{TEXT}\n{line(TEXT, kind=4)}",  # the timestamped signature alone is a witness's
        f"{TEXT}\n{line(TEXT + 'x')}",
        f"{TEXT}\n{line(TEXT)}{line(TEXT + 'x')}",
        f"{TEXT}\n{line(TEXT)}{line(TEXT + 'x', kind=4)}",
        f"{TEXT}\n{line(TEXT, name='example.com/other')}",
        f"{TEXT}\n- {line(TEXT)[2:]}",
        f"{TEXT}\n{line(TEXT)}\n",
        f"{TEXT}\n{line(TEXT)}garbage\n",
        f"{TEXT}\n{line(TEXT)}".replace("\n", "\r\n"),
        f"{TEXT}\n{line(TEXT)}".encode("latin-1", "replace") + b"\xff",
        f"{TEXT}\n" + line(TEXT) * 101,
        f"{TEXT}\n{line(TEXT)[:-2]}\n",
    ],
)
def test_a_note_that_the_key_did_not_sign_or_that_is_none_is_refused(note: str | bytes) -> None:
    with pytest.raises(verifier.Bad):
        checked(note)


@pytest.mark.parametrize(
    "text",
    [
        "example.com/other\n5\n" + TEXT.split("\n")[2] + "\n",
        TEXT.replace("\n5\n", "\n05\n"),
        TEXT.replace("\n5\n", "\n-5\n"),
        TEXT.replace("\n5\n", "\n٥\n"),
        TEXT.replace("AAAA", "AAA", 1),
        f"{NAME}\n5\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{NAME}\n5\n",
    ],
)
def test_a_text_that_is_signed_and_no_checkpoint_of_this_log_is_refused(text: str) -> None:
    with pytest.raises(verifier.Bad):
        checked(f"{text}\n{line(text)}")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "name",
        vkey().replace("example", "exbmple"),
        vkey(kind=4),
        vkey(public=PUBLIC[:-1]),
        vkey(public=b"\xff" * 32),
        vkey(name="a b"),
    ],
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        verifier.parse_vkey(key)


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["/nowhere"], [".", "--vkey", "nonsense"], [".", "--against", "no"]]
)
def test_wrong_use_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", FILE, *arguments], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"verify.py" in done.stderr


def test_an_empty_folder_is_no_pack(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", FILE, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "NOT VERIFIED" in done.stdout
