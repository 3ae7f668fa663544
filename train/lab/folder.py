"""The folder of a sweep: sweep.json, its lock, its runs and their states.

sweep.json         the sweep: variants with all their settings, seeds, the rule of comparison, the search of rates
NAME-seedS/        the run of a variant with a seed
searches/          the runs of the search of rates, which are not compared
texts/             the tokens of the texts, which runs share
logs/              the output of processes that train several runs in one program (launch.sweep --joint)
documents/         the losses of every document, of launch.report --documents
report.html, results.csv, results.md, results.tex   the report
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from model.errors import UserError
from model.options.difference import differences
from model.options.field_marks import exclude_paths, marked_fields
from model.options.json import from_json, to_json
from model.options.words import nearest
from train import experiment as experiments
from train.config_file import from_stored, with_overrides
from train.experiment import Experiment
from train.files.files import LockedError, lock, read_json, write_json
from train.lab.ablation import Ablation, RateSearch
from train.lab.variants import Variant, seeded
from train.run import folder as run_folder
from train.run.metrics import read_status

FILE, FORMAT = "sweep.json", 1
SEARCHES, TEXTS = "searches", "texts"
State = Literal["waiting", "running", "finished", "interrupted", "stopped", "failed"]
_TAIL_BYTES = 1 << 16
VARIANT_SCHEMA = {"settings": [str], "held?": [str], "tuned?": [str], "note?": str}
_SCHEMA = {
    "format": int,
    "name": str,
    "variants": {...: VARIANT_SCHEMA},
    "seeds": [int],
    "earlier_seeds?": [[int]],
    "experiment?": dict,
}
# The rule of comparison, with what a sweep.json means that lacks a part of it.
_RULE = {"base": "base", "hold": None, "hold_by": None, "metric": "loss", "claim": None, "alpha": 0.05}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      folder: its run folder.
      variant: the name of its variant.
      seed: its seed.
      settings: all its settings, as `--set` reads them, on the base of the config file.
      experiment: the result.
    """

    folder: pathlib.Path
    variant: str
    seed: int
    settings: tuple[str, ...]
    experiment: Experiment

    @property
    def label(self) -> str:
        """The name of its folder."""
        return self.folder.name


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, as its folder says: `value` is the metric of its last evaluation, None before the first."""

    state: State
    step: int
    total: int
    value: float | None = None
    reason: str | None = None


def runs_of(folder: pathlib.Path, ablation: Ablation, variants: Mapping[str, Variant]) -> list[Run]:
    """All runs to compare: the first seed of all variants, then the second, so that early results are of all."""
    return [
        Run(folder / f"{name}-seed{seed}", name, seed, settings, with_overrides(ablation.base, settings))
        for seed in ablation.seeds
        for name, variant in variants.items()
        for settings in [variant.settings_of_run(seed)]
    ]


def trunk_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run among these from which a run branches; None if it branches from no run, or from another."""
    branch = run.experiment.training.branch_from
    return None if branch is None else next((one for one in runs if one.folder == pathlib.Path(branch.run)), None)


def check_branches(folder: pathlib.Path, runs: Sequence[Run]) -> None:
    """Raises UserError for a run that branches from a run that the sweep does not have, or a step that is not kept."""
    labels = {run.label for run in runs}
    for run in runs:
        branch = run.experiment.training.branch_from
        if branch is None or pathlib.Path(branch.run).parent != folder:
            continue
        trunk = trunk_of(run, runs)
        if trunk is None or trunk is run:
            name = pathlib.Path(branch.run).name
            problem = f"{name} is no other run of this sweep; {nearest(name, labels - {run.label})}"
        elif not _keeps(trunk.experiment, branch.step):
            problem = (
                f"{trunk.label} keeps no checkpoint of step {branch.step}; give its checkpoints every={branch.step}, "
                f"keep_every={branch.step}"
            )
        else:
            continue
        raise UserError(f"variant {run.variant}: training.branch_from: {problem}")


