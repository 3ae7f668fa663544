"""The runs of a ladder: sizes and tokens, from budgets of C, from tokens a parameter, or from both."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model.cost import training_flops_per_token
from model.errors import UserError
from model.options.assignments import override
from train.experiment import Experiment
from train.lab.scaling.ladder.shapes import Shape, Shapes
from train.state import StateConfig
from train.terminal.formatting import format_count

MIN_STEPS = 20  # of a run: fewer would hardly leave the warmup
_LINES = 200  # of metrics.jsonl, for the curve of a run


@dataclasses.dataclass(frozen=True)
class Rung:
    """One run of a ladder.

    Attributes:
      name: of its run folder.
      shape: the size of its model.
      steps: its number of updates.
      tokens: the tokens of all its batches.
      flops: the operations of its training, exact by model/cost.py.
      settings: the changes of the base's config, as --set takes them.
      budget: the C that was asked for, if one was.
    """

    name: str
    shape: Shape
    steps: int
    tokens: int
    flops: float
    settings: tuple[str, ...]
    budget: float | None = None

    @property
    def parameters(self) -> int:
        """N."""
        return self.shape.parameters

    def as_json(self) -> dict[str, Any]:
        """The rung in ladder.json."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "parameters_without_embedding": self.shape.count.without_embedding,
            "tokens": self.tokens,
            "flops": self.flops,
            "steps": self.steps,
            "shape": self.shape.describe(),
            "budget": self.budget,
            "settings": list(self.settings),
        }


class Planner:
    """Makes rungs from one experiment.

    `rate_exponent` p scales the peak learning rate by (width / the base's width)^p; 0 leaves it as it is.
    """

    def __init__(self, base: Experiment, rate_exponent: float = 0.0) -> None:
        self.base, self._rate_exponent, self._shapes = base, rate_exponent, Shapes(base.model)

    def isoflop(self, budgets: Sequence[float], sizes: int, spread: float, ratio: float) -> list[Rung]:
        """For each budget several sizes, in equal factors from 1 / spread to spread around the guessed optimum.

        `ratio` is the guess: D* / N*.
        """
        if sizes < 3:
            raise UserError(f"--sizes={sizes}: a curve of equal C needs at least 3 sizes")
        factors = np.geomspace(1 / spread, spread, sizes)
        return self._distinct(
            self.for_budget(factor * self._parameters_for(budget, ratio), budget)
            for budget in sorted(budgets)
            for factor in factors
        )

    def grid(self, parameters: Sequence[float], budgets: Sequence[float], ratios: Sequence[float]) -> list[Rung]:
        """Every size with every budget, or where there is none with every number of tokens a parameter."""
        if budgets:
            return self._distinct(self.for_budget(n, budget) for budget in sorted(budgets) for n in sorted(parameters))
        return self._distinct(self.for_ratio(n, ratio) for ratio in sorted(ratios) for n in sorted(parameters))

    def for_budget(self, parameters: float, budget: float) -> Rung:
        """The shape nearest to N, trained for C."""
        shape = self._shapes.nearest(parameters)
        return self._rung(shape, budget / self._flops_per_token(shape), budget)

    def for_ratio(self, parameters: float, ratio: float) -> Rung:
        """The shape nearest to N, trained on `ratio` tokens a parameter."""
        shape = self._shapes.nearest(parameters)
        return self._rung(shape, ratio * shape.parameters, None)

    def experiment(self, settings: Sequence[str]) -> Experiment:
        """The base with the settings of a rung."""
        experiment = self.base
        for setting in settings:
            experiment = override(experiment, setting)
        return experiment

    def _parameters_for(self, budget: float, ratio: float) -> float:
        """N whose D = ratio N takes C; the operations a parameter depend on N, so it is found by repetition."""
        n = math.sqrt(budget / (6 * ratio))
        for _ in range(4):
            shape = self._shapes.nearest(n)
            n = math.sqrt(budget / (ratio * self._flops_per_token(shape) / shape.parameters))
        return n

    def _flops_per_token(self, shape: Shape) -> float:
        experiment = self.experiment(shape.settings)
        specs = StateConfig.of(experiment).specs
        return training_flops_per_token(experiment.model, experiment.data.sequence_length, specs)

    def _rung(self, shape: Shape, tokens: float, budget: float | None) -> Rung:
        batch = self.base.data.batch_size * self.base.data.sequence_length
        steps = round(tokens / batch)
        if steps < MIN_STEPS:
            raise UserError(
                f"{shape.parameters:,} parameters for {tokens:,.0f} tokens would be {max(steps, 0)} steps of {batch:,} "
                f"tokens; at least {MIN_STEPS} are needed: ask for more FLOPs, or set data.batch_size lower"
            )
        flops = steps * batch * self._flops_per_token(shape)
        label = f"c{_short(budget)}" if budget else f"r{_short(tokens / shape.parameters)}"
        name = f"{label}-n{format_count(shape.parameters)}-l{shape.layers}w{shape.width}".replace(" ", "")
        settings = (*shape.settings, *self._run_settings(shape, steps))
        return Rung(name, shape, steps, steps * batch, flops, settings, budget)

    def _run_settings(self, shape: Shape, steps: int) -> Iterator[str]:
        """The schedule stretched to the steps, and a run that evaluates at its end alone."""
        base, schedule = self.base, self.base.schedule
        yield f"training.num_steps={steps}"
        share = steps / base.training.num_steps
        if schedule.warmup_steps:
            yield f"schedule.warmup_steps={min(steps - 1, max(1, round(schedule.warmup_steps * share)))}"
        if hasattr(schedule, "decay_steps"):
            yield f"schedule.decay_steps={min(steps - 1, max(1, math.floor(schedule.decay_steps * share)))}"
        if self._rate_exponent:
            factor = (shape.width / base.model.width) ** self._rate_exponent
            yield f"schedule.peak={schedule.peak * factor:.6g}"
            if final := getattr(schedule, "final", 0.0):
                yield f"schedule.final={final * factor:.6g}"
        yield f"evaluation.every={steps}"
        yield f"checkpoints.every={max(steps // 2, min(steps, base.checkpoints.every))}"
        yield f"logging.every={max(1, steps // _LINES)}"
        yield "logging.tensorboard=False"
        yield "samples.prompts=()"

    @staticmethod
    def _distinct(rungs: Iterator[Rung]) -> list[Rung]:
        """The rungs without those whose shape, at the same budget or ratio, another one has already."""
        return list({rung.name: rung for rung in rungs}.values())


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")
