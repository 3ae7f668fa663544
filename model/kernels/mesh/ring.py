"""Ring attention: queries and keys are split along the sequence, and keys and values travel from device to device.

Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite Context", section 3. Each device keeps
its queries. In every step it adds the keys and values that it holds to the sums of its queries (the online softmax of
tiles.py), and sends them to the next device. In the backward pass they travel once more, followed by their gradients,
which make a last hop home. No device holds the keys of a whole sequence.

A device computes no tile whose queries see none of its keys by index. Where a window ends the reach of queries, keys
make only as many hops as it reaches. In a causal order the first device sees only its own keys, and the last device
sees all: while the last one computes, the others wait. With `chunks` = 2, device i of n takes chunks i and 2 n - 1 - i
of the sequence (Llama Team 2024, "The Llama 3 Herd of Models", section 3.3.2), and all devices have as many tiles to
compute in every step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility
from model.kernels.xla.blocks import sink_gradient
from model.kernels.xla.tiles import Sums, TileSizes, Tiling, empty_sums, gradient_of_sums, normalised, sum_dtype

MAX_TILE, MIN_TILE = 512, 64


@dataclasses.dataclass(frozen=True)
class Ring:
    """The steps of a ring.

    Attributes:
      mesh_axes: the mesh axes whose devices, in order, form the ring.
      ways: the number of devices.
      first: the first step has the keys of the device `first` places before.
      steps: the number of steps; each has the keys of the next device before.
      chunks: 1, or 2 if a device has a chunk from the start of the sequence and one from its end.
    """

    mesh_axes: tuple[str, ...]
    ways: int
    first: int
    steps: int
    chunks: int = 1

    def permute(self, x: Any, hops: int) -> Any:
        """Sends arrays to the device `hops` places after."""
        pairs = [(i, (i + hops) % self.ways) for i in range(self.ways)]
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, self.mesh_axes, pairs), x) if hops % self.ways else x

    def start(self, device: jax.Array, chunk: int | jax.Array, size: int) -> jax.Array:
        """Returns the index of the first token of a chunk of a device, where chunks have `size` tokens."""
        if self.chunks == 1:
            return device * size
        return jnp.where(chunk == 0, device, 2 * self.ways - 1 - device) * size

    def source(self, number: int | jax.Array) -> jax.Array:
        """Returns the device whose keys this device holds in a step."""
        return (jax.lax.axis_index(self.mesh_axes) - self.first - number) % self.ways


def steps_of(visibility: Visibility, ways: int, length: int) -> tuple[int, int]:
    """Returns the first place and the number of the devices whose keys any query may see; see `Ring`.

    Args:
      visibility: of the whole sequence.
      ways: the number of devices.
      length: the number of tokens of a device.
    """
    if not visibility.indices_are_consecutive or visibility.reach is None:
        return 0, ways
    before = -(-(visibility.reach - 1) // length)
    after = 0 if visibility.is_causal else before
    return (0, ways) if before + after + 1 >= ways else (-after, before + after + 1)


def attend_in_ring(
    ring: Ring,
    scoring: Scoring,
    rate: float,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink_N: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    """Returns the outputs (B, T, N, H) of this device's queries, inside `shard_map`.

    Args:
      ring: the steps.
      scoring: how scores are computed.
      rate: the share of weights that is dropped if there is a key.
      q_BTNH, k_BSKH, v_BSKH: queries, keys and values of this device.
      visibility: of the whole sequence.
      bias, sink_N, dropout_keys: the bias, the sinks and the dropout keys of this device.
    """
    q_BTNH, k_BSKH, v_BSKH = (to_chunks(ring, x) for x in (q_BTNH, k_BSKH, v_BSKH))
    q_BKGTH = scoring.scale_and_group(q_BTNH, k_BSKH.shape[2])
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    sink_KG = None if sink_N is None else sink_N.reshape(q_BKGTH.shape[1:3])
    y_BKGTH = _attend(_Plan(ring, scoring, rate), q_BKGTH, k_BKSH, v_BKSH, visibility, bias, sink_KG, dropout_keys)
    (b, t, n, _), width = q_BTNH.shape, v_BSKH.shape[-1]
    return from_chunks(ring, y_BKGTH.reshape(b, n, t, width).swapaxes(1, 2))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The constants of a ring: its steps, the computation of scores, and the rate of dropout."""

    ring: Ring
    scoring: Scoring
    rate: float

    def for_each_pair(
        self,
        function: Callable[[Any, jax.Array, jax.Array, Tiling], Any],
        carry: Any,
        q: jax.Array,
        keys: Any,
        visibility: Visibility,
        dropout_keys: jax.Array | None,
        source: jax.Array,
    ) -> Any:
        """Runs `function` on each pair of a chunk of queries and a chunk of the keys of device `source`.

        `function` gets the carry, the first places of both chunks on their devices, and the tiling of the pair.
        """
        (k, v), chunks, index = keys, self.ring.chunks, jax.lax.axis_index(self.ring.mesh_axes)
        t, s = q.shape[3] // chunks, k.shape[2] // chunks
        sizes = TileSizes(_tile(t), _tile(s), s)

        def pair(carry: Any, number: jax.Array) -> tuple[Any, None]:
            of_query, of_key = number // chunks, number % chunks
            first_query, first_key = self.ring.start(index, of_query, t), self.ring.start(source, of_key, s)
            k_b, v_b = (_part(x, of_key * s, s) for x in (k, v))
            seen = visibility.sliced(first_query, t, first_key, s)
            tiling = Tiling(self.scoring, self.rate, sizes, k_b, v_b, seen, dropout_keys)
            return function(carry, of_query * t, of_key * s, tiling), None

        if chunks == 1:
            return pair(carry, jnp.int32(0))[0]
        return jax.lax.scan(pair, carry, jnp.arange(chunks**2))[0]


