import math

import numpy as np
import pytest

from train.terminal.formatting import (
    escape_unprintable,
    escape_unprintable_lines,
    format_bytes,
    format_count,
    format_counted,
    format_duration,
    format_fixed,
    format_metric,
    format_number,
    format_percent,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (950, "950"),
        (999.9, "1.00k"),
        (12_345, "12.3k"),
        (999_999, "1.00M"),
        (7_766_080, "7.77M"),
        (7.9e9, "7.90B"),
        (1.2e12, "1.20T"),
        (0.25, "0.25"),
        (math.nan, "NaN"),
        (-0.0, "0"),
        (999.4e12, "999T"),
        (999.6e12, "1e+15"),
        (1.014e304, "1.01e+304"),
        (2**63, "9.22e+18"),
        (-(10**400), "-1e+400"),
    ],
)
def test_count(value, text):
    assert format_count(value) == text


def test_a_count_has_its_noun_in_the_singular_or_the_plural():
    assert [format_counted(n, "document") for n in (0, 1, 2, 1234)] == [
        "0 documents",
        "1 document",
        "2 documents",
        "1,234 documents",
    ]


def test_bytes():
    assert [format_bytes(n) for n in (0, 950, 12_345, 4.56e6, 7.9e9)] == [
        "0 B",
        "950 B",
        "12.3 kB",
        "4.56 MB",
        "7.90 GB",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.21, "0.2s"),
        (9.96, "10s"),
        (59.6, "1m 00s"),
        (200, "3m 20s"),
        (7_500, "2h 05m"),
        (367_200, "4d 06h"),
        (math.inf, "?"),
        (math.nan, "?"),
        (-0.0, "0.0s"),
        (8.64e8, "10000d 00h"),
        (1e300, "3.17e+292 years"),
        (-1e300, "-1e+300s"),
    ],
)
def test_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.34567, "2.3457"),
        (12.568, "12.57"),
        (0.0001234, "0.000123"),
        (1_246_001, "1,246,001"),
        (-math.inf, "-infinite"),
        (math.nan, "NaN"),
        (-0.0, "0"),
        (0.0, "0"),
        (999_999_999_999_999, "999,999,999,999,999"),
        (1e15, "1e+15"),
        (1.014e304, "1.014e+304"),
        (-1.7976931348623157e308, "-1.798e+308"),
        (2**64, "1.845e+19"),
        (10**400, "1e+400"),
        (np.float32(3.4028235e38), "3.403e+38"),
        (np.int64(2**62), "4.612e+18"),
        (5e-324, "4.94e-324"),
    ],
)
def test_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 2.34567, "loss 2.3457"),
        ("loss", math.nan, "loss NaN"),
        ("loss", 1e300, "loss 1e+300"),
        ("balance_loss", -0.0, "balance loss 0.0000"),
        ("mfu", math.nan, "MFU NaN"),
        ("data_wait_fraction", 1e300, "data wait 1e+300 x 100%"),
        ("tokens_per_second", 12_345.6, "12.3k tokens/s"),
        ("mfu", 0.312, "MFU 31.2%"),
        ("data_wait_fraction", 0.004, "data wait 0.4%"),
        ("files", 12, "files 12"),
        ("file", "a.txt", "file a.txt"),
    ],
)
def test_phrase(name, value, text):
    assert format_metric(name, value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2.0000"), (-0.0, "0.0000"), (1e6, "1,000,000"), (math.inf, "infinite")]
)
def test_fixed(value, text):
    assert format_fixed(value) == text


def test_no_number_breaks_a_table():
    """Every power of ten, as an integer and as a float, is short in every form."""
    values = [sign * base**k for sign in (1, -1) for base in (10, 10.0) for k in range(309)] + [
        10.0**-k for k in range(330)
    ]
    for value in [*values, math.nan, math.inf, -math.inf, 10**5000]:
        for form in (format_count, format_number, format_fixed):
            assert len(form(value)) <= 20, (form, value)
        assert len(format_duration(value)) <= 20
        assert len(format_percent(value)) <= 20 + len(" x 100%")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runs/s 1", "runs/s 1"),
        ("café 书.txt", "café 书.txt"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("b\udcff", "b\\udcff"),
        ("\u202egpj.txt", "\\u202egpj.txt"),
        ("a\u2028b\x85", "a\\u2028b\\x85"),
    ],
)
def test_visible(name, shown):
    assert escape_unprintable(name) == shown


def test_visible_lines_keep_their_breaks():
    assert escape_unprintable_lines("one\r\ntwo\x1b[2J") == "one\\r\ntwo\\x1b[2J"
