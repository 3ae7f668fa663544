"""Tokenizing in several processes. A worker is a fresh Python that reads jobs, one JSON object a line, and answers so.

Not a pool of multiprocessing: its processes import the main module of the program that starts them, and with it jax,
and would fetch their jobs by unpickling.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from model.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_jobs(setup: dict[str, Any], jobs: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Runs jobs in `workers` processes, or in this one where that is 1, and yields results as they come.

    Raises UserError with the message of a job that failed on one; the other jobs are stopped then.
    """
    from train.data.tokenizing import Tokenizing

    if min(workers, len(jobs)) <= 1:
        here = Tokenizing(**setup)
        for job in jobs:
            yield here.run(job)
        return
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    results: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    processes = [_start() for _ in range(min(workers, len(jobs)))]
    try:
        for process in processes:
            threading.Thread(target=_feed, args=(process, setup, waiting, results), daemon=True).start()
        for _ in jobs:
            result = results.get()
            if "user_error" in result:
                raise UserError(result["user_error"])
            if "failure" in result:
                raise RuntimeError(f"a tokenizing process failed:\n{result['failure']}")
            yield result
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start() -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "train.data.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1"},
    )


def _feed(
    process: subprocess.Popen[str],
    setup: dict[str, Any],
    waiting: queue.SimpleQueue,
    results: queue.SimpleQueue,
) -> None:
    assert process.stdin and process.stdout and process.stderr
    try:
        process.stdin.write(json.dumps(setup) + "\n")
        while True:
            with contextlib.suppress(queue.Empty):
                process.stdin.write(json.dumps(waiting.get_nowait()) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    raise EOFError
                results.put(json.loads(answer))
                continue
            process.stdin.close()
            return
    except (OSError, ValueError, EOFError):
        results.put({"failure": process.stderr.read()[-4000:] or f"it ended with status {process.wait()}"})


def main() -> None:
    """A worker: the first line of standard input is the setup, every other one a job."""
    from train.data.tokenizing import Tokenizing

    worker: Tokenizing | None = None
    # What a library prints must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if worker is None:
                worker = Tokenizing(**message)
                continue
            result = worker.run(message)
        except UserError as error:
            result = {"user_error": str(error)}
        print(json.dumps(result), file=answers, flush=True)


def as_json(value: Any) -> dict[str, Any]:
    """A flat dataclass as a JSON object."""
    return dataclasses.asdict(value)


if __name__ == "__main__":
    main()
