"""Several calls of one command in one process, since starting Python and JAX takes longer than most calls."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Every call does the same as `python -m MODULE ARGUMENTS`, without the flags of the call before.
PROGRAM = """
import contextlib, importlib, io, json, sys
from absl import flags
from launch.command import cli
module = importlib.import_module(sys.argv[1])
own = flags.FLAGS.flags_by_module_dict()[sys.argv[1]]
answers = []
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    for flag in own:
        flag.unparse()
    sys.argv = [module.__file__, *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(module.main)
            status = 0
        except SystemExit as end:
            status = end.code or 0
    answers.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    """The results of a command."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def call():
    """call(module, [arguments, ...], devices=None) -> [Answer, ...]; on as many devices as the tests when not given."""

    def call(module, calls, devices=None):
        listed = json.dumps([[str(argument) for argument in arguments] for arguments in calls])
        program = [sys.executable, "-c", PROGRAM, module, listed]
        environment = dict(os.environ)
        if devices is not None:
            kept = [flag for flag in environment["XLA_FLAGS"].split() if "device_count" not in flag]
            environment["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return [Answer(*answer) for answer in json.loads(done.stdout.splitlines()[-1])]

    return call