def _part(x: jax.Array, start: jax.Array, count: int) -> jax.Array:
    """Returns `count` tokens; the axis of tokens is the second last."""
    return jax.lax.dynamic_slice_in_dim(x, start, count, axis=x.ndim - 2)


def _put(x: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    """Inverts `_part`."""
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, axis=x.ndim - 2)


def _tile(length: int) -> int:
    """Returns the size of tiles: the largest one that divides a length, or the length if only small ones do."""
    size = max(size for size in range(1, min(MAX_TILE, length) + 1) if length % size == 0)
    return size if size >= MIN_TILE else length


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan,
    q_BKGTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink_KG: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    return _forward(plan, q_BKGTH, k_BKSH, v_BKSH, visibility, bias, sink_KG, dropout_keys)[0]


def _forward(
    plan: _Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    ring = plan.ring

    def add_keys(keys: Any, sums: Sums, number: int | jax.Array) -> Sums:
        def add_pair(sums: Sums, query: jax.Array, _: jax.Array, tiling: Tiling) -> Sums:
            count = tiling.visibility.queries.count
            before = jax.tree.map(lambda x: _part(x, query, count), sums)
            after = _add_keys(tiling, _part(q, query, count), bias, before)
            return jax.tree.map(lambda x, part: _put(x, part, query), sums, after)

        return plan.for_each_pair(add_pair, sums, q, keys, visibility, dropout_keys, ring.source(number))

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        keys, sums = carry
        return (ring.permute(keys, 1), add_keys(keys, sums, number)), None  # the next keys travel meanwhile

    keys, sums = ring.permute((k, v), ring.first), empty_sums(plan.scoring, q.shape[:4], v.shape[-1], sink)
    if ring.steps > 1:
        (keys, sums), _ = jax.lax.scan(step, (keys, sums), jnp.arange(ring.steps - 1))
    sums = add_keys(keys, sums, ring.steps - 1)
    y = normalised(sums, v.dtype)
    return y, (q, k, v, visibility, bias, sink, dropout_keys, y, sums.row_max, sums.row_sum)


def _backward(plan: _Plan, residuals: tuple[Any, ...], dy: jax.Array) -> tuple[Any, ...]:
    q, k, v, visibility, bias, sink, dropout_keys, y, row_max, row_sum = residuals
    ring, dtype = plan.ring, sum_dtype(plan.scoring)
    dy, delta = gradient_of_sums(y, row_sum, dy)

    def add_gradients(keys: Any, sums: Any, number: int | jax.Array) -> tuple[Any, Any]:
        """Returns the gradients of these keys and values, and adds those of queries and bias to `sums`."""

        def add_pair(carry: Any, query: jax.Array, first_key: jax.Array, tiling: Tiling) -> Any:
            dkeys, (dq, dbias) = carry
            queries, count = tiling.visibility.queries.count, tiling.visibility.keys.count
            q_a, row_max_a, delta_a, dy_a = (_part(x, query, queries) for x in (q, row_max, delta, dy))
            before = (*(_part(x, first_key, count) for x in dkeys), dbias)
            dq_a, (*after, dbias) = tiling.gradients(q_a, bias, row_max_a, delta_a, dy_a, before, dtype)
            dkeys = tuple(_put(x, part, first_key) for x, part in zip(dkeys, after, strict=True))
            return dkeys, (_put(dq, _part(dq, query, queries) + dq_a, query), dbias)

        carry = tuple(jnp.zeros(x.shape, dtype) for x in keys), sums
        return plan.for_each_pair(add_pair, carry, q, keys, visibility, dropout_keys, ring.source(number))

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        keys, dkeys, sums = carry
        next_keys, dkeys = ring.permute((keys, dkeys), 1)  # both travel while the gradients of these keys are computed
        own, sums = add_gradients(keys, sums, number)
        return (next_keys, jax.tree.map(jnp.add, dkeys, own), sums), None

    keys, last = ring.permute((k, v), ring.first), ring.steps - 1
    dkeys, sums = add_gradients(keys, (jnp.zeros(q.shape, dtype), jax.tree.map(jnp.zeros_like, bias)), 0)
    if last:
        (_, dkeys, sums), _ = jax.lax.scan(step, (ring.permute(keys, 1), dkeys, sums), jnp.arange(1, last + 1))
    dk, dv = ring.permute(dkeys, -(ring.first + last))
    (dq, dbias), dsink = sums, sink_gradient(sink, row_max, delta)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dbias, dsink, None


_attend.defvjp(_forward, _backward)


def _add_keys(tiling: Tiling, q: jax.Array, bias: Bias | None, sums: Sums) -> Sums:
    """Adds the keys of a tiling to the sums of queries, tile by tile of the queries."""
    size = tiling.sizes.queries
    split = lambda x: jnp.moveaxis(x.reshape(*x.shape[:3], -1, size, x.shape[-1]), 3, 0)  # noqa: E731
    join = lambda x, like: jnp.moveaxis(x, 0, 3).reshape(like.shape)  # noqa: E731

    def tile(inputs: tuple[jax.Array, Sums]) -> Sums:
        i, sums_i = inputs
        return tiling.add_keys(tiling.queries(q, i), bias, i, sums_i)

    added = jax.lax.map(tile, (jnp.arange(q.shape[3] // size), jax.tree.map(split, sums)))
    return jax.tree.map(join, added, sums)


# ------------------------------------------------------------------------------------------------- balanced chunks


def to_chunks(ring: Ring, x_BTNH: jax.Array) -> jax.Array:
    """Returns chunks i and 2 n - 1 - i of the sequence on device i of n, in place of chunks 2 i and 2 i + 1."""
    if ring.chunks == 1:
        return x_BTNH
    even, odd = (
        jax.lax.ppermute(x, ring.mesh_axes, pairs)
        for x, pairs in zip(jnp.split(x_BTNH, 2, axis=1), _exchange(ring.ways), strict=True)
    )
    is_even = jax.lax.axis_index(ring.mesh_axes) % 2 == 0
    return jnp.concatenate([jnp.where(is_even, even, odd), jnp.where(is_even, odd, even)], axis=1)


def from_chunks(ring: Ring, x_BTNH: jax.Array) -> jax.Array:
    """Inverts `to_chunks`."""
    if ring.chunks == 1:
        return x_BTNH
    start, end = jnp.split(x_BTNH, 2, axis=1)
    is_even = jax.lax.axis_index(ring.mesh_axes) % 2 == 0
    halves = jnp.where(is_even, start, end), jnp.where(is_even, end, start)
    back = [
        jax.lax.ppermute(x, ring.mesh_axes, [(to, source) for source, to in pairs])
        for x, pairs in zip(halves, _exchange(ring.ways), strict=True)
    ]
    return jnp.concatenate(back, axis=1)


def _exchange(ways: int) -> tuple[list[tuple[int, int]], ...]:
    """Returns for the even and for the odd chunks (source, destination): chunk c lies on device c // 2 before."""
    destination = lambda chunk: chunk if chunk < ways else 2 * ways - 1 - chunk  # noqa: E731
    return tuple([(device, destination(2 * device + odd)) for device in range(ways)] for odd in (0, 1))
