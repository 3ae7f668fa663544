"""Tokenizing in several processes. A worker is a new Python process that reads jobs and answers as lines of JSON.

This is not a pool of `multiprocessing`: the processes of a pool import the main module of the program that starts them,
and with it jax, and they unpickle their jobs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.prepare.tokenizing import JobRunner
from train.process.stop import STOP_SIGNALS

ROOT = pathlib.Path(__file__).resolve().parents[3]
Json = dict[str, Any]


def run_jobs(setup: Json, jobs: list[Json], workers: int) -> Iterator[Json]:
    """Runs jobs in `workers` processes, or in this process where that is 1, and yields results as they come.

    Raises UserError with the message of a job that failed with a UserError; the other jobs then stop.
    """
    if min(workers, len(jobs)) <= 1:
        runner = JobRunner(**setup)
        for job in jobs:
            yield runner.run(job)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def run(job: Json) -> Json:
        process = idle.get()
        try:
            return process.run(job)
        finally:
            idle.put(process)

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
        for _ in range(min(workers, len(jobs))):
            # Closed before the pool, whose threads wait for the processes.
            idle.put(stack.enter_context(_Process(setup)))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for future in concurrent.futures.as_completed([pool.submit(run, job) for job in jobs]):
            yield future.result()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside never get the signals that end this one, which a terminal sends to all of them.

    They end when their input pipe closes, because this process ended, or this process kills them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process:
    """One worker; a context manager that ends it."""

    def __init__(self, setup: Json) -> None:
        # A file, not a pipe: nobody reads it unless the worker fails, and a full pipe would stop it.
        self._stderr_file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        with _signals_blocked():
            self._process = self._start()
        self._setup: Json | None = setup

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            # -P: Python does not look for modules in the current folder.
            [sys.executable, "-P", "-m", "train.data.prepare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr_file,
            text=True,
            encoding="utf-8",
            # Paths are sent as text: the worker must decode file names as this process does.
            env={**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": str(int(sys.flags.utf8_mode))},
        )

    def run(self, job: Json) -> Json:
        """The result of a job. Raises UserError when the job did, RuntimeError when the process failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        messages = [job] if self._setup is None else [self._setup, job]
        self._setup = None
        answer = ""
        with contextlib.suppress(OSError):
            self._process.stdin.write("".join(json.dumps(message) + "\n" for message in messages))
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            self._stderr_file.seek(0)
            raise RuntimeError(f"a tokenizing process ended with status {status}:\n{self._stderr_file.read()[-4000:]}")
        result: Json = json.loads(answer)
        if "user_error" in result:
            raise UserError(result["user_error"])
        return result

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr_file.close()
