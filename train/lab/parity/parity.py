"""Compares what two configs compute from one set of parameters and one batch: the stream, the logits, the gradients.

A difference is the largest one of a tensor in units of the standard deviation of its numbers in the first config, so
that one bound serves all layers; of a gradient, in that of a row's own size where it is larger, because the rows of an
embedding table differ a hundredfold by how often their token came. Two correct programs round differently, and
differences grow from layer to layer: the bound is `ROUNDINGS` units in the last place of the coarser of the two compute
formats, and an eighth of that for the root mean square of the differences. In float32 the kernels and meshes of a model
of 4 layers differ by a tenth of the bound or less, and a base of the rotary positions that is off by a tenth differs by
a thousand times the bound. In formats of 16 bits the largest differences are far from the typical ones, and small
mistakes hide: compare in float32 first. Dropout is left out, and padding is not compared.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.kernels.selection import recorded_choices
from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from model.transformer import forward, specs
from train.experiment import Experiment
from train.lab.by_layer import by_layer
from train.lab.parity.inputs import (
    Inputs,
    check_same_parameters,
    mesh_of,
    prepare_experiments,
    random_batch,
    shared_params,
)
from train.objectives.interface import Batch
from train.parallel import feed
from train.parallel.table import MeshLayout, layout_of, replicated
from train.run.checks import check_mesh
from train.state import StateConfig, TrainState, partition_params
from train.step import sums_and_grads

# Bits of a number's fraction. Products of float32 have fewer on accelerators, unless jax_default_matmul_precision asks
# for more: 10 in TF32, 7 where they are made of bfloat16.
_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
_BITS_OF_PRODUCTS = {"gpu": 10, "tpu": 7}
ROUNDINGS = {"float32": 1024, "float16": 128, "bfloat16": 128}
TYPICAL = 0.125  # the root mean square of the differences of a tensor may be this part of the bound
_STREAM = ("embedding", "block_output", "final_norm")


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """The difference of a tensor in two configs.

    Attributes:
      place: the layer, or the part of the model.
      tensor: what is compared there, such as "stream" or the name of a parameter.
      largest: the largest difference, in deviations of the first config's numbers (of a gradient: or in the root mean
        square of its row, if that is more).
      typical: the root mean square of the differences, likewise.
    """

    place: str
    tensor: str
    largest: float
    typical: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """The comparison of two configs.

    Attributes:
      bound: the largest difference that counts as rounding, and in words where it comes from.
      stream: after the embedding, each layer and the final norm, and of the logits, in the order of the computation.
      gradients: for each layer and part of the model, the parameter whose gradient differs most.
      losses: of both.
      shape: rows and tokens of the batch.
      kernels: the kernels of each.
    """

    bound: float
    bound_in_words: str
    stream: list[TensorDifference]
    gradients: list[TensorDifference]
    losses: tuple[float, float]
    shape: tuple[int, int]
    kernels: tuple[list[str], list[str]]

    def is_beyond(self, difference: TensorDifference) -> bool:
        """Whether a difference is more than rounding; NaN is."""
        return not (difference.largest <= self.bound and difference.typical <= TYPICAL * self.bound)

    @property
    def first(self) -> TensorDifference | None:
        """The first difference of the stream beyond the bound, in the order of the computation."""
        return next((difference for difference in self.stream if self.is_beyond(difference)), None)

    @property
    def first_gradient(self) -> TensorDifference | None:
        """The gradient beyond the bound that the backward pass computes first: of the last layer."""
        return next((difference for difference in reversed(self.gradients) if self.is_beyond(difference)), None)

    @property
    def agree(self) -> bool:
        """Whether no difference is beyond the bound."""
        return self.first is None and self.first_gradient is None

    def as_json(self) -> dict[str, Any]:
        """The values, for JSON."""
        first, gradient = self.first, self.first_gradient
        places = {"first": first and first.place, "first_gradient": gradient and gradient.place}
        return dataclasses.asdict(self) | {"agree": self.agree} | places


def compare_configs(a: Experiment, b: Experiment, inputs: Inputs, tolerance: float | None = None) -> Parity:
    """Runs both configs on the devices here, one after another, and compares them.

    Args:
      a, b: the checked experiments; their texts are not read.
      inputs: the parameters and the batch.
      tolerance: the bound, in deviations; None for that of the compute formats.

    Raises:
      UserError: for different parameters, and for a batch that one of them does not fit.
    """
    check_same_parameters(a.model, b.model)
    a, b = prepare_experiments(a, b, inputs)
    for experiment in (a, b):
        check_mesh(experiment, mesh_of(experiment))
        if unknown := set(experiment.objective.fields) - {"tokens", "targets", "weights"}:
            raise UserError(f"the objective reads {', '.join(sorted(unknown))}, which random tokens do not have")
    batch = random_batch(a, inputs)
    real_BT = batch["segment_ids"] > 0
    results, kernels = [], []
    for experiment, params in zip((a, b), shared_params(a, b, inputs), strict=True):
        with recorded_choices() as chosen:
            results.append(_run(experiment, params, batch, inputs.documents > 1))
        kernels.append(list(chosen))
    one, other = results
    bound, words = bound_of(a, b) if tolerance is None else (tolerance, "--tolerance")
    stream = [
        _difference(place, tensor, one.stream[place, tensor], other.stream[place, tensor], real_BT)
        for place, tensor in one.stream
    ]
    return Parity(
        bound=bound,
        bound_in_words=words,
        stream=stream,
        gradients=_gradient_differences(one.gradients, other.gradients),
        losses=(one.loss, other.loss),
        shape=(real_BT.shape[0], real_BT.shape[1]),
        kernels=(kernels[0], kernels[1]),
    )


def bound_of(a: Experiment, b: Experiment) -> tuple[float, str]:
    """The bound for the coarser of two compute formats on this platform, and its meaning in words."""
    platform = jax.default_backend()
    formats = [experiment.model.precision.compute for experiment in (a, b)]
    bits = {name: min(_BITS[name], _BITS_OF_PRODUCTS.get(platform, 23)) for name in formats}
    coarse = min(formats, key=bits.__getitem__)
    roundings = ROUNDINGS[coarse] if bits[coarse] == 23 else ROUNDINGS["bfloat16"]
    return roundings * 2.0 ** -bits[coarse], f"{roundings} x 2^-{bits[coarse]}, for {coarse} on a {platform}"


@dataclasses.dataclass(frozen=True)
class _Result:
    """What one config computed, on the host: the stream by place and tensor, gradients by place and name."""

    stream: dict[tuple[str, str], np.ndarray]
    gradients: dict[str, dict[str, np.ndarray]]
    loss: float


def _run(experiment: Experiment, params: Any, batch: Mapping[str, np.ndarray], with_segments: bool) -> _Result:
    mesh = mesh_of(experiment)
    layout = layout_of(mesh, experiment.sharding)
    placement = layout.placement(("batch", "sequence"))
    segments = with_segments or feed.needs_segments(experiment.data, experiment.model)
    placed = feed.to_devices(dict(batch), placement, experiment.data.batch_size, segments)
    whole = replicated(mesh)
    output = jax.device_get(
        jax.jit(_forward, static_argnums=(0, 1), out_shardings=whole)(experiment, layout, params, placed)
    )
    state_config = StateConfig.of(experiment)
    state = TrainState(
        step=jnp.int32(0),
        **partition_params(state_config, params)._asdict(),
        opt_state={},
        key=jax.random.key_data(jax.random.key(0)),
        guard=None,  # type: ignore[arg-type]  # the gradients need no guard
    )
    loss, grads = jax.device_get(
        jax.jit(_gradients, static_argnums=(0, 1), out_shardings=whole)(experiment, layout, state, placed)
    )
    stream = {("embedding", "stream"): output["embedding"]}
    stream |= {(f"layer {number}", "stream"): x for number, x in enumerate(output["block_output"])}
    stream |= {("final norm", "stream"): output["final_norm"], ("unembedding", "logits"): output["logits"]}
    known = specs_by_name(specs(experiment.model))
    gradients: dict[str, dict[str, np.ndarray]] = {}
    for part in sorted(
        by_layer(experiment.model, known, flatten(grads)), key=lambda part: _depth(part.place, part.layer)
    ):
        gradients.setdefault(part.place, {})[part.plain_name] = np.asarray(part.values, np.float32)
    return _Result({key: np.asarray(x, np.float32) for key, x in stream.items()}, gradients, float(loss))


def _depth(place: str, layer: int | None) -> tuple[int, int]:
    """The order of the parts of a model in its forward pass."""
    first = {"embedding": 0, "position": 0, "per_layer": 0}
    return (1, layer) if layer is not None and place.startswith("layer") else (first.get(place, 2), layer or 0)


def _forward(experiment: Experiment, layout: MeshLayout, params: Any, batch: Batch) -> dict[str, jax.Array]:
    output = forward(
        experiment.model,
        params,
        batch["tokens"],
        layout=layout,
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        consecutive_positions=True,
        taps=_STREAM,
    )
    return output.taps | {"logits": output.logits_BTV}


def _gradients(experiment: Experiment, layout: MeshLayout, state: TrainState, batch: Batch) -> tuple[jax.Array, Any]:
    sums, grads, _ = sums_and_grads(experiment, experiment.objective, layout, state, batch, ())
    return sums.loss, grads


def _gradient_differences(
    a: Mapping[str, Mapping[str, np.ndarray]], b: Mapping[str, Mapping[str, np.ndarray]]
) -> list[TensorDifference]:
    """The largest difference of each place."""
    found = []
    for place, of_a in a.items():
        each = [_difference(place, name, x, b[place][name], by_row=True) for name, x in of_a.items()]
        found.append(max(each, key=lambda difference: np.nan_to_num(difference.largest, nan=np.inf)))
    return found


def _difference(
    place: str,
    tensor: str,
    a: np.ndarray,
    b: np.ndarray,
    real_BT: np.ndarray | None = None,
    by_row: bool = False,
) -> TensorDifference:
    """One tensor of both; with `by_row` a number of a row larger than the others is measured by the row's own size."""
    if real_BT is not None:
        a, b = a[real_BT], b[real_BT]
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    deviation, largest = float(np.std(a.astype(np.float64))), float(difference.max(initial=0.0))
    typical = float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0
    if deviation == 0:  # one number, or equal ones: their size is the unit
        deviation = float(np.abs(a).max(initial=0.0))
    if largest == 0:
        return TensorDifference(place, tensor, 0.0, 0.0)
    unit = deviation or np.finfo(np.float64).tiny
    if by_row and a.ndim > 1:
        rows = np.sqrt(np.mean(a.astype(np.float64) ** 2, axis=-1, keepdims=True))
        return TensorDifference(place, tensor, float((difference / np.maximum(rows, unit)).max()), typical / unit)
    return TensorDifference(place, tensor, largest / unit, typical / unit)
