"""A user's function in a process of its own, with a limit of time for each call: rewards and tools of rollouts.

A function that hangs is ended, and started again for the next call. Nothing else guards the machine from it.
"""

import json
import os
import pathlib
import select
import subprocess
import sys
import time
from typing import Any, Literal

from model.errors import UserError
from train.alignment.reward_worker import NAMED
from train.files.paths import user_path

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 60.0  # to start the process and import the function


class CallError(Exception):
    """A call without a value; its text says what the function did, such as "ended its process"."""


class FunctionProcess:
    """Calls one function, of a name or of FILE.py:FUNCTION."""

    def __init__(self, function: str, kind: Literal["reward", "tool"], option: str, seconds: float) -> None:
        """Starts the process.

        Args:
          function: the function.
          kind: what it returns (train/alignment/reward_worker.py).
          option: the path of its option in the config, for errors.
          seconds: the time that it has for a call.

        Raises:
          UserError: where there is no such function.
        """
        self._told, self._kind, self._option, self._seconds = function, kind, option, seconds
        self._process: subprocess.Popen[bytes] | None = None
        file, _, name = function.rpartition(":")
        self._function = function if function in NAMED else f"{user_path(file)}:{name}"
        if file and not user_path(file).is_file():
            raise UserError(f"{option}.function: there is no file {file}")
        self._start()

    def __call__(self, prompt: str, answer: str, fields: dict[str, Any]) -> Any:
        """The value for an answer. Raises CallError where the function gives none."""
        try:
            self._send({"prompt": prompt, "answer": answer, "fields": fields})
            found = self._receive(self._seconds)
        except TimeoutError:
            self._restart()
            raise CallError(f"did not answer within {self._seconds:g} s ({self._option}.seconds)") from None
        except (OSError, EOFError):
            self._restart()
            raise CallError("ended its process") from None
        if "value" not in found:
            raise CallError(found["error"])
        return found["value"]

    def _start(self) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "train.alignment.reward_worker", self._function, self._kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._left = b""
        try:
            answer = self._receive(_START_SECONDS)
        except (TimeoutError, OSError, EOFError):
            answer = {"error": "its process did not start"}
        if "error" in answer:
            self.close()
            raise UserError(f"{self._option}.function: {self._told}: {answer['error']}")

    def _restart(self) -> None:
        self.close()
        self._start()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> dict[str, Any]:
        """A line of the process. Raises TimeoutError, and EOFError when it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, source = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._left:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            if not (part := os.read(source, 1 << 16)):
                raise EOFError
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
