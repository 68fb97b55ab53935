"""Timestamps of an authority (RFC 3161) on checkpoints: somebody else's word for when a log stood as it stood."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

from cryptography import x509

from tallybook.domain.errors import BookError, MissingExtra, NoteError

try:
    from rfc3161_client import (
        HashAlgorithm,
        TimestampRequestBuilder,
        TimeStampResponse,
        VerifierBuilder,
        decode_timestamp_response,
    )
    from rfc3161_client.errors import VerificationError
except ImportError as error:
    raise MissingExtra("rfc3161-client", "timestamp") from error

TIMEOUT_S = 30
ANSWER_BYTES_MAX = 200_000
GRANTED = (0, 1)


def stamped(note: str, url: str, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """What the authority at a URL answers for a note. Raises BookError where it gives no timestamp of it.

    Whether it is the authority that it should be, only its certificate tells: see `stamped_at`.
    """
    if not url.startswith(("http://", "https://")):
        raise BookError(f"{url!r} is no address of a timestamp authority.", path=url, remedy="Give a URL of http(s).")
    asked = TimestampRequestBuilder().data(note.encode()).hash_algorithm(HashAlgorithm.SHA256).nonce(nonce=True)
    request = asked.cert_request(cert_request=True).build()
    sent = urllib.request.Request(  # noqa: S310 - http or https, see above
        url, data=request.as_bytes(), headers={"Content-Type": "application/timestamp-query"}
    )
    try:
        with urllib.request.urlopen(sent, timeout=timeout_s) as answer:  # noqa: S310 - http or https, see above
            token: bytes = answer.read(ANSWER_BYTES_MAX + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise _no_timestamp(url, str(error)) from error
    if len(token) > ANSWER_BYTES_MAX:
        raise _no_timestamp(url, f"its answer has more than {ANSWER_BYTES_MAX:,} bytes")
    try:
        found = _decoded(token)
        status = found.status
        told = found.tst_info if status in GRANTED else None
    except ValueError as error:
        raise _no_timestamp(url, f"its answer is no timestamp ({error})") from error
    if told is None:
        raise _no_timestamp(url, f"it refused (status {status})")
    if told.nonce != request.nonce or told.message_imprint.message != request.message_imprint.message:
        raise _no_timestamp(url, "its answer is to another request")
    return token


def said_at(token: bytes) -> datetime:
    """The time that a token tells, whoever made it. Raises NoteError."""
    try:
        return _decoded(token).tst_info.gen_time
    except ValueError as error:
        raise NoteError(f"What is kept as a timestamp is none: {error}.") from error


def stamped_at(note: str, token: bytes, certificates: Path) -> datetime:
    """When an authority saw a note. `certificates` is a file (PEM) with its root, and what lies between, if anything.

    Raises NoteError where the token is not of this note, or not of that authority.
    """
    try:
        found = x509.load_pem_x509_certificates(certificates.read_bytes())
    except (OSError, ValueError) as error:
        raise NoteError(f"{certificates} holds no certificates: {error}.") from error
    builder = VerifierBuilder()
    for one in found:
        if one.issuer == one.subject:
            builder = builder.add_root_certificate(one)
        else:
            builder = builder.add_intermediate_certificate(one)
    try:
        response = _decoded(token)
        builder.build().verify_message(response, note.encode())
    except (VerificationError, ValueError) as error:
        raise NoteError(f"The timestamp does not hold: {error}.") from error
    return response.tst_info.gen_time


def _decoded(token: bytes) -> TimeStampResponse:
    """Raises ValueError."""
    return decode_timestamp_response(_in_der(token))


def _in_der(token: bytes) -> bytes:
    """An answer with its certificates in the order that DER demands of a set; OpenSSL leaves them as they were given.

    Nothing that is signed is changed. What is no such answer stays as it is.
    """
    try:
        _, start, end = _value(token, 0)
        for tag in (0x30, 0xA0, 0x30, 0xA0):  # the signed content, its explicit tag, its parts, their certificates
            start, end = next(part[1:3] for part in reversed(_values(token, start, end)) if part[0] == tag)
        certificates = [token[begin:after] for _, _, after, begin in _values(token, start, end)]
    except (IndexError, StopIteration):
        return token
    return token[:start] + b"".join(sorted(certificates)) + token[end:]


def _values(data: bytes, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """The values between two places: of each the tag, where its content begins and ends, and where it begins itself."""
    found = []
    while start < end:
        tag, content, after = _value(data, start)
        found.append((tag, content, after, start))
        start = after
    return found


def _value(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, begin and end of the content of the value at a place. Raises IndexError."""
    size, content = data[at + 1], at + 2
    if size & 0x80:
        content += size & 0x7F
        size = int.from_bytes(data[at + 2 : content], "big")
    if content + size > len(data):
        raise IndexError(at)
    return data[at], content, content + size


def _no_timestamp(url: str, why: str) -> BookError:
    return BookError(
        f"{url} gave no timestamp: {why}.",
        path=url,
        remedy="Try again, or another authority. The checkpoint is signed and kept all the same.",
    )
