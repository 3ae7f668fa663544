"""Timing of the training: step time, tokens per second, model FLOPs utilisation, the time spent waiting for data."""

import collections
import concurrent.futures
import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import psutil

from train.experiment import Experiment
from train.run.utilization import Utilization

# When this process began, on the monotonic clock, so that imports count in the time to the first step.
PROCESS_START = time.monotonic() - (time.time() - psutil.Process().create_time())


class Clock:
    """Times the steps between two readings, from the end of one step to the end of another.

    Where a device still works after a step was dispatched, the step ends when its results are ready, no matter when
    they are read. Pauses for evaluation and saving are left out. The first step of a session is its own interval,
    because it includes compilation. A token is a target that the loss counts; padding does not count.

    Attributes:
      step: the step of the last reading.
      compiling: whether the current interval is the first.
      waiting_seconds, dispatch_seconds: the time so far in which the devices waited for a batch, or for the start of a
        step after the first (not known on a CPU).
      first_step_seconds: the time of the first step, with its compilation.
    """

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
        """Args: the experiment, for the FLOPs of a token, and the mesh, for the devices' peak."""
        self._utilization = Utilization.of(experiment, mesh)
        self._devices = list(mesh.local_devices)
        # On a CPU the call that starts a step may compute it.
        self._starts_and_returns = mesh.devices.flat[0].platform != "cpu"
        self._began = time.monotonic()
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "ends-of-steps")
        self.start(0)

    def start(self, step: int) -> None:
        """Begins to measure at a step."""
        self.step, self.compiling = step, True
        self._since = self._end = time.monotonic()
        self._ended = step
        self._tokens, self._data_wait = 0, 0.0
        self.waiting_seconds = self.dispatch_seconds = self.first_step_seconds = 0.0
        self._waits: collections.deque[tuple[float, float]] = collections.deque()
        self._dispatches: collections.deque[tuple[float, float]] = collections.deque()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time inside is spent waiting for the batch of the next step."""
        began = time.monotonic()
        yield
        self._waits.append((began, time.monotonic()))

    @contextlib.contextmanager
    def dispatching(self) -> Iterator[None]:
        """The time inside is spent on starting the next step."""
        began = time.monotonic()
        yield
        self._dispatches.append((began, time.monotonic()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time inside; call it when all earlier steps have ended."""
        began = time.monotonic()
        yield
        duration = time.monotonic() - began
        self._since += duration
        self._end += duration

    def watch(self, results: Any) -> Callable[[], float]:
        """A function that waits for the arrays of the step just dispatched, and returns the time of their arrival."""
        if all(x.is_ready() for x in jax.tree.leaves(results) if hasattr(x, "is_ready")):
            now = time.monotonic()
            return lambda: now
        return self._watcher.submit(_when_ready, results).result

    def record_end(self, step: int, end_time: float, tokens: int) -> None:
        """Records the end of the next step and the tokens in its batch."""
        # While an earlier step is computed, waiting for data and starting a step cost nothing.
        if self._waits:
            waited = self._exposed(self._waits.popleft(), end_time)
            self._data_wait += waited
            self.waiting_seconds += waited
        if self._dispatches:
            dispatched = self._exposed(self._dispatches.popleft(), end_time)
            if not self.compiling and self._starts_and_returns:
                self.dispatch_seconds += dispatched
        self._ended, self._end = step, end_time
        self._tokens += tokens

    def _exposed(self, interval: tuple[float, float], end_time: float) -> float:
        """The part of an interval between the end of the step before and the end of this step."""
        began, ended = interval
        return max(0.0, min(ended, end_time) - max(began, self._end))

    def read(self) -> dict[str, bool | float | None]:
        """Returns the values of the steps since the last reading; the last step to end closes the interval."""
        elapsed, steps = max(self._end - self._since, 1e-9), max(self._ended - self.step, 1)
        rate = self._tokens / elapsed
        values = {
            "seconds": self._end - self._began,
            "step_seconds": elapsed / steps,
            "tokens_per_second": rate,
            "mfu": self._utilization.mfu(rate),
            "data_wait_fraction": self._data_wait / elapsed,
            "includes_compilation": self.compiling,
            "peak_bytes": peak_bytes(self._devices),
        }
        if self.compiling:
            self.first_step_seconds = elapsed - self._data_wait
        self.step, self.compiling = self._ended, False
        self._since, self._tokens, self._data_wait = self._end, 0, 0.0
        return values


def peak_bytes(devices: Sequence[jax.Device]) -> int | None:
    """The most memory that one of these devices has had in use; on a CPU, that this process has had; None if unknown.

    The peak of a process includes its libraries and the compiler.
    """
    if devices[0].platform == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes
    used = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    return max((int(value) for value in used if value is not None), default=None)


def _when_ready(results: Any) -> float:
    jax.block_until_ready(results)
    return time.monotonic()
