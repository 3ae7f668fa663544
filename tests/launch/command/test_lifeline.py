"""A process ends as by SIGTERM when the command that started it is killed, and only then."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from launch.command import lifeline

ROOT = pathlib.Path(__file__).resolve().parents[3]
# A process that says how it ended, and a command that starts it and waits.
PROCESS = """
import os, signal, sys, time
from launch.command import lifeline
def end(number, frame):
    open(sys.argv[1], "w").write(signal.Signals(number).name)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
lifeline.end_with_parent()
print("ready", "CAIRN_LIFELINE" in os.environ, flush=True)
time.sleep(60)
"""
COMMAND = """
import os, subprocess, sys
from launch.command import lifeline
words = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
subprocess.run(words, env=lifeline.environment(os.environ), pass_fds=lifeline.descriptors(), start_new_session=True)
"""


def test_a_killed_command_takes_its_process_along(tmp_path):
    words = [sys.executable, "-c", COMMAND, PROCESS, str(tmp_path / "end")]
    command = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout.readline() == "ready False\n"  # processes of the process do not see the variable
    time.sleep(0.2)
    assert not (tmp_path / "end").exists()
    command.send_signal(signal.SIGKILL)
    _, said = command.communicate(timeout=30)  # returns when the process, which has the same pipes, has ended
    assert (tmp_path / "end").read_text() == "SIGTERM"
    assert said == "the command that started this process has ended, so it saves and ends too\n"


def test_without_an_end_of_a_pipe_nothing_is_watched(monkeypatch, tmp_path):
    before = threading.enumerate()
    lifeline.end_with_parent()
    with open(tmp_path / "file", "w") as file:
        for text in ("x", "1000000", str(file.fileno())):  # a program in between closed it, and it is another file now
            monkeypatch.setenv("CAIRN_LIFELINE", text)
            lifeline.end_with_parent()
            assert "CAIRN_LIFELINE" not in os.environ
    assert threading.enumerate() == before
