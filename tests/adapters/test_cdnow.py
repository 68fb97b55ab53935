"""The CDNOW form: rows, or broken lines that say what is wrong; never another error."""

from __future__ import annotations

import lzma
import tempfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.adapters.cdnow import (
    LINE_BYTES_MAX,
    LONG_LINE_KEPT_MAX,
    BadLine,
    CdnowRow,
    digest_of,
    open_lines,
    read_cdnow,
)
from tallybook.domain.errors import ImportFileError
from tallybook.domain.events import to_us

MASTER = Path(tallybook.__file__).parent / "data" / "cdnow_master.txt.xz"
SAMPLE = Path(__file__).parents[1] / "data" / "cdnow_sample.txt.xz"
DAY = to_us(datetime(1997, 1, 12, tzinfo=UTC))
GOOD = b" 00002 19970112  5   77.00"
ROW = ("00002", DAY, 5, 7700)


def read(content: bytes, after_line: int = 0) -> list[CdnowRow | BadLine]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        path.write_bytes(content)
        found = list(read_cdnow(path, after_line))
        assert digest_of(path) == (
            sha256(content).hexdigest(),
            content.count(b"\n") + (content[-1:] not in (b"", b"\n")),
        )
    return found


def rows(content: bytes) -> list[tuple[str, int, int, int]]:
    found = read(content)
    assert all(isinstance(row, CdnowRow) for row in found), found
    return [row[1:] for row in found if isinstance(row, CdnowRow)]


def bad(content: bytes) -> BadLine:
    [found] = read(content)
    assert isinstance(found, BadLine), found
    return found


def test_a_line_is_customer_date_pieces_and_dollars() -> None:
    assert read(GOOD + b"\n") == [CdnowRow(1, *ROW)]


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD + b"\n",
        GOOD + b"\r\n",
        GOOD + b"   \n",
        b"00002\t19970112\t5\t77.00\n",
        b"00002 19970112 5 77\n",
        b"00002 19970112 5 77.0\n",
        b"00002 19970112 005 0077.00\n",
        b" 00002    4 19970112  5   77.00\n",
        b"\n\n" + GOOD + b"\n\n   \r\n",
    ],
    ids=["no newline", "unix", "windows", "spaces", "tabs", "no cents", "one digit", "zeros", "sample", "empty lines"],
)
def test_forms_of_the_same_line_are_read_the_same(content: bytes) -> None:
    assert rows(content) == [ROW]


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        (b"0.00", 0),
        (b"0", 0),
        (b"0.01", 1),
        (b"0.1", 10),
        (b"11.77", 1177),
        (b"1.05", 105),
        (b"999999999999.99", 99999999999999),
    ],
)
def test_dollars_become_cents_exactly(amount: bytes, cents: int) -> None:
    assert rows(b"1 19970112 1 " + amount)[0][3] == cents


@pytest.mark.parametrize("day", ["19000101", "19960229", "20000229", "19971231", "99991231", "00010101"])
def test_a_date_is_midnight_utc(day: str) -> None:
    wanted = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), tzinfo=UTC)
    assert rows(f"1 {day} 1 1.00".encode())[0][1] == to_us(wanted)


