"""Completes each batch before its step, with the preparation of the objective if it has one."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.errors import UserError
from train.hooks.interface import Session
from train.objectives.interface import Batch, Preparation
from train.parallel.table import num_stages
from train.process import hosts
from train.run.clock import Clock
from train.state import Held, HeldState

_TOKENS = "counted_tokens"


class Preparing:
    """The preparation of a session's objective, as the loop uses it; an objective without one costs nothing."""

    def __init__(self, session: Session, clock: Clock) -> None:
        """Args: the session, and its clock.

        Raises UserError for a preparation that works neither in stages nor in several processes, where there are such.
        """
        self._session, self._clock = session, clock
        make = getattr(session.experiment.objective, "preparation", None)
        self._preparation: Preparation | None = None if make is None else make(session)
        if self._preparation is not None:
            _refuse_unsupported(session, self._preparation)

    def __call__(self, state: Held, batch: Batch, n: int) -> Batch:
        """Batch n as the step takes it. The first preparation, which compiles, is no part of the first step's time."""
        if self._preparation is None:
            return batch
        pause = self._clock.paused() if self._clock.compiling else contextlib.nullcontext()
        with pause, self._session.spent_on("preparation"):
            return self._preparation(state.take() if isinstance(state, HeldState) else state, batch, n)

    def with_scalars(self, scalars: dict[str, Any]) -> dict[str, Any]:
        """The scalars of a step with those of its preparation. Raises UserError where both have one name."""
        if self._preparation is None:
            return scalars
        own = dict(self._preparation.scalars())
        if taken := sorted(own.keys() & scalars.keys()):
            raise UserError(
                f"objective: {type(self._preparation).__name__} reports {taken[0]!r}, which is a metric of the step; "
                "give its number another name"
            )
        return scalars | own

    def saved(self, tokens: int) -> Mapping[str, np.ndarray]:
        """The arrays to save with a checkpoint, the number of tokens counted so far among them: no data tells it."""
        if self._preparation is None:
            return {}
        return {**self._preparation.saved(), _TOKENS: np.array(divmod(tokens, 1 << 32), np.uint32)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> int | None:
        """Takes the arrays of a checkpoint. Returns the tokens counted until then; None if the data tells them."""
        if self._preparation is None:
            return None
        self._preparation.restore({name: x for name, x in arrays.items() if name != _TOKENS})
        high, low = (int(part) for part in arrays[_TOKENS])
        return (high << 32) + low

    def close(self) -> None:
        """Ends the preparation."""
        if self._preparation is not None:
            self._preparation.close()


def _refuse_unsupported(session: Session, preparation: Preparation) -> None:
    name = type(session.experiment.objective).__name__
    if num_stages(session.experiment.mesh, session.experiment.sharding) > 1 and not preparation.in_stages:
        raise UserError(f"objective: {name} prepares its batches with a whole model; set mesh.stage to 1")
    if hosts.joined() and not preparation.in_processes:
        raise UserError(f"objective: {name} prepares its batches in one process; start one process")
