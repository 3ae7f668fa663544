"""Processes on this machine, with a program in place of the training."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from launch.clusters.job import Job
from launch.clusters.local import Local, worst

# Ends with the status in --set; --set=wait waits for SIGTERM, and ends with 75 when told once.
PROGRAM = """#!{python}
import os, signal, sys, time
words = sys.argv[3:]
process = next((word[-1] for word in words if word.startswith("--process_id=")), "0")
print("output of", process, "with", os.environ["XLA_FLAGS"], flush=True)
print("errors of", process, file=sys.stderr, flush=True)
if "--set=wait" in words:
    def stop(number, frame):
        print("saves", process, flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop if "--set=stubborn" not in words else lambda *_: None)
    time.sleep(30)
sys.exit(int(next(word for word in words if word.startswith("--set=status")).split("=")[2 if process == "0" else 3]))
"""


@pytest.fixture
def job(tmp_path):
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)

    def make(*settings):
        return Job(config="c.py", run="r", settings=settings, python=str(program))

    return make


@pytest.mark.parametrize(
    ("show", "shown", "hidden"),
    [
        ("first", "output of 0 with|errors of 0", ["of 1"]),
        ("all", "[0] output of 0 with|[0] errors of 0|[1] output of 1 with|[1] errors of 1", []),
    ],
)
def test_output_and_status(show, shown, hidden, job, capsys):
    local = Local(processes=2, devices_per_process=3, show=show)
    assert local.submit(job("status=75=69")) == 69
    found = capsys.readouterr().out.splitlines() + capsys.readouterr().err.splitlines()
    for words in shown.split("|"):
        assert any(line.startswith(words) for line in found), (words, found)
    assert any("--xla_force_host_platform_device_count=3" in line for line in found)
    assert not [
        line for line in found for words in hidden if words in line and show == "first" and "errors" not in line
    ]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([0, 0], 0), ([0, 75], 75), ([75, 69], 69), ([69, 2], 2), ([-9, 69], 137), ([70, 69], 70), ([0, 1, 69, 75], 1)],
)
def test_the_worst_status(statuses, expected):
    assert worst(statuses) == expected


@pytest.mark.parametrize(("settings", "signals", "expected"), [(("wait",), 1, 75), (("wait", "stubborn"), 2, 137)])
def test_ctrl_c_stops_all_and_a_second_one_kills(settings, signals, expected, job, tmp_path):
    program = f"""
        from launch.clusters.job import Job
        from launch.clusters.local import Local
        raise SystemExit(Local(processes=2, devices_per_process=1, show="all").submit({job(*settings)!r}))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    for _ in range(4):  # both have begun
        process.stdout.readline()
    for _ in range(signals):
        time.sleep(0.5)  # handlers are set after the first line
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == expected
    if expected == 75:
        assert sorted(out.splitlines()) == ["[0] saves 0", "[1] saves 1"]
