"""The variants of an ablation as experiments: each a list of settings, as `--set` reads them, on one base."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from model.errors import UserError
from model.options.json import to_json
from model.options.words import format_value, nearest
from train.config_file import assignments_of, with_overrides
from train.evaluation.named_evaluations import NamedEvaluation
from train.experiment import Experiment
from train.lab.ablation import Ablation, Change, check_ablation
from train.lab.hold import Match, match_base
from train.lab.statistics.claims import Claim

_SEED, _SWEEP = "{seed}", "{sweep}"
_OF_TEXT = ("loss", "perplexity", "bits_per_byte")  # the numbers of the evaluation of a text


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant, resolved.

    Attributes:
      name: its name, the base among them.
      settings: the changes of the ablation's file.
      tuned: the changes by the search of its learning rate.
      held: the changes that make a quantity equal to that of the base.
      note: a sentence about `held`; empty if nothing was to be held.
      experiment: the result of all three with the first seed of the sweep.
    """

    name: str
    settings: tuple[str, ...]
    experiment: Experiment
    tuned: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    note: str = ""

    def settings_of_run(self, seed: int) -> tuple[str, ...]:
        """All settings of the run with a seed."""
        return seeded((*self.settings, *self.tuned, *self.held), seed)


def ablation_from_file(path: str, overrides: Sequence[str] = (), folder: str = _SWEEP) -> Ablation:
    """The checked ablation that a config file assigns, with `--set` overrides applied to its base.

    `folder` is the folder of the sweep, for which {sweep} stands in texts. Raises UserError for a file that defines
    none, and for every problem of its fields.
    """
    found = assignments_of(path).get("ablation")
    if not isinstance(found, Ablation):
        what = "an Experiment alone, which launch.train runs" if found is None else type(found).__name__
        raise UserError(f"{path} defines no `ablation = Ablation(...)`, got {what}; see configs/ablations/positions.py")
    check_ablation(found)
    variants: dict[str, Change] = {}
    for name, change in found.variants.items():
        with naming(name):
            variants[name] = tuple(text.replace(_SWEEP, folder) for text in texts_of(change))
    return dataclasses.replace(found, base=with_overrides(found.base, overrides), variants=variants)


def seeded(settings: Sequence[str], seed: int) -> tuple[str, ...]:
    """The settings of a run: {seed} replaced, and the two seeds of its parameters and of its data."""
    own = tuple(setting.replace(_SEED, str(seed)) for setting in settings)
    return (*own, f"training.seed={seed}", f"data.seed={seed}")


def texts_of(change: Change) -> tuple[str, ...]:
    """The settings, as `--set` reads them, of a change in any of its forms. Raises UserError for another form."""
    if isinstance(change, str):
        return (change,)
    if isinstance(change, Mapping):
        return tuple(f"{path}={_text(value)}" for path, value in change.items())
    if isinstance(change, Sequence) and all(isinstance(text, str) for text in change):
        return tuple(change)
    raise UserError(
        f"expected a text path=value, several of them, or values by path, got {format_value(change)} "
        f"({type(change).__name__})"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def resolve(ablation: Ablation, tuned: Mapping[str, Sequence[str]] | None = None) -> dict[str, Variant]:
    """The base and all variants, by name, before anything is held equal.

    Args:
      ablation: checked.
      tuned: the settings of the search of rates, by variant.

    Raises:
      UserError: a setting does not fit, an experiment has problems, or two variants are one experiment.
    """
    changes: dict[str, Change] = {ablation.base_name: ()} | dict(ablation.variants)
    found: dict[str, Variant] = {}
    for name, change in changes.items():
        with naming(name):
            settings, by_search = texts_of(change), tuple((tuned or {}).get(name, ()))
            experiment = with_overrides(ablation.base, seeded((*settings, *by_search), ablation.seeds[0]))
        found[name] = Variant(name, settings, experiment, by_search)
    refuse_equal(found)
    return found


def hold_equal(
    ablation: Ablation,
    variants: Mapping[str, Variant],
    measure: Callable[[Sequence[Variant]], Mapping[str, float]] | None = None,
) -> dict[str, Variant]:
    """The variants with what `ablation.hold` asks for; the same variants if it asks for nothing.

    `measure` returns the seconds of a step of each variant by its name, for hold="time". Raises UserError, with the
    closest found, for a variant that cannot be made equal.
    """
    hold = ablation.held
    if hold is None:
        return dict(variants)
    base = variants[ablation.base_name]
    seconds = measure(list(variants.values())) if hold.equal == "time" and measure is not None else {}
    result = {base.name: base}
    for name, variant in variants.items():
        if name == base.name:
            continue
        with naming(name):
            own = {text.partition("=")[0].strip() for text in variant.settings}
            times = seconds.get(base.name), seconds.get(name)
            match: Match = match_base(base.experiment, variant.experiment, hold, *times, own)
            settings = (*variant.settings, *variant.tuned, *match.settings)
            experiment = with_overrides(ablation.base, seeded(settings, ablation.seeds[0]))
        result[name] = dataclasses.replace(variant, held=match.settings, note=match.note, experiment=experiment)
    refuse_equal(result)
    return result


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Begins the message of a UserError with the name of a variant."""
    try:
        yield
    except UserError as error:
        raise UserError(f"variant {name}: {str(error).replace('--set ', '')}") from None


def refuse_equal(variants: Mapping[str, Variant]) -> None:
    """Raises UserError for two variants that are one experiment: their difference would be 0 by construction."""
    seen: dict[str, str] = {}
    for name, variant in variants.items():
        text = repr(to_json(variant.experiment))
        if text in seen:
            raise UserError(
                f"variants {seen[text]} and {name} are the same experiment, so they cannot differ; change one of them, "
                "or leave it out"
            )
        seen[text] = name


def check_metrics(ablation: Ablation, variants: Mapping[str, Variant]) -> None:
    """Raises UserError for a metric, of the comparison or of the claim, that no evaluation of a run would write.

    Objectives and evaluations with numbers of their own are not asked for these.
    """
    asked = {"metric": ablation.metric}
    if ablation.claim is not None:
        asked["claim"] = Claim.parse(ablation.claim).metric
    for where, metric in asked.items():
        if where == "claim" and metric == "difference":
            continue
        name, _, number = metric.rpartition("/")
        for variant in variants.values():
            options = {option.name: option for option in variant.experiment.evaluations}
            if name and name not in options:
                hint = nearest(name, options)
                raise UserError(f"{where}: variant {variant.name} has no evaluation {name!r} for {metric!r}; {hint}")
            own = isinstance(options[name], NamedEvaluation) if name else _is_text(variant.experiment)
            if own and number not in _OF_TEXT:
                raise UserError(f"{where}: an evaluation has no number {number!r}; {nearest(number, _OF_TEXT)}")


def _is_text(experiment: Experiment) -> bool:
    """Whether the validation split is measured by the loss of its tokens."""
    return not hasattr(experiment.objective, "validation")


def common_settings(overrides: Sequence[str]) -> tuple[str, ...]:
    """The `--set` overrides of a sweep. Raises UserError for one of a seed: the sweep gives every run its own."""
    for text in overrides:
        if text.partition("=")[0].strip() in ("training.seed", "data.seed"):
            raise UserError(f"--set {text}: a sweep sets the seeds of its runs; change `seeds` in its file")
    return tuple(overrides)


def name_of(path: str) -> str:
    """The name of a sweep: that of its file."""
    return pathlib.Path(path).stem
