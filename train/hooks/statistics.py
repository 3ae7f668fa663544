"""Statistics of layers and parameters during training; the step computes them (train/statistics.py)."""

import jax

from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params
from train.hooks.interface import Hook, Session, StepInfo
from train.state import StateConfig
from train.statistics import statistics_rows, summary


class StatisticsHook(Hook):
    """Fetches the statistics of a step; writes a line of statistics.jsonl for every layer and role, and a summary.

    The summary is a line of metrics.jsonl of the kind "statistics".
    """

    def __init__(self, session: Session, every: int) -> None:
        """Args: the session; the steps between statistics, the same as in the compiled step."""
        self.every, self._metrics, self._model = every, session.metrics, session.experiment.model
        self._specs = specs_by_name(StateConfig.of(session.experiment).specs)
        self._sizes = {path: x.size for path, x in flatten(abstract_params(self._model)).items()}

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`."""
        sums = jax.device_get(info.scalars["statistics"])
        rows = list(statistics_rows(self._model, self._specs, self._sizes, sums))
        for row in rows:
            self._metrics.statistics(info.step, row)
        self._metrics.line("statistics", info.step, summary(rows))
