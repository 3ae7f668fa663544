"""Matrices of few bits, for inference: values of 8 or 4 bits, and a float32 scale for each output or group of inputs.

A group of n inputs of an output shares the scale s = max |w| / q, where q is 127 for int8, 7 for int4 and 448 for
float8 (E4M3); its values are round(w / s), so an entry is off by at most s / 2 in integers, and in float8 by at most
1/16 of itself or s / 1024. Zero stays zero (symmetric quantisation: Nagel et al. 2021, "A White Paper on Neural Network
Quantization", section 2.2; groups: Shen et al. 2020, "Q-BERT", section 3.2).

Two values of int4 share a byte: byte j holds the inputs 2j (its low half) and 2j + 1. `QuantizedMatrix` takes the place
of the parameter; `weight[...]` is its matrix in float32 wherever a model uses it, and products need not make it
(model/parameters/quantized_matmul.py).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.parameters.specs import Spec, StoredFormat

LARGEST: dict[StoredFormat, float] = {"int8": 127.0, "int4": 7.0, "packed_int4": 7.0, "float8": 448.0}
SMALLEST_SCALE = 2.0**-126  # float32 has no smaller normal number
GROUPS = (16, 256)  # inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """The format of the matrices inside the layers and of a separate unembedding; such a model cannot be trained.

    Embeddings, norms, biases, routers and convolutions keep the format `Precision.parameters`.

    Attributes:
      format: of the values: 8-bit integers, 4-bit integers, or 8-bit floats (E4M3).
      group: consecutive inputs of an output that share a scale; None for all inputs. Where it does not divide the
        inputs of a matrix, the next smaller number that does is taken for that matrix.
      activations: "int8" rounds each token's activations to 8 bits, with a scale for each token, and multiplies
        integers; "compute" leaves them as they are.
    """

    format: Literal["int8", "int4", "float8"] = "int8"
    group: int | None = None
    activations: Literal["compute", "int8"] = "compute"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.group is not None and not GROUPS[0] <= self.group <= GROUPS[1]:
            yield "group", f"must be from {GROUPS[0]} to {GROUPS[1]} inputs, or None for all, got {self.group}"
        if self.format == "float8" and self.activations != "compute":
            yield "activations", f"'{self.activations}' multiplies integers, and the weights are float8; use 'compute'"

    @property
    def text(self) -> str:
        """Returns it in the words of `launch.convert --quantize`, such as "int4:64"."""
        return self.format + ("" if self.group is None else f":{self.group}")


def applies_to(spec: Spec) -> bool:
    """Returns whether a parameter is one of the matrices that are quantised."""
    return spec.traits.quantized and bool(spec.inputs and spec.outputs)


def tiles_of(sizes: tuple[int, ...], group: int | None) -> tuple[int, ...]:
    """Returns the part of each input axis that a group covers, for input axes of these sizes.

    The group is the largest of at most `group` inputs that are consecutive, the last axis first, and divide the inputs.
    """
    if group is None or group >= math.prod(sizes):
        return sizes
    for inputs in range(group, 0, -1):
        tiles, rest = [], inputs
        for size in reversed(sizes):
            tile = min(rest, size)
            if size % tile or rest % tile:
                break
            tiles.append(tile)
            rest //= tile
        else:
            return tuple(reversed(tiles))
    raise AssertionError("groups of one input divide every matrix")


@dataclasses.dataclass(frozen=True)
class MatrixLayout:
    """The shapes and specs of a quantised matrix.

    Attributes:
      spec: the spec that the matrix would have.
      shape: its shape.
      option: the option.
    """

    spec: Spec
    shape: tuple[int, ...]
    option: QuantizedWeights

    @property
    def tiles(self) -> tuple[int, ...]:
        """The part of each axis that shares a scale."""
        inputs = tiles_of(tuple(self.shape[axis] for axis in self.spec.inputs), self.option.group)
        by_axis = dict(zip(self.spec.inputs, inputs, strict=True))
        return tuple(by_axis.get(axis, 1) for axis in range(len(self.shape)))

    @property
    def packed_axis(self) -> int:
        """The axis of whose indices two share a byte."""
        return self.spec.inputs[-1]

    @property
    def format(self) -> StoredFormat:
        """The format as stored: an odd number of inputs is not packed."""
        packs = self.option.format == "int4" and self.shape[self.packed_axis] % 2 == 0
        return "packed_int4" if packs else self.option.format

    def specs(self) -> tuple[Spec, Spec]:
        """Returns the specs of values and scales."""
        spec = self.spec
        counts = [size // tile for size, tile in zip(self.shape, self.tiles, strict=True)]
        axes = tuple(
            None if count == 1 or name is None else f"{name}_groups" if axis in spec.inputs else name
            for axis, (name, count) in enumerate(zip(spec.axes, counts, strict=True))
        )
        values = dataclasses.replace(spec, format=self.format, initializer=None, products="compute")
        return values, Spec(role="quantization_scale", axes=axes, inputs=(), outputs=())


def quantize(w: jax.Array, layout: MatrixLayout) -> tuple[jax.Array, jax.Array]:
    """Returns the values and the scales of a matrix of finite numbers, by the equations above."""
    largest, tiles = LARGEST[layout.format], layout.tiles
    counts = tuple(size // tile for size, tile in zip(w.shape, tiles, strict=True))
    split = w.astype(jnp.float32).reshape([n for pair in zip(counts, tiles, strict=True) for n in pair])
    within = tuple(range(1, 2 * w.ndim, 2))
    scales = scales_of(split, within, largest)
    values = (split / scales).reshape(w.shape)
    if layout.option.format == "float8":
        return jnp.clip(values, -largest, largest).astype(jnp.float8_e4m3fn), scales.reshape(counts)
    integers = jnp.clip(jnp.round(values), -largest, largest).astype(jnp.int8)
    return (pack(integers, layout.packed_axis) if layout.format == "packed_int4" else integers), scales.reshape(counts)


def scales_of(x: jax.Array, axes: int | tuple[int, ...], largest: float) -> jax.Array:
    """Returns max |x| / largest over these axes, which stay with size 1; or 1 where that is 0 or no normal number."""
    # Times a constant, since XLA may replace a division by a constant with that, which rounds differently.
    scales = jnp.max(jnp.abs(x), axes, keepdims=True) * jnp.float32(1 / largest)
    return jnp.where(scales >= SMALLEST_SCALE, scales, 1.0)


def pack(x: jax.Array, axis: int) -> jax.Array:
    """Returns integers from -8 to 7, two to a byte along an axis of even size, int8."""
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    low, high = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return (low & 15) | (high << 4)


def unpack(x: jax.Array, axis: int) -> jax.Array:
    """Inverts `pack`."""
    pairs = jnp.stack([(x << 4) >> 4, x >> 4], axis + 1)  # shifts to the right repeat the sign
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def dequantize(values: jax.Array, scales: jax.Array) -> jax.Array:
    """Returns values times their scales, float32; values are not packed."""
    shape = [n for size, count in zip(values.shape, scales.shape, strict=True) for n in (count, size // count)]
    factors = scales.reshape([n for count in scales.shape for n in (count, 1)])
    return (values.astype(jnp.float32).reshape(shape) * factors).reshape(values.shape)


class QuantizedMatrix(nnx.Module):
    """Takes the place of the parameter of a matrix."""

    def __init__(self, values: jax.Array, scales: jax.Array, layout: MatrixLayout) -> None:
        """Args: values and scales of `quantize`, and their layout."""
        of_values, of_scales = layout.specs()
        self.values, self.scales = nnx.Param(values, spec=of_values), nnx.Param(scales, spec=of_scales)
        self.layout = layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        return self.layout.shape

    @property
    def activations(self) -> str:
        """The format of activations in products: "compute" or "int8"."""
        return self.layout.option.activations

    def unpacked(self) -> jax.Array:
        """Returns the values, one to a number."""
        values: jax.Array = self.values[...]
        return values if values.shape == self.shape else unpack(values, self.layout.packed_axis)

    def __getitem__(self, index: Any) -> jax.Array:
        """Returns the matrix, float32."""
        return dequantize(self.unpacked(), self.scales[...])[index]


def fast_to_read(params: Any, specs: Any) -> Any:
    """Returns the same numbers with values that a CPU converts fast: int8 for int4, bfloat16 for float8.

    XLA on a CPU takes several times as long to unpack int4, or to convert float8, as to multiply with the result
    (tests/benchmarks/README.md).
    """

    def convert(x: jax.Array, spec: Spec) -> jax.Array:
        if spec.format == "packed_int4":
            return unpack(x, spec.inputs[-1])
        return x.astype(jnp.bfloat16) if spec.format == "float8" else x

    return jax.tree.map(convert, params, specs)
