"""An ablation: a base experiment, named variants that change little of it, and the rules by which they are compared.

    ablation = Ablation(
        base=experiment,
        variants={
            "alibi": "model.position=ALiBi()",
            "wide": ("model.ffn.width=1024", "schedule.peak=2e-3"),
            "relu2": {"model.ffn": MLP(width=512, activation="relu2")},
        },
        hold="params",
    )

A change is text as `--set` reads it, several such texts, or values by path. `{seed}` in a text stands for the seed of a
run. A run with seed s has training.seed=s and data.seed=s: runs of one seed read the same batches in the same order,
and their initial parameters are equal where the models have the same parameters.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from model.errors import UserError
from train.experiment import Experiment
from train.lab.statistics.claims import Claim

Change = str | Sequence[str] | Mapping[str, Any]
Quantity = Literal["tokens", "flops", "params", "active_params", "time"]
Knob = Literal["auto", "steps", "width", "ffn", "mixer", "layers"]
QUANTITIES: tuple[str, ...] = ("tokens", "flops", "params", "active_params", "time")
KNOBS: tuple[str, ...] = ("auto", "steps", "width", "ffn", "mixer", "layers")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_METRIC = re.compile(r"(?:[A-Za-z0-9_.-]+/)?[A-Za-z0-9_]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hold:
    """The quantity of the base that each variant has too, and the part of the variant that is changed for that.

    Attributes:
      equal: "tokens" and "flops" (model FLOPs of the training) of the whole run, "params" and "active_params" of the
        model, or "time": the seconds of all steps, from step times that are measured here before the first run.
      by: the changed part. "steps": training.num_steps, with the phases of the schedule in proportion; "width": the
        model width with its feed-forward, and with heads of the same width or of the same number; "ffn": the
        feed-forward width; "mixer": the head width of mixers, the units of a recurrent one; "layers": their number.
        "auto" is "width" for parameters, and "steps" for the rest.
      tolerance: the largest relative difference to the base.
    """

    equal: Quantity
    by: Knob = "auto"
    tolerance: float = 0.01

    @property
    def knob(self) -> Knob:
        """`by`, resolved."""
        if self.by != "auto":
            return self.by
        return "width" if self.equal in ("params", "active_params") else "steps"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.equal not in QUANTITIES:
            yield "hold", f"expected {', '.join(QUANTITIES)} or None, got {self.equal!r}"
        if self.by not in KNOBS:
            yield "hold.by", f"expected {', '.join(KNOBS)}, got {self.by!r}"
        elif self.equal in ("params", "active_params") and self.by == "steps":
            yield "hold.by", f"the number of steps changes no {self.equal}; use width, ffn, mixer or layers"
        elif self.equal in ("tokens", "time") and self.knob != "steps":
            yield "hold.by", f"{self.equal} are held by steps, got {self.by!r}; leave it out"
        if not 0 < self.tolerance < 1:
            yield "hold.tolerance", f"expected a share between 0 and 1, got {self.tolerance}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSearch:
    """Tunes schedule.peak of the base and of every variant by successive halving, before the runs that are compared.

    Jamieson, Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", algorithm 1.
    All rates train for the first length; the better half goes on to the next length, and so on. A length is a whole
    run of its own, whose schedule ends: before its decay a higher rate looks worse than it is.

    Attributes:
      factors: the rates as multiples of the variant's own schedule.peak; schedule.final changes in proportion.
      lengths: the lengths of the rounds as shares of training.num_steps, increasing.
      keep: the share of rates that goes on to the next round; at least one does.
      seed: the seed of these runs; not one of the seeds that are compared, since the best rate of a seed is best by its
        luck too.
    """

    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    lengths: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5
    seed: int = 1_000_000

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if len(set(self.factors)) != len(self.factors) or len(self.factors) < 2 or min(self.factors) <= 0:
            yield "search.factors", f"expected at least two different numbers above 0, got {self.factors}"
        rising = all(a < b for a, b in zip(self.lengths, self.lengths[1:], strict=False))
        if not self.lengths or not rising or not 0 < self.lengths[0] <= self.lengths[-1] <= 1:
            yield "search.lengths", f"expected increasing shares above 0 and at most 1, got {self.lengths}"
        if not 0 < self.keep < 1:
            yield "search.keep", f"expected a share between 0 and 1, got {self.keep}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """See the module.

    Attributes:
      base: the experiment with which variants are compared.
      variants: the change of each, by name.
      seeds: every variant has a run with each seed.
      base_name: the name of the base among the variants.
      hold: what all variants have in common with the base by a change of size or length; None for nothing.
      metric: the number that is compared, at the last step: "loss", or another of the evaluation's, of the validation
        split; "NAME/loss" for the evaluation of that name.
      claim: a rule that is judged as written, such as "loss <= 3.28, p < 0.001"; None for none. It is fixed before the
        runs: a sweep that has begun takes no other claim and, beside a claim, no further seeds.
      alpha: the rate of false verdicts, over all variants; None for no verdicts.
      search: how the learning rate of each variant is tuned; None for no tuning.
    """

    base: Experiment
    variants: Mapping[str, Change]
    seeds: tuple[int, ...] = (0, 1, 2)
    base_name: str = "base"
    hold: Hold | Quantity | None = None
    metric: str = "loss"
    claim: str | None = None
    alpha: float | None = 0.05
    search: RateSearch | None = None

    @property
    def held(self) -> Hold | None:
        """`hold` as a value of its class."""
        return Hold(equal=self.hold) if isinstance(self.hold, str) else self.hold

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not isinstance(self.base, Experiment):
            yield "base", f"expected an Experiment, got {type(self.base).__name__}"
        if not isinstance(self.variants, Mapping) or not self.variants:
            yield "variants", "expected at least one named variant, such as {'alibi': 'model.position=ALiBi()'}"
            return
        for name in (self.base_name, *self.variants):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                yield "variants", f"{name!r} is no name: expected letters, digits, _, - and ., 64 at most"
        if self.base_name in self.variants:
            yield "variants", f"{self.base_name!r} is the name of the base; give the base another base_name"
        yield from self._problems_of_seeds()
        if not _METRIC.fullmatch(self.metric):
            yield "metric", f"expected a name such as loss, or EVALUATION/loss, got {self.metric!r}"
        if self.alpha is not None and not 0 < self.alpha < 1:
            yield "alpha", f"expected a rate between 0 and 1, or None for no verdicts, got {self.alpha}"
        if self.claim is not None:
            try:
                Claim.parse(self.claim)
            except UserError as error:
                yield "claim", str(error)
        for part in (self.held, self.search):
            if part is not None:
                yield from part.problems()

    def _problems_of_seeds(self) -> Iterator[tuple[str, str]]:
        seeds = self.seeds
        if not seeds or any(not isinstance(seed, int) or not 0 <= seed < 2**32 for seed in seeds):
            yield "seeds", f"expected whole numbers from 0 to 2^32 - 1, got {seeds!r}"
        elif len(set(seeds)) != len(seeds):
            yield "seeds", f"a seed is given twice: {seeds}"
        elif len(seeds) < 2 and self.claim is not None:
            yield "seeds", f"one seed cannot support claim={self.claim!r}; give at least two seeds, or claim=None"
        elif len(seeds) < 2 and self.alpha is not None:
            yield (
                "seeds",
                "one seed gives no verdict, because it does not show the noise; give at least two, or alpha=None for "
                "a table without verdicts",
            )
        if self.search is not None and self.search.seed in seeds:
            yield "search.seed", f"{self.search.seed} is one of the seeds that are compared; take another"


def check_ablation(ablation: Ablation) -> None:
    """Raises UserError with every problem of an ablation, if there is any. Its variants are checked by `resolve`."""
    if found := [f"{field}: {message}" for field, message in ablation.problems()]:
        heading = "this ablation cannot be run:" if len(found) == 1 else f"this ablation has {len(found)} problems:"
        raise UserError("\n  ".join([heading, *found]))
