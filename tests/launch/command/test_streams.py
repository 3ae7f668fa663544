"""Standard streams that break: nothing raises, and text that cannot be written goes elsewhere or is dropped."""

import errno
import io
import json
import os
import pathlib
import pty
import subprocess
import sys

import pytest

from launch.command import streams

ROOT = pathlib.Path(__file__).resolve().parents[3]


def stream(descriptor, instead=None, encoding="utf-8"):
    before = io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), encoding=encoding)
    return streams._non_raising_stream(descriptor, before, instead)


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_a_reader_that_went_away_is_no_error(pipe, monkeypatch):
    read, write = pipe
    out = stream(write)
    print("first", file=out, flush=True)
    assert os.read(read, 100) == b"first\n"
    os.close(read)
    print("x" * 100_000, file=out, flush=True)
    assert out.buffer.raw.error.errno == errno.EPIPE
    monkeypatch.setattr(sys, "stdout", out)
    assert streams.output_error() is None


def test_lines_are_written_as_they_are_printed(pipe):
    """The output of a killed process is not lost; with python -u even half a line is not."""
    read, write = pipe
    out = stream(write)
    print("a line", file=out)
    assert os.read(read, 100) == b"a line\n"
    raw = io.TextIOWrapper(io.FileIO(write, "w", closefd=False), encoding="utf-8", write_through=True)
    out = streams._non_raising_stream(write, raw, None)
    print("half", end="", file=out)
    assert os.read(read, 100) == b"half"


def test_a_full_disk_is_told_and_what_it_lacks_is_on_the_other_stream(pipe, monkeypatch):
    read, write = pipe
    with open("/dev/full", "wb") as full:
        out = stream(full.fileno(), instead=write)
        monkeypatch.setattr(sys, "stdout", out)
        print("the only result")
        assert streams.output_error().errno == errno.ENOSPC
    assert os.read(read, 100) == b"the only result\n"


def test_a_terminal_that_went_away_is_no_error():
    ours, theirs = pty.openpty()
    out = stream(theirs)
    assert out.isatty()
    os.close(ours)
    print("to nobody", file=out, flush=True)
    assert out.buffer.raw.error.errno == errno.EIO
    os.close(theirs)


def test_a_pipe_that_does_not_wait_gets_everything(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    reader = subprocess.Popen(["wc", "-c"], stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    print("x" * 999_999, file=stream(write), flush=True)
    os.close(write)
    assert reader.communicate()[0].strip() == b"1000000"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", rb"\xe9\u4e2d"), ("latin-1", b"\xe9\\u4e2d"), ("utf-8", "é中".encode())]
)
def test_characters_beyond_the_encoding_are_written_out(pipe, encoding, shown, monkeypatch):
    read, write = pipe
    out = stream(write, encoding=encoding)
    print("é中", file=out, flush=True)
    assert os.read(read, 100) == shown + b"\n"
    monkeypatch.setattr(sys, "stdout", out)
    value = {"text": "é中\U0001f600"}
    print(streams.as_json(value), file=out, flush=True)
    assert json.loads(os.read(read, 100).decode(encoding)) == value


CLOSED = """
import os, sys
from launch.command import streams
streams.replace_output_streams()
opened = os.open(os.devnull, os.O_RDONLY)
print("out"), print("err", file=sys.stderr), sys.stderr.write("more"), sys.stdout.flush()
assert opened > 2, opened
assert sys.stdout.isatty() is False
os._exit(7) if streams.output_error() else sys.exit(3)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>/dev/full"])
def test_streams_that_are_closed_from_the_beginning(closed):
    """Files opened later never get the numbers of closed streams, and printed text never goes into a file."""
    program = [sys.executable, "-c", CLOSED]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == (7 if closed.startswith(">/dev/full") else 3)


def test_the_streams_of_a_program_that_redirects_them_stay(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", mine)
    streams.replace_output_streams()
    assert sys.stdout is sys.stderr is mine
    assert streams.output_error() is None


@pytest.mark.parametrize(("where", "status"), [(">/dev/full", 2), ("| true", 0), ("2>&-", 0), (">&- <&-", 0)])
def test_a_command_with_broken_streams(where, status, tiny_run):
    """A result that a full disk does not take is an error and goes to the other stream; no other text is an error."""
    program = [sys.executable, "-m", "launch.data", "info", f"--path={tiny_run / 'data'}"]
    shell = ["bash", "-o", "pipefail", "-c", f'"$@" {where}', "bash", *program]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status
    table = "tokenizer: Bytes, 257 ids"
    assert (table in done.stdout) == (where == "2>&-")
    assert (table in done.stderr) == (status == 2)
    assert ("error: standard output was not written (No space left on device)" in done.stderr) == (status == 2)
    assert "Traceback" not in done.stderr