BROKEN = {
    "too few columns": (b"00002 19970112 5", "3 columns"),
    "too many columns": (b"1 2 00002 19970112 5 77.00", "6 columns"),
    "one column": (b"hello", "1 columns"),
    "commas": (b"00002,19970112,5,77.00", "1 columns"),
    "a customer that is no number": (b"x0002 19970112 5 77.00", "customer"),
    "a negative customer": (b"-2 19970112 5 77.00", "customer"),
    "a customer too long": (b"1234567890123 19970112 5 77.00", "customer"),
    "a date with dashes": (b"00002 1997-01-12 5 77.00", "YYYYMMDD"),
    "a date too short": (b"00002 199711 5 77.00", "YYYYMMDD"),
    "a date too long": (b"00002 199701120 5 77.00", "YYYYMMDD"),
    "a date that is no number": (b"00002 1997O112 5 77.00", "YYYYMMDD"),
    "month 13": (b"00002 19971312 5 77.00", "no such date"),
    "month 0": (b"00002 19970012 5 77.00", "no such date"),
    "30 February": (b"00002 19970230 5 77.00", "no such date"),
    "29 February of no leap year": (b"00002 19000229 5 77.00", "no such date"),
    "year 0": (b"00002 00000101 5 77.00", "no such date"),
    "no pieces": (b"00002 19970112 0 77.00", "at least 1"),
    "negative pieces": (b"00002 19970112 -1 77.00", "at least 1"),
    "pieces with a fraction": (b"00002 19970112 1.5 77.00", "at least 1"),
    "pieces without end": (b"00002 19970112 999999999999 77.00", "at least 1"),
    "an amount with a comma": (b"00002 19970112 5 77,00", "12.34"),
    "a negative amount": (b"00002 19970112 5 -77.00", "12.34"),
    "a third decimal": (b"00002 19970112 5 77.001", "12.34"),
    "an amount that begins with a point": (b"00002 19970112 5 .77", "12.34"),
    "an amount that ends with a point": (b"00002 19970112 5 77.", "12.34"),
    "an exponent": (b"00002 19970112 5 7e1", "12.34"),
    "nan": (b"00002 19970112 5 nan", "12.34"),
    "a dollar sign": (b"00002 19970112 5 $77.00", "12.34"),
    "an amount without end": (b"00002 19970112 5 9999999999999", "12.34"),
    "an underscore": (b"00002 1997_112 5 77.00", "YYYYMMDD"),
    "digits of another script": ("00002 19970112 5 ٧٧".encode(), "ASCII"),
    "latin-1": (b"00002 19970112 5 77.00\xa0", "ASCII"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte 1 "),
    "a null byte": (b"00002 19970112 5 77.00\x00", "12.34"),
    "control characters only": (b"\x1c\x1d", "0 columns"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""], ids=["unix", "windows", "no newline"])
def test_a_broken_line_says_where_and_what(kind: str, end: bytes) -> None:
    content, problem = BROKEN[kind]
    found = bad(content + end)
    assert found.line == 1
    assert found.text == content + end
    assert problem in found.problem


def test_broken_lines_stand_where_they_are_and_the_rest_is_read() -> None:
    content = b"\n".join([GOOD, b"broken", b"", GOOD, b"\xff", GOOD])
    found = read(content)
    assert [type(row) for row in found] == [CdnowRow, BadLine, CdnowRow, BadLine, CdnowRow]
    assert [row.line for row in found] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\r\n\r\n", b"   ", b" customer_id  date number_of_cds  dollar_value\n"]
)
def test_a_file_without_purchases_has_no_rows(content: bytes) -> None:
    assert read(content) == []


def test_a_heading_is_passed_over_at_the_top_only() -> None:
    heading = b" customer_id  date number_of_cds  dollar_value\n"
    assert len(rows(heading + GOOD)) == 1
    assert [type(row) for row in read(GOOD + b"\n" + heading)] == [CdnowRow, BadLine]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_of_a_wide_encoding_is_broken_lines(encoding: str) -> None:
    found = read("\n".join(["00002 19970112 5 77.00"] * 3).encode(encoding))
    assert found
    assert all(isinstance(row, BadLine) for row in found)


@pytest.mark.parametrize(
    "length", [LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX, 100_000]
)
def test_a_line_too_long_is_one_broken_line_and_the_next_is_read(length: int) -> None:
    for end in (b"\n", b"\r\n"):
        found = read(b"x" * length + end + GOOD + b"\n")
        assert [type(row) for row in found] == [BadLine, CdnowRow]
        assert [row.line for row in found] == [1, 2]
        assert isinstance(found[0], BadLine)
        assert found[0].text == b"x" * length + end
        assert ("longer than" in found[0].problem) == (length + len(end) > LINE_BYTES_MAX)


