"""Products of activations with quantised matrices (model/parameters/quantized_weights.py).

Weights alone: the matrix is made in float32 and multiplied as any other, so that a model computes the same numbers as
with parameters that were rounded and stored in float32. GPUs and TPUs make it inside the product. On a CPU it is made
in blocks that stay in the cache: the memory is read in 8 bits.

In integers: y = s_x (x_1 W_1 s_1 + x_2 W_2 s_2 + ...) over groups of inputs, where x is round(x / s_x) with
s_x = max |x| / 127 of the token. Sums are exact in int32, so a row depends on no other.

On a CPU few rows are multiplied in integers too, since making the matrix takes several times as long as reading it;
x is then split into three digits of 8 bits, s_x (d_1 + d_2 / 254 + d_3 / 254^2), as exact as float32.
"""

import math

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.parameters import cpu_matmul
from model.parameters.quantized_weights import LARGEST, QuantizedMatrix, dequantize, scales_of

FEW_ROWS = 32  # on a CPU
BLOCK = 1 << 21  # numbers that stay in the cache
MOST_SUMS = 1 << 24  # numbers of the partial sums of all groups
BASE = 254.0  # of digits, each from -127 to 127
MATRIX_AXES = ("embed", "heads", "kv_heads", "ffn", "vocab", "expert")


def is_whole_on_cpu(layout: Layout) -> bool:
    """Returns whether a CPU has all rows and all matrices."""
    return cpu_matmul.applies_to(layout) and not any(layout.ways(axis) > 1 for axis in MATRIX_AXES)


def is_in_integers(x: jax.Array, w: QuantizedMatrix, layout: Layout, contract: int) -> bool:
    """Returns whether a product is computed in integers."""
    if w.activations == "int8":
        return True
    few = math.prod(x.shape[: x.ndim - contract]) <= FEW_ROWS
    return few and is_whole_on_cpu(layout) and w.values[...].dtype == jnp.int8


def integer_matmul(
    x: jax.Array, w: QuantizedMatrix, layout: Layout, contract: int, dtype: jax.typing.DTypeLike | None
) -> jax.Array:
    """Returns x w, computed in integers; see `matmul` of model/parameters/projections.py."""
    digits = 1 if w.activations == "int8" else 3
    lead, outputs = x.shape[: x.ndim - contract], w.shape[contract:]
    x_MK, w_KN = x.reshape(-1, math.prod(w.shape[:contract])).astype(jnp.float32), w.unpacked()
    tiles = w.layout.tiles[:contract]
    x_GMK = _groups(x_MK.T.reshape(*w.shape[:contract], -1), tiles).swapaxes(1, 2)
    w_GKN = _groups(w_KN.reshape(*w.shape[:contract], -1), tiles)
    scales_GN = w.scales[...].reshape(-1, math.prod(outputs))
    token_scale_M1 = scales_of(x_MK, -1, LARGEST["int8"])
    rest_GMK, rows = x_GMK / token_scale_M1, []
    for _ in range(digits):
        digit_GMK = jnp.round(rest_GMK)
        rows.append(digit_GMK.astype(jnp.int8))
        rest_GMK = (rest_GMK - digit_GMK) * BASE
    y_DMN = _scaled_sums(jnp.concatenate(rows, 1), w_GKN, scales_GN, layout).reshape(digits, *x_MK.shape[:1], -1)
    y_MN = y_DMN[-1]
    for digit in range(digits - 2, -1, -1):
        y_MN = y_DMN[digit] + y_MN * jnp.float32(1 / BASE)
    return (y_MN * token_scale_M1).astype(dtype or x.dtype).reshape(*lead, *outputs)


def _groups(x: jax.Array, tiles: tuple[int, ...]) -> jax.Array:
    """Returns an array (*inputs, N) by groups of inputs, (G, inputs of a group, N)."""
    sizes = [n for size, tile in zip(x.shape[:-1], tiles, strict=True) for n in (size // tile, tile)]
    order = [*range(0, len(sizes), 2), *range(1, len(sizes), 2)]
    counts = math.prod(sizes[::2])
    return x.reshape(*sizes, x.shape[-1]).transpose(*order, len(sizes)).reshape(counts, -1, x.shape[-1])


def _scaled_sums(x_GMK: jax.Array, w_GKN: jax.Array, scales_GN: jax.Array, layout: Layout) -> jax.Array:
    """Returns the sum over groups of the products of integers times their scales, (M, N) float32."""
    groups, rows, _ = x_GMK.shape
    padding = 1 if rows == 1 and layout.platform == "cpu" else 0  # a product of one row is slow there

    def product(x_MK: jax.Array, w_KN: jax.Array, scales_N: jax.Array) -> jax.Array:
        padded_MK = jnp.pad(x_MK, ((0, padding), (0, 0))) if padding else x_MK
        y_MN = jnp.einsum("mk,kn->mn", padded_MK, w_KN, preferred_element_type=jnp.int32)
        y_MN = jax.lax.optimization_barrier(y_MN)[:rows] if padding else y_MN
        return y_MN.astype(jnp.float32) * scales_N

    if groups == 1:
        return product(x_GMK[0], w_GKN[0], scales_GN[0])
    if groups * rows * w_GKN.shape[-1] <= MOST_SUMS:
        return jnp.sum(jax.vmap(product)(x_GMK, w_GKN, scales_GN), 0)
    start = jnp.zeros((rows, w_GKN.shape[-1]), jnp.float32)
    return jax.lax.scan(lambda y, group: (y + product(*group), None), start, (x_GMK, w_GKN, scales_GN))[0]


def blocks(w: QuantizedMatrix, layout: Layout) -> list[jax.Array]:
    """Returns the matrix, float32, in blocks of its last axis; a whole one where it is small, or not on a CPU."""
    if not is_whole_on_cpu(layout):
        return [w[...]]
    values, scales, width = w.unpacked(), w.scales[...], w.shape[-1]
    size = max(1, min(width, BLOCK // max(1, math.prod(w.shape[:-1]))))
    cuts = [(start, min(start + size, width)) for start in range(0, width, size)]
    # Inside the product the compiler would make each number once for every row.
    return [
        jax.lax.optimization_barrier(dequantize(values[..., start:stop], scales[..., start:stop]))
        for start, stop in cuts
    ]