def _keeps(experiment: Experiment, step: int) -> bool:
    """Whether a run that nothing interrupts has a checkpoint of a step at its end, even if it is not the best one."""
    option, last = experiment.checkpoints, experiment.training.num_steps
    saved = [*range(option.every, last, option.every), last]
    is_kept = option.keep_every is not None and step % option.keep_every == 0
    return step in saved and (is_kept or step in saved[-option.keep_last :])


def progress_of(run: Run, metric: str, alive: bool = False) -> Progress:
    """The state of a run. Without a process of its own (`alive`) one that says it is running is dead: interrupted."""
    total = run.experiment.training.num_steps
    status = read_status(run.folder) or {}
    state, step = status.get("state", "waiting"), int(status.get("step") or 0)
    lines = _last_lines(run.folder / "metrics.jsonl")
    step = max([step, *(line["step"] for line in lines[-1:])])
    name, _, field = metric.rpartition("/")
    values = [line.get(field) for line in lines if line.get("kind") == "eval" and line.get("name", "") == name]
    value = float(values[-1]) if values and values[-1] is not None else None
    if alive:
        state = "running"
    elif state == "running":
        state = "interrupted"
    elif state == "finished" and status.get("step") != total:
        state = "stopped"
    return Progress(state, step, total, value, status.get("reason"))


def is_done(run: Run) -> bool:
    """Whether a run is at its last step. Raises UserError when its folder holds a run of another config."""
    if not run_folder.has_begun(run.folder):
        return False
    experiments.check_same_experiment(run.experiment, run.folder)
    return progress_of(run, "loss").state == "finished"


def _last_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines at the end of metrics.jsonl; those of a damaged file are left out."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[1 if size > _TAIL_BYTES else 0 : -1]
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                found.append({k: math.nan if v == "NaN" else v for k, v in value.items()})
    return found


# ---------------------------------------------------------------------------------------------------- sweep.json


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder of a sweep. Raises UserError when another sweep runs in it, and when it cannot be a folder."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder / ".lock", wait=False))
        except LockedError as error:
            raise UserError(f"a sweep runs in {folder} already, in {error}, or give another --run") from error
        except OSError as error:
            raise UserError(
                f"{folder} cannot be the folder of a sweep: {error.strerror}; give another --run"
            ) from error
        yield


