"""The runs that can train in one program: those whose experiments differ in numbers that the program takes as inputs.

Seeds decide the initial values, the dropout key and the batches, which are inputs of every step. The peak and the final
value of the learning rate, weight decay and the clipping norm become inputs where they differ. Other numbers do not:
the coefficients of moments, for one, lose digits as float32 inputs (1 - 0.999 has an error of 3e-5 then), so that a
run would not equal the same run alone. Runs that differ in them train one after another.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from model.cost import count_parameters
from model.errors import UserError
from model.options.difference import changed_fields
from model.options.json import to_json
from train.experiment import Experiment
from train.parallel.table import num_stages

# Fields that the compiled step does not read: they decide initial states and batches.
OUTSIDE = ("training.seed", "data.seed", "training.init_from", "training.branch_from.run")
# Numbers that the step takes as inputs where members differ.
INPUTS = ("schedule.peak", "schedule.final", "optimizer.weight_decay", "training.clip_norm")

# Bounds of `suggested_size`: a step of this many parameters and tokens fills a device without other runs. The state of
# these parameters takes 1.6 GB with Adam.
MOST, JOINT_PARAMETERS, JOINT_TOKENS = 16, 100_000_000, 1 << 17

T = TypeVar("T")


def reason_alone(experiment: Experiment) -> str | None:
    """Why a run can train only in a program of its own; None if it can train jointly."""
    if experiment.data.ramp is not None:
        return "data.ramp changes the shapes of batches during the run"
    if experiment.data.texts_of_row > 1:
        return "data: two texts a row have a validation of their own"
    if experiment.sharding.moments == "host":
        return "sharding.moments='host' keeps the moments of one state in the host's memory"
    if num_stages(experiment.mesh, experiment.sharding) > 1:
        return "mesh.stage splits the layers over the stages of a pipeline"
    if hasattr(experiment.objective, "preparation"):
        return f"the objective {type(experiment.objective).__name__} completes its batches with the state of one run"
    if experiment.logging.wandb_project is not None:
        return "logging.wandb_project: a process has one Weights & Biases run"
    return None


def shape_of(experiment: Experiment) -> str:
    """A text that is equal for experiments that have one compiled program."""
    tree = to_json(experiment)
    for path in OUTSIDE:
        _set(tree, path, None)
    for path in _inputs_of(experiment, tree):
        _set(tree, path, "number")
    return json.dumps(tree, sort_keys=True)


def split(items: Sequence[T], experiment: Callable[[T], Experiment], size: int, places: int = 1) -> list[list[T]]:
    """The items in groups that train jointly, each of `size` at most; a run that trains alone is a group of one.

    Args:
      items: the runs.
      experiment: the experiment of one.
      size: the most runs in a program.
      places: the groups that run at once; so many are made if there are runs for them, of about equal sizes.
    """
    by_shape: dict[str, list[T]] = {}
    for number, item in enumerate(items):
        own = experiment(item)
        by_shape.setdefault(shape_of(own) if reason_alone(own) is None else str(number), []).append(item)
    found = []
    for members in by_shape.values():
        share = -(-places * len(members) // len(items))  # of the places that run at once
        count = max(-(-len(members) // size), min(share, len(members)))
        bounds = [len(members) * i // count for i in range(count + 1)]
        found += [members[first:last] for first, last in itertools.pairwise(bounds)]
    return found


def suggested_size(experiment: Experiment) -> int:
    """The number of runs in one program of an accelerator: many of small models, one of a model that fills it alone."""
    parameters = count_parameters(experiment.model).total
    tokens = experiment.data.batch_size * experiment.data.sequence_length // experiment.training.gradient_accumulation
    return max(1, min(MOST, JOINT_PARAMETERS // parameters, JOINT_TOKENS // tokens))


def check_joint(experiments: Sequence[tuple[str, Experiment]]) -> None:
    """Raises UserError, with the fields, for experiments, by name, that cannot train in one program."""
    for name, experiment in experiments:
        if (reason := reason_alone(experiment)) is not None:
            raise UserError(f"{name} cannot train jointly with others: {reason}; train it alone")
    (first, one), *others = experiments
    for name, experiment in others:
        if shape_of(one) == shape_of(experiment):
            continue
        fields = list(changed_fields(json.loads(shape_of(one)), json.loads(shape_of(experiment))))
        listed = "\n  ".join(f"{path}: {before} -> {after}" for path, before, after in fields)
        raise UserError(
            f"{first} and {name} cannot train in one program, which takes only seeds, {', '.join(INPUTS)} as inputs; "
            f"they differ in\n  {listed}\nTrain them one after another"
        )


def inputs_of(experiments: Sequence[Experiment]) -> dict[str, list[float]]:
    """The numbers in which the experiments of a program differ, by path."""
    trees = [to_json(experiment) for experiment in experiments]
    found = {path: [_get(tree, path) for tree in trees] for path in _inputs_of(experiments[0], trees[0])}
    return {path: values for path, values in found.items() if len(set(values)) > 1}


def with_inputs(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with other numbers, which may be traced."""
    for path, value in values.items():
        part, field = path.split(".")
        changed = dataclasses.replace(getattr(experiment, part), **{field: value})
        experiment = dataclasses.replace(experiment, **{part: changed})
    return experiment


def _inputs_of(experiment: Experiment, tree: Any) -> list[str]:
    """The paths of INPUTS that an experiment has; `tree` is its JSON.

    Decay is added to updates in the format of parameters: a float32 input would change another format.
    """
    lower = experiment.model.precision.parameters != "float32"
    paths = [path for path in INPUTS if not (lower and path == "optimizer.weight_decay")]
    return [path for path in paths if _get(tree, path) is not None]


def _get(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _set(tree: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.get(name) if isinstance(tree, dict) else None
    if isinstance(tree, dict) and last in tree:
        tree[last] = value
