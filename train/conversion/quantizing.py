"""Writes a run folder whose matrices are quantised, for inference (model/parameters/quantized_weights.py)."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.errors import UserError
from model.parameters.names import flatten, unflatten
from model.parameters.quantized_weights import MatrixLayout, QuantizedWeights, applies_to, quantize
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, specs
from train import experiment as experiments
from train.conversion.run_folder import derived_experiment, write_derived
from train.experiment import Experiment
from train.files.paths import AnyPath
from train.parallel.mesh import Mesh
from train.parallel.mesh_choice import model_shardings
from train.parallel.table import Sharding
from train.run.loading import load_params
from train.terminal.progress import Progress

DEFAULT_GROUP = {"int4": 64}  # inputs, where --quantize names none


def parse_option(text: str, activations: str | None = None) -> QuantizedWeights:
    """The option of `--quantize=FORMAT[:GROUP]` and `--activations`. Raises UserError for anything else."""
    name, _, group = text.partition(":")
    name = {"fp8": "float8"}.get(name, name)
    expected = "expected int8, int4 or fp8, or with a group of inputs that share a scale: int4:32 to int4:128"
    if name not in ("int8", "int4", "float8") or (":" in text and not (group.isascii() and group.isdigit())):
        raise UserError(f"--quantize={text}: {expected}")
    size = int(group) if group else DEFAULT_GROUP.get(name)
    option = QuantizedWeights(format=name, group=size, activations=activations or "compute")  # type: ignore[arg-type]
    for field, message in option.problems():
        raise UserError(f"--{'activations' if field == 'activations' else 'quantize'}: {message}; {expected}")
    return option


def quantized_model(config: ModelConfig, option: QuantizedWeights) -> ModelConfig:
    """The model with quantised matrices. Raises UserError if they are quantised already."""
    if config.precision.weights is not None:
        raise UserError(
            f"its weights are {config.precision.weights.text} already; quantise the run that has them whole"
        )
    precision = dataclasses.replace(config.precision, weights=option, products="compute")
    return dataclasses.replace(config, precision=precision)


def quantize_params(
    params: Any, config: ModelConfig, option: QuantizedWeights, mesh: jax.sharding.Mesh, table: Sharding
) -> Any:
    """The parameters of `quantized_model(config, option)`, on the mesh.

    One parameter is quantised at a time, and its array deleted: memory holds the parameters, and one of them twice.

    Raises UserError for a matrix with numbers that are not finite.
    """
    target = quantized_model(config, option)
    placements, arrays, known = (
        flatten(model_shardings(target, mesh, table)),
        flatten(params),
        specs_by_name(specs(config)),
    )
    del params
    quantized: dict[str, Any] = {}
    total, done = sum(x.nbytes for x in arrays.values()), 0
    with Progress("quantising", total, unit="bytes") as progress:
        for name in list(arrays):
            x, spec = arrays.pop(name), known[name]
            done += x.nbytes
            if applies_to(spec):
                names = (f"{name}.values", f"{name}.scales")
                placed = tuple(placements[each] for each in names)
                *parts, finite = _quantize(MatrixLayout(spec, x.shape, option), placed)(x)
                if not finite:
                    raise UserError(f"parameter {name} has numbers that are not finite: nothing to quantise them to")
                quantized |= zip(names, parts, strict=True)
                x.delete()
            else:
                quantized[name] = x
            progress.update(done)
    return unflatten(abstract_params(target), quantized)


@functools.lru_cache(maxsize=8)
def _quantize(layout: MatrixLayout, placements: tuple[Any, Any]) -> Any:
    def parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return *quantize(x, layout), jnp.all(jnp.isfinite(x))

    return jax.jit(parts, out_shardings=(*placements, None))


def quantize_run(
    run: AnyPath,
    target: pathlib.Path,
    option: QuantizedWeights,
    *,
    checkpoint: str = "latest",
    mesh: Mesh | None = None,
) -> Experiment:
    """Writes a run folder with the quantised parameters of a checkpoint of another run, under the same step.

    Args:
      run: the run folder.
      target: the new run folder, which must not exist.
      option: the format.
      checkpoint: latest, best, or a step.
      mesh: the mesh of the devices here; None as for `train.run.loading.load_run`.

    Raises:
      UserError: for a run that is quantised already, and as `load_run` does; then nothing is written.
    """
    before = experiments.load(run)
    try:
        model = quantized_model(before.model, option)
    except UserError as error:
        raise UserError(f"{run}: {error}") from None
    experiment = derived_experiment(before, model)  # without moments of embeddings and norms

    def params() -> tuple[Any, int]:
        loaded = load_params(run, checkpoint, mesh=mesh)
        return quantize_params(loaded.params, before.model, option, loaded.mesh, loaded.table), loaded.step

    write_derived(experiment, run, target, params)
    return experiment
