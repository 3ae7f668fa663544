"""A sweep from its file to its end: resolve, search the rates, run, and report what happened.

Processes are the caller's: `execute` runs commands and returns their exit statuses (launch/clusters/pool.py).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.config_file import with_overrides
from train.lab import folder as folders
from train.lab import search as searches
from train.lab.ablation import Ablation
from train.lab.folder import Run
from train.lab.variants import (
    Variant,
    ablation_from_file,
    check_metrics,
    common_settings,
    hold_equal,
    name_of,
    naming,
    refuse_equal,
    resolve,
    seeded,
)

EXIT_MISTAKE = 2  # of a run that diverged too, and that no other try would mend
# Runs these to their ends, shown under a title, and returns the exit status of each by the name of its folder.
Execute = Callable[[str, Sequence[Run]], Mapping[str, int]]
MeasureSteps = Callable[[Sequence[Variant]], Mapping[str, float]]


class SweepStoppedError(Exception):
    """A signal ended the runs of a sweep before their ends; the same command continues them."""


@dataclasses.dataclass
class Sweep:
    """A sweep that is resolved.

    Attributes:
      config: the path of its file.
      folder: its folder.
      common: settings that all runs have.
      ablation: the value of the file.
      untuned: the base and the variants, with the settings that hold a quantity equal.
      rounds: the rounds of the search of rates so far, by variant.
      earlier_seeds: the seeds that were declared before others came to them, after results; see `folder.earlier_seeds`.
      variants: `untuned`, with the rate of each whose search is done.
    """

    config: str
    folder: pathlib.Path
    common: tuple[str, ...]
    ablation: Ablation
    untuned: dict[str, Variant]
    rounds: dict[str, list[searches.Round]]
    earlier_seeds: list[list[int]] = dataclasses.field(default_factory=list)
    variants: dict[str, Variant] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Gives every variant whose search is done its rate."""
        self.variants = {name: self._tuned(variant) for name, variant in self.untuned.items()}
        refuse_equal(self.variants)

    @classmethod
    def from_file(
        cls, config: str, folder: pathlib.Path, overrides: Sequence[str] = (), measure: MeasureSteps | None = None
    ) -> "Sweep":
        """Resolves the ablation of a config file, for the folder of a sweep; writes nothing.

        `measure` measures the steps of variants, for hold="time", unless the folder has the result. Raises UserError
        for every mistake in the file, and for a folder of another sweep.
        """
        common = common_settings(overrides)
        ablation = ablation_from_file(config, common, str(folder))
        before = folders.read(folder)
        plain = resolve(ablation)
        check_metrics(ablation, plain)
        held = _held_equal(ablation, before, plain, measure)
        rounds = {name: list(one["rounds"]) for name, one in ((before or {}).get("search") or {}).items()}
        sweep = cls(config, folder, common, ablation, held, {name: rounds.get(name, []) for name in held})
        if before is not None:
            folders.check_same(folder, before, sweep.content(), ablation.base)
        runs = sweep.runs()
        folders.check_branches(folder, runs)
        sweep.earlier_seeds = folders.earlier_seeds(before, runs)
        return sweep

    def content(self) -> dict[str, Any]:
        """The content of sweep.json."""
        search, found = self.ablation.search, None
        if search is not None:
            found = {
                name: searches.summary(search, self.untuned[name].experiment, rounds)
                if self._is_searched(name)
                else {"field": "schedule.peak", "rate": None, "rounds": list(rounds)}
                for name, rounds in self.rounds.items()
            }
        name = name_of(self.config)
        return folders.describe(self.config, name, self.ablation, self.variants, found, self.earlier_seeds)

    def save(self) -> None:
        """Writes sweep.json."""
        folders.write(self.folder, self.content())

    def runs(self) -> list[Run]:
        """The runs to compare."""
        return folders.runs_of(self.folder, self.ablation, self.variants)

    def notes(self) -> list[str]:
        """The changes that hold a quantity equal, and the rates that were found, a line for each variant."""
        lines = [f"{name}: {one.note}" for name, one in self.variants.items() if one.note]
        search = self.ablation.search
        for name in self.rounds if search is not None else ():
            if search is not None and self._is_searched(name):
                found = searches.summary(search, self.untuned[name].experiment, self.rounds[name])
                edge = "; it is the last at its end of the range, and one beyond may be better" * found["at_edge"]
                lines.append(f"{name}: learning rate {found['rate']:g}, the best of {found['runs']} runs{edge}")
        return lines

    # ----------------------------------------------------------------------------------------------------- search

    def _is_searched(self, name: str) -> bool:
        search = self.ablation.search
        return search is None or not searches.trials(search, self.untuned[name].experiment, self.rounds[name])

    @property
    def is_searched(self) -> bool:
        """Whether the rate of every variant is tuned, or none is to be."""
        return all(map(self._is_searched, self.untuned))

    def search_rates(self, execute: Execute) -> None:
        """Runs the rounds of the search that are left, and saves the record after each.

        Raises UserError when all rates of a variant fail.
        """
        search = self.ablation.search
        while search is not None and not self.is_searched:
            trials = [
                (name, trial, self._trial_run(name, trial))
                for name, variant in self.untuned.items()
                for trial in searches.trials(search, variant.experiment, self.rounds[name])
            ]
            todo = [run for _, _, run in trials if not folders.is_done(run)]
            number = 1 + min(len(self.rounds[name]) for name, _, _ in trials)
            statuses = execute(f"learning rates, round {number} of {len(search.lengths)}", todo)
            if broken := failures(todo, {name: code for name, code in statuses.items() if code != EXIT_MISTAKE}):
                raise UserError("\n  ".join(["the search of the learning rates cannot go on:", *broken]))
            for name in dict.fromkeys(name for name, _, _ in trials):
                own = [(trial, run) for other, trial, run in trials if other == name]
                losses = {trial.rate: _final(run, self.ablation.metric) for trial, run in own}
                self.rounds[name].append({"steps": own[0][0].steps, "losses": losses})
                with naming(name):
                    searches.best_rate(self.rounds[name])
            self.__post_init__()
            self.save()

    def _trial_run(self, name: str, trial: searches.Trial) -> Run:
        assert self.ablation.search is not None
        variant, seed = self.untuned[name], self.ablation.search.seed
        settings = seeded((*variant.settings, *variant.held, *trial.settings), seed)
        folder = self.folder / folders.SEARCHES / f"{name}-rate{trial.rate}-steps{trial.steps}"
        with naming(name):
            return Run(folder, name, seed, settings, with_overrides(self.ablation.base, settings))

    def _tuned(self, variant: Variant) -> Variant:
        if self.ablation.search is None or not self._is_searched(variant.name):
            return variant
        settings = searches.rate_settings(variant.experiment, searches.best_rate(self.rounds[variant.name]))
        every = seeded((*variant.settings, *settings, *variant.held), self.ablation.seeds[0])
        return dataclasses.replace(variant, tuned=settings, experiment=with_overrides(self.ablation.base, every))


