"""Any kinds of standard output and standard error: results arrive complete, or one message says why not."""

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch.command import streams

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Prints a result as a command does, without the seconds that jax takes to start.
PROGRAM = """
import sys
from absl import logging
from launch.command import cli, streams

def main(argv):
    logging.warning("a warning with caf\\u00e9")
    for line in range(int(argv[1])):
        print("caf\\u00e9 \\u66f8 \\ud800", streams.as_json({"name": "caf\\u00e9 \\udcff"}).replace("\\n", ""))
        streams.check_reader()
    print("done", file=sys.stderr)
    return 0

cli.run(main, prints_result=True)
"""


def run_in_shell(redirection, lines=1, **environment):
    """The exit status of the program, and what it wrote to a pipe as standard output and standard error."""
    script = f'"$0" -c "$1" {lines} {redirection}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, sys.executable, PROGRAM],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("encoding", "text", "name"),
    [
        ("utf-8", "caf\u00e9 \u66f8 \\ud800", "caf\u00e9 \udcff"),
        ("ascii", "caf\\xe9 \\u66f8 \\ud800", "caf\u00e9 \udcff"),
        ("latin-1", "caf\u00e9 \\u66f8 \\ud800", "caf\u00e9 \udcff"),
        ("ascii:replace", "caf? ? ?", "caf\u00e9 \udcff"),
    ],
)
def test_what_an_encoding_lacks_is_escaped_and_json_stays_json(encoding, text, name):
    done = run_in_shell("", PYTHONIOENCODING=encoding)
    out = done.stdout.decode(encoding.partition(":")[0])
    assert (done.returncode, out[: len(text)]) == (0, text)
    assert json.loads(out[len(text) :]) == {"name": name}
    errors = done.stderr.decode(errors="replace")
    assert "Traceback" not in errors
    assert ("PYTHONIOENCODING=utf-8 writes the characters" in errors) == ("replace" not in encoding)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "| head -n 1", "| true", "2>/dev/full"])
def test_a_stream_that_is_closed_ends_nothing(redirection):
    done = run_in_shell(redirection, lines=20_000 if "|" in redirection else 1)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (b"done" in done.stderr) == (redirection == ">&-")  # without a reader, stops printing


def test_a_full_disk_is_an_error():
    done = run_in_shell(">/dev/full")
    assert done.returncode == 2
    assert b"error: standard output was not written (No space left on device)" in done.stderr
    assert b"Traceback" not in done.stderr


def test_json_for_a_stream_without_an_encoding(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert json.loads(streams.as_json({"a": "\udcff\u00e9"})) == {"a": "\udcff\u00e9"}
    assert "\u00e9" in streams.as_json({"a": "\u00e9"})
    streams.check_reader()
    assert streams.output_error() is None
