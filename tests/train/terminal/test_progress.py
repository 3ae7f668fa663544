import io
import re
import sys
import time

import pytest

from train.terminal.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines_on_screen(terminal):
    """The printed text, line by line, without the codes that colour text and move the cursor."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


def test_plain_lines_are_golden(clock):
    stream = io.StringIO()
    with Progress("train", total=2000, start=500, every=10, stream=stream) as progress:
        for step in range(501, 545):
            clock.now += 1.0
            progress.update(step, loss=4.0 - step / 1000, tokens_per_second=12_345.0, mfu=None)
        progress.message("saved checkpoint 544")
    assert stream.getvalue() == (
        "train    501/2,000  loss 3.4990  12.3k tokens/s\n"
        "train    511/2,000  loss 3.4890  12.3k tokens/s  ETA 24m 49s\n"
        "train    521/2,000  loss 3.4790  12.3k tokens/s  ETA 24m 39s\n"
        "train    531/2,000  loss 3.4690  12.3k tokens/s  ETA 24m 29s\n"
        "train    541/2,000  loss 3.4590  12.3k tokens/s  ETA 24m 19s\n"
        "saved checkpoint 544\n"
        "train    544/2,000  loss 3.4560  12.3k tokens/s  ETA 24m 16s\n"
    )


def test_bytes_have_units_and_a_speed(clock):
    stream = io.StringIO()
    with Progress("reading", total=13_476_839_424, unit="bytes", stream=stream) as progress:
        for done in (131_072_000, 4_000_000_000, 13_476_839_424):
            clock.now += 10.0
            progress.update(done)
    assert stream.getvalue() == (
        "reading  131 MB / 13.5 GB  13.1 MB/s\n"
        "reading  4.00 GB / 13.5 GB  200 MB/s  ETA 24s\n"
        "reading  13.5 GB / 13.5 GB  449 MB/s  in 30s\n"
    )


def test_the_last_line_is_always_there_and_only_once(clock):
    stream = io.StringIO()
    with Progress("files", total=3, stream=stream) as progress:
        for done in (1, 2, 3):
            clock.now += 0.5
            progress.update(done, file=f"{done}.txt")
    progress.close()
    assert stream.getvalue() == "files  1/3  file 1.txt\nfiles  3/3  file 3.txt  in 1.5s\n"


def test_remaining_time_follows_the_recent_speed(clock):
    progress = Progress("train", total=10_000, stream=io.StringIO())
    for step in range(1, 101):  # slow at first
        clock.now += 10.0
        progress.update(step)
    for step in range(101, 1001):
        clock.now += 0.5
        progress.update(step)
    assert progress.describe() == "ETA 1h 15m"  # 9,000 steps at half a second, not at the mean of 1.4


def test_a_session_that_ends_early_says_when_and_pauses_do_not_count(clock):
    stream = io.StringIO()
    with Progress("train", total=2000, until=20, every=100, stream=stream) as progress:
        for step in range(1, 11):
            clock.now += 1.0
            progress.update(step)
        with progress.paused():
            clock.now += 500.0
        assert progress.describe() == "ETA 10s"
        for step in range(11, 21):
            clock.now += 1.0
            progress.update(step)
    assert stream.getvalue().endswith("train     20/2,000  in 8m 40s\n")


def test_without_a_total_there_is_no_remaining_time(clock):
    stream = io.StringIO()
    with Progress("tokenize", stream=stream, every=1) as progress:
        for done in (1000, 2000):
            clock.now += 2.0
            progress.update(done, documents_per_second=500.0)
    assert stream.getvalue() == "tokenize  1,000  500 documents/s\ntokenize  2,000  500 documents/s\n"


def test_a_process_without_streams_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    with Progress("train", total=2) as progress:
        progress.update(2, loss=1.0)
        progress.message("hello")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with Progress("train", total=2, stream=terminal) as progress:
        progress.update(2)
    assert "train" in terminal.getvalue()


def test_disabled_shows_nothing():
    for stream in (io.StringIO(), Terminal()):
        with Progress("train", total=2, enabled=False, stream=stream) as progress:
            progress.update(2, loss=1.0)
            progress.message("hello")
        assert stream.getvalue() == ""


def test_messages_do_not_tear_the_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with Progress("train", total=40, stream=terminal) as progress:
        for step in range(1, 41):
            time.sleep(0.01)
            progress.update(step, loss=1.5, tokens_per_second=2_000.0, mfu=0.25)
            if step % 10 == 0:
                progress.message(f"saved [bold]{step}[/bold] " + "x" * 150)
    shown = lines_on_screen(terminal)
    for step in (10, 20, 30, 40):
        assert f"saved [bold]{step}[/bold] " + "x" * 150 in shown
    bars = [line for line in shown if line.startswith("train")]
    assert re.fullmatch(r"train \S+ 40/40  loss 1.5000  2.00k tokens/s  MFU 25.0%  in \S+", bars[-1])
    assert all(line.startswith(("train", "saved")) for line in shown if line)


def test_a_narrow_terminal_cuts_the_bar_to_one_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with Progress("train", total=40, stream=terminal) as progress:
        progress.update(40, loss=1.5, tokens_per_second=2_000.0, mfu=0.25)
    assert all(len(line) <= 40 for line in lines_on_screen(terminal))


@pytest.mark.parametrize(
    ("name", "columns"), [("dumb", "80"), ("unknown", "80"), ("", "80"), ("xterm", "0"), ("xterm", "7")]
)
def test_a_dumb_terminal_and_one_without_a_width_get_plain_lines(name, columns, monkeypatch):
    monkeypatch.setenv("TERM", name)
    monkeypatch.setenv("COLUMNS", columns)
    terminal = Terminal()
    with Progress("train", total=2, stream=terminal) as progress:
        progress.update(2)
    assert re.fullmatch(r"train  2/2  in \S+\n", terminal.getvalue())