def _held_equal(
    ablation: Ablation, before: Mapping[str, Any] | None, plain: dict[str, Variant], measure: MeasureSteps | None
) -> dict[str, Variant]:
    """The variants with the changes that hold a quantity equal: those of an earlier start stay as they were.

    A measured time would not give them again, nor would a later version that counts otherwise.
    """
    if ablation.held is None:
        return plain
    kept, stored = dict[str, Variant](), (before or {}).get("variants", {})
    for name, variant in plain.items():
        if name not in stored or not folders.same_settings(ablation.base, stored[name]["settings"], variant.settings):
            continue
        held = tuple(stored[name].get("held", ()))
        with naming(name):
            experiment = with_overrides(ablation.base, seeded((*variant.settings, *held), ablation.seeds[0]))
        kept[name] = dataclasses.replace(variant, held=held, note=stored[name].get("note", ""), experiment=experiment)
    new = {name: one for name, one in plain.items() if name == ablation.base_name or name not in kept}
    if kept.keys() == plain.keys():
        return kept
    found = hold_equal(ablation, new, measure) | kept
    return {name: found[name] for name in plain}


def _final(run: Run, metric: str) -> float | None:
    """The metric at the last step of a run; None if it failed before."""
    progress = folders.progress_of(run, metric)
    return progress.value if progress.state == "finished" else None


def failures(runs: Sequence[Run], statuses: Mapping[str, int]) -> list[str]:
    """A line for each run that did not end as it should, with the reason if its folder has one."""
    lines = []
    for run in runs:
        status = statuses.get(run.label, 0)
        if status == 0:
            continue
        progress = folders.progress_of(run, "loss")
        reason = f": {progress.reason}" if progress.reason else ""
        lines.append(f"{run.label} ended with status {status} at step {progress.step}{reason}; see {log_of(run)}")
    return lines


def log_of(run: Run) -> pathlib.Path:
    """The file with the output of a run's process."""
    return run.folder / "logs" / "sweep.txt"


def require_searched(sweep: Sweep, engine: str) -> None:
    """Raises UserError when the rates are not tuned yet: each round depends on the last, so no array can hold them."""
    if not sweep.is_searched:
        raise UserError(
            f"--to={engine}: the search of the learning rates comes first, and runs where the command runs; give the "
            "same command with --to=local --only=search before"
        )
