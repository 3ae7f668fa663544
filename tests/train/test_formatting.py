import math

import pytest

from train.formatting import count, duration, number, phrase, visible, visible_lines


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
    ],
)
def test_count(value, text):
    assert count(value) == text


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
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.34567, "2.3457"),
        (12.568, "12.57"),
        (0.0001234, "0.000123"),
        (1_246_001, "1,246,001"),
        (-math.inf, "-infinite"),
        (math.nan, "NaN"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 2.34567, "loss 2.3457"),
        ("loss", math.nan, "loss NaN"),
        ("tokens_per_second", 12_345.6, "12.3k tokens/s"),
        ("mfu", 0.312, "MFU 31.2%"),
        ("data_wait_fraction", 0.004, "data wait 0.4%"),
        ("files", 12, "files 12"),
        ("file", "a.txt", "file a.txt"),
    ],
)
def test_phrase(name, value, text):
    assert phrase(name, value) == text


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
    assert visible(name) == shown


def test_visible_lines_keep_their_breaks():
    assert visible_lines("one\r\ntwo\x1b[2J") == "one\\r\ntwo\\x1b[2J"