def is_sweep(folder: pathlib.Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """The content of sweep.json, None in a folder without. Raises UserError for a folder that is no sweep's."""
    if is_sweep(folder):
        return read_json(folder / FILE, remedy="put a copy of it back", schema=_SCHEMA)
    if (folder / "config.json").is_file():
        raise UserError(f"{folder} holds a run, and a sweep needs a folder of its own; give another --run")
    return None


def earlier_seeds(before: Mapping[str, Any] | None, runs: Sequence[Run]) -> list[list[int]]:
    """The seeds that were declared before, one list for each time that others replaced them after a run had ended.

    Args:
      before: the content of sweep.json; None without one.
      runs: the runs that are declared now.
    """
    if before is None:
        return []
    found = list(before.get("earlier_seeds", []))
    if set(before["seeds"]) != {run.seed for run in runs}:
        known = [run for run in runs if run.seed in before["seeds"] and run.variant in before["variants"]]
        if any(progress_of(run, "loss").state == "finished" for run in known):
            found.append(list(before["seeds"]))
    return found


def describe(
    config: str,
    name: str,
    ablation: Ablation,
    variants: Mapping[str, Variant],
    search: Mapping[str, Any] | None,
    earlier: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """The content of sweep.json; `earlier` is that of `earlier_seeds`."""
    hold = ablation.held
    return {
        "format": FORMAT,
        "name": name,
        "config": config,
        "base": ablation.base_name,
        "variants": {
            one.name: {
                "settings": list(one.settings),
                "held": list(one.held),
                "tuned": list(one.tuned),
                "note": one.note,
            }
            for one in variants.values()
        },
        "seeds": list(ablation.seeds),
        "earlier_seeds": [list(seeds) for seeds in earlier],
        "hold": None if hold is None else hold.equal,
        "hold_by": None if hold is None else hold.knob,
        "metric": ablation.metric,
        "claim": ablation.claim,
        "alpha": ablation.alpha,
        "search": search,
        "search_rule": to_json(ablation.search),
        "experiment": to_json(ablation.base),
    }


def write(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes sweep.json."""
    write_json(folder / FILE, dict(content))


def check_same(folder: pathlib.Path, before: Mapping[str, Any], now: Mapping[str, Any], base: Experiment) -> None:
    """Raises UserError, with a list, when a folder holds another sweep.

    Further variants may come to a sweep, and further seeds unless a claim is to be judged: to add seeds after a look at
    the results would make the claim's error rate larger than it says.
    """
    stored = _stored_base(folder, before)
    changed = exclude_paths(differences(stored, now["experiment"]), marked_fields(base, "execution"))
    changed = [line for line in changed if not line.startswith(("training.seed:", "data.seed:"))]
    rules = {name: (before.get(name, missing), now[name]) for name, missing in _RULE.items()}
    rules["search_rule"] = _stored_search(before), now["search_rule"]
    changed += [f"{name}: {old!r} -> {new!r}" for name, (old, new) in rules.items() if old != new]
    for name, variant in before["variants"].items():
        if name not in now["variants"]:
            changed.append(f"variant {name}: {variant['settings']} -> not there")
        elif not same_settings(base, variant["settings"], now["variants"][name]["settings"]):
            changed.append(f"variant {name}: {variant['settings']} -> {now['variants'][name]['settings']}")
    if lost := sorted(set(before["seeds"]) - set(now["seeds"])):
        changed.append(f"seeds: {lost} -> not there")
    elif now["claim"] is not None and set(before["seeds"]) != set(now["seeds"]):
        changed.append(f"seeds: {before['seeds']} -> {now['seeds']}, while claim={now['claim']!r} was to be judged")
    if changed:
        listed = "\n  ".join(changed)
        raise UserError(
            f"{folder} holds another sweep (its value -> the one given):\n  {listed}\n"
            "Give another --run, or the file that made it."
        )


def _stored_base(folder: pathlib.Path, before: Mapping[str, Any]) -> Any:
    """The base in sweep.json with today's fields; None without one. Raises UserError if it no longer fits the code."""
    if (stored := before.get("experiment")) is None:
        return None
    try:
        return to_json(from_stored(stored))
    except UserError as error:
        raise UserError(f"{folder / FILE} does not fit this version of the code: {error}; give another --run") from None


def _stored_search(before: Mapping[str, Any]) -> Any:
    """The rule of the search of rates in sweep.json with today's fields."""
    stored = before.get("search_rule")
    with contextlib.suppress(UserError):  # of a field that is gone: another rule
        return to_json(from_json(RateSearch | None, stored))
    return stored


def same_settings(base: Experiment, before: Sequence[str], now: Sequence[str]) -> bool:
    """Whether two lists of settings make the same experiment of a base.

    The text of a value has all its fields, so that it changes when its class gains one. Earlier settings that can no
    longer be read, because a name has changed, are left to the configs of their runs (`is_done`).
    """
    if list(before) == list(now):
        return True
    try:
        earlier = with_overrides(base, seeded(before, 0))
    except UserError:
        return True
    return earlier == with_overrides(base, seeded(now, 0))


# ------------------------------------------------------------------------------------------------------- texts


def share_texts(folder: pathlib.Path, runs: Sequence[Run]) -> None:
    """Lets all runs with the same text and tokenizer use one folder of tokens: RUN/data is a link to it.

    The first run to need it makes it, and the others wait (train/data/prepare). A run that has its own keeps it.
    """
    for run in runs:
        data = run.experiment.data
        if (parts := data.shared_settings()) is None:
            continue
        link = run.folder / "data"
        if link.exists() or link.is_symlink():
            continue
        target = folder / TEXTS / f"{zlib.crc32(json.dumps(parts, sort_keys=True).encode()):08x}"
        target.mkdir(parents=True, exist_ok=True)
        run.folder.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target.absolute(), run.folder.absolute()))
