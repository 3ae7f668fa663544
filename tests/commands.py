"""Commands that tests run: in this process, or several in one other process with another number of devices."""

import contextlib
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Answer(NamedTuple):
    """The results of a command."""

    status: int
    out: str
    err: str


def _flags_of_commands():
    """The flags that commands have defined: those of one would clash with those of another."""
    from absl import flags

    known = flags.FLAGS._flags()
    return {n: flag for n, flag in known.items() if flags.FLAGS.find_module_defining_flag(n).startswith("launch.")}


def status_of(module, *arguments):
    """Runs a command in this process as `python -m MODULE ARGUMENTS` would; returns its exit status."""
    from absl import flags

    others, before, sys.argv = _flags_of_commands(), sys.argv, [module, *map(str, arguments)]
    for name in others:
        del flags.FLAGS._flags()[name]
    try:
        runpy.run_module(module, run_name="__main__")
        return 0
    except SystemExit as ended:
        return ended.code or 0
    finally:
        sys.argv = before
        for name in _flags_of_commands():
            del flags.FLAGS._flags()[name]
        flags.FLAGS._flags().update(others)
        flags.FLAGS.unparse_flags()


def answer_of(module, *arguments):
    """Runs a command in this process; returns its Answer."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = status_of(module, *arguments)
    return Answer(status, out.getvalue(), err.getvalue())


PROGRAM = """
import json, sys
from tests.commands import answer_of
print(json.dumps([answer_of(*call) for call in json.loads(sys.argv[1])]))
"""


def answers_on(devices, calls):
    """Runs commands one after another in a new process that has so many devices; returns their Answers.

    Starting Python and JAX takes longer than most commands. `calls` are [(module, argument, ...), ...].
    """
    kept = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
    program = [sys.executable, "-c", PROGRAM, json.dumps([[str(part) for part in call] for call in calls])]
    done = subprocess.run(
        program, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout.splitlines()[-1])]