@pytest.mark.parametrize("length", [LONG_LINE_KEPT_MAX - 1, LONG_LINE_KEPT_MAX, 3 * LONG_LINE_KEPT_MAX])
def test_a_line_without_measure_is_kept_up_to_a_limit_and_the_next_is_read(length: int) -> None:
    line = bytes(range(32, 127)) * (length // 95 + 1)
    found = read(line[:length] + b"\n" + GOOD + b"\n")
    assert [(type(row), row.line) for row in found] == [(BadLine, 1), (CdnowRow, 2)]
    assert isinstance(found[0], BadLine)
    kept = found[0].text
    assert line.startswith(kept.rstrip(b"\n"))
    if length < LONG_LINE_KEPT_MAX:
        assert kept == line[:length] + b"\n"
    assert min(length, LONG_LINE_KEPT_MAX) <= len(kept) < LONG_LINE_KEPT_MAX + (1 << 17)


def test_a_purchase_after_the_end_is_a_broken_line_and_one_at_the_end_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(GOOD + b"\n" + GOOD.replace(b"19970112", b"19970113") + b"\n" + GOOD)
    assert [type(row) for row in read_cdnow(path, ends_us=DAY)] == [CdnowRow, BadLine, CdnowRow]
    assert [type(row) for row in read_cdnow(path, ends_us=DAY - 1)] == [BadLine] * 3
    [_, late, _] = read_cdnow(path, ends_us=DAY)
    assert isinstance(late, BadLine)
    assert (late.line, late.text) == (2, GOOD.replace(b"19970112", b"19970113") + b"\n")
    assert "future" in late.problem
    assert [row.line for row in read_cdnow(path, 1, ends_us=DAY)] == [2, 3]


@pytest.mark.parametrize("spaces", [LINE_BYTES_MAX - len(GOOD) - 1, LINE_BYTES_MAX - len(GOOD)])
def test_a_good_line_of_the_greatest_length_is_read(spaces: int) -> None:
    content = GOOD + b" " * spaces
    assert rows(content + (b"\n" if len(content) < LINE_BYTES_MAX else b"")) == [ROW]


def test_a_line_too_long_at_the_end_of_the_file_is_one_broken_line() -> None:
    for length in (LINE_BYTES_MAX + 1, 2 * LINE_BYTES_MAX, 2 * LINE_BYTES_MAX + 1):
        assert bad(b"x" * length).line == 1


@pytest.mark.parametrize("after", range(8))
def test_reading_goes_on_after_any_line(after: int) -> None:
    content = b"\n".join([GOOD, b"broken", b"", b"x" * 9000, GOOD, GOOD])
    whole = read(content)
    assert read(content, after) == [row for row in whole if row.line > after]


def test_a_packed_file_is_the_same_as_its_content(tmp_path: Path) -> None:
    content = GOOD + b"\n" + GOOD
    packed, plain = tmp_path / "lines.txt.xz", tmp_path / "lines.txt"
    packed.write_bytes(lzma.compress(content))
    plain.write_bytes(content)
    assert digest_of(packed) == digest_of(plain)
    assert list(read_cdnow(packed)) == list(read_cdnow(plain))


def test_a_file_that_can_not_be_opened_is_an_import_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.txt", tmp_path / "nowhere.txt.xz", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ImportFileError) as caught:
            open_lines(path)
        assert str(path) in str(caught.value)


PARTS = [b"1", b"00002", b"19970112", b"5", b"77.00", b" ", b"\t", b"\r", b"x", b"\xff", b"."]
lines = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([GOOD, *[content for content, _ in BROKEN.values()]])
    | st.lists(
        st.sampled_from([b"1", b"00002", b"19970112", b"5", b"77.00", b" ", b"\t", b"\r", b"x", b"\xff", b"."])
    ).map(b" ".join),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(lines, st.booleans())
@example([b"1 19970112 1 1.00"] * 2, True)
def test_any_bytes_give_rows_and_broken_lines_and_each_line_is_one_of_them(content: list[bytes], ends: bool) -> None:
    raw = b"\n".join(content) + (b"\n" if ends else b"")
    found = read(raw)
    physical = raw.split(b"\n")
    assert len({row.line for row in found}) == len(found)
    for row in found:
        line = physical[row.line - 1]
        if isinstance(row, BadLine):
            assert row.text.rstrip(b"\n") == line
            assert row.problem
        else:
            assert 1 <= row.quantity <= 10**9
            assert 0 <= row.net_minor < 10**14
    silent = [
        line
        for number, line in enumerate(physical, start=1)
        if line.strip() and number not in {row.line for row in found}
    ]
    assert all(b"customer_id" in line for line in silent)


def test_the_data_that_ships_with_the_package_has_no_broken_line() -> None:
    for path, purchases, customers in ((MASTER, 69_659, 23_570), (SAMPLE, 6_919, 2_357)):
        found = list(read_cdnow(path))
        assert not [row for row in found if isinstance(row, BadLine)]
        assert len(found) == purchases
        assert len({row.customer for row in found if isinstance(row, CdnowRow)}) == customers


def test_the_sample_is_part_of_the_whole() -> None:
    def keys(path: Path) -> list[tuple[str, int, int, int]]:
        return sorted(row[1:] for row in read_cdnow(path) if isinstance(row, CdnowRow))

    sample, whole = keys(SAMPLE), set(keys(MASTER))
    assert set(sample) <= whole
