"""The speed of the variants of a sweep against the length of a row, with as many tokens in all: measured on demand.

SWEEP/lengths.json   the seconds of a forward and backward pass, for each variant and length

A recurrence goes through a row token by token; attention computes all tokens of a row at once, and its cost for each of
them grows with the row.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.config_file import from_stored
from train.experiment import Experiment
from train.files.files import read_json, write_json
from train.lab.results import SweepResults

FILE = "lengths.json"
_SCHEMA = {"device": str, "tokens": int, "rounds": int, "seconds": {...: {...: [float]}}}
_ROUNDS = 7


@dataclasses.dataclass(frozen=True)
class LengthTimes:
    """What was measured.

    Attributes:
      device: the kind of the devices.
      tokens: in every pass.
      rounds: how often each pass was timed.
      seconds: by variant and length: the median over the rounds, the least and the most.
    """

    device: str
    tokens: int
    rounds: int
    seconds: dict[str, dict[int, tuple[float, float, float]]]


def measure_lengths(
    results: SweepResults, lengths: Sequence[int], say: Callable[[str], None] = print, rounds: int = _ROUNDS
) -> None:
    """Times a forward and backward pass of every variant with rows of each length, in turn, and keeps the seconds.

    Every pass has as many tokens: those of a row of the longest for each device. Raises UserError for lengths below 2
    or that do not divide the longest, for variants whose configs cannot be read, and for data without a text.
    """
    import jax

    longest = max(lengths, default=0)
    if min(lengths, default=0) < 2 or any(longest % length for length in lengths):
        listed = ",".join(map(str, lengths))
        raise UserError(f"lengths={listed}: expected numbers from 2 that divide the longest, such as 64,256,1024")
    if unread := [name for name, variant in results.variants.items() if not variant.config]:
        raise UserError(f"the config of {', '.join(unread)} cannot be read: {'; '.join(results.notes)}")
    experiments = {name: from_stored(variant.config) for name, variant in results.variants.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in experiments}
    tokens = longest * jax.device_count()  # a row for each device at least
    for length in sorted(set(lengths)):
        say(f"the speed of {len(experiments)} variants with rows of {length:,} tokens")
        for name, times in pass_seconds(experiments, tokens, length, rounds).items():
            seconds[name][str(length)] = [statistics.median(times), min(times), max(times)]
    device = jax.devices()[0].device_kind
    write_json(results.folder / FILE, {"device": device, "tokens": tokens, "rounds": rounds, "seconds": seconds})


def pass_seconds(
    experiments: Mapping[str, Experiment], tokens: int, length: int, rounds: int
) -> dict[str, list[float]]:
    """The seconds of a forward and backward pass over random tokens, for each round, the experiments in turn."""
    import jax

    passes = {name: _compiled_pass(experiment, tokens, length) for name, experiment in experiments.items()}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name, run in passes.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _compiled_pass(experiment: Experiment, tokens: int, length: int) -> Callable[[], Any]:
    """The gradient of the objective's loss on one batch, ready to be called."""
    import jax

    from model.transformer import init
    from train.objectives.interface import refuse_preparation
    from train.parallel.mesh import make_mesh
    from train.parallel.mesh_choice import model_shardings
    from train.parallel.table import layout_of
    from train.speed import random_batch

    refuse_preparation(experiment.objective, "the speed of a pass")
    model = dataclasses.replace(experiment.model, context_length=max(length, experiment.model.context_length))
    data = dataclasses.replace(experiment.text, batch_size=tokens // length, sequence_length=length)
    experiment = dataclasses.replace(experiment, model=model, data=data)
    mesh, table = make_mesh(experiment.mesh), experiment.sharding
    layout, shardings = layout_of(mesh, table), model_shardings(model, mesh, table)
    params = jax.jit(init, static_argnums=0, out_shardings=shardings)(model, jax.random.key(0))
    batch = random_batch(experiment, 0, mesh)

    def loss(params: Any, batch: Any) -> jax.Array:
        return experiment.objective.loss(model, params, batch, dropout_key=None, layout=layout)[0]

    compiled = jax.jit(jax.grad(loss)).lower(params, batch).compile()
    return lambda: compiled(params, batch)


def length_times(results: SweepResults) -> LengthTimes | None:
    """What was measured; None if nothing was, or the file cannot be read. Variants that have gone are left out."""
    if not (results.folder / FILE).is_file():
        return None
    try:
        content = read_json(results.folder / FILE, schema=_SCHEMA)
    except UserError:
        return None
    seconds = {
        name: {int(length): (each[0], each[1], each[2]) for length, each in times.items() if len(each) == 3}
        for name, times in content["seconds"].items()
        if name in results.variants and all(length.isdecimal() for length in times)
    }
    return LengthTimes(content["device"], content["tokens"], content["rounds"], seconds)
