"""What the clock says of the training: step time, tokens per second, model FLOPs utilisation, the wait for data."""

import contextlib
import time
from collections.abc import Iterator

import jax
import psutil

from model.flops import training_flops_per_token
from train.environment import peak_flops
from train.experiment import Experiment

# When this process began, on the monotonic clock, so that imports count in the time to the first step.
PROCESS_START = time.monotonic() - (time.time() - psutil.Process().create_time())


class Clock:
    """Times the steps between two readings; pauses, for evaluation and saving, are left out.

    Attributes:
      step: of the last reading.
    """

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
        """Args: the experiment, for tokens and FLOPs of a step, and the mesh, for the devices' peak."""
        length = experiment.data.sequence_length
        self._tokens_per_step = experiment.data.batch_size * length
        self._flops_per_token = training_flops_per_token(experiment.model, length)
        peak = peak_flops(mesh.devices.flat[0].device_kind, experiment.model.precision.compute)
        self._peak = None if peak is None else peak * mesh.size
        self._began = time.monotonic()
        self._since, self.step, self._waited = self._began, 0, 0.0

    def start(self, step: int) -> None:
        """Begins to measure at a step."""
        self._since, self.step, self._waited = time.monotonic(), step, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def read(self, step: int) -> dict[str, float | None]:
        """The values since the last reading, which this one ends."""
        now = time.monotonic()
        elapsed, steps = max(now - self._since, 1e-9), max(step - self.step, 1)
        rate = self._tokens_per_step * steps / elapsed
        values = {
            "seconds": now - self._began,
            "step_seconds": elapsed / steps,
            "tokens_per_second": rate,
            "mfu": None if self._peak is None else rate * self._flops_per_token / self._peak,
            "data_wait_fraction": self._waited / elapsed,
        }
        self.start(step)
        return values
