"""Expert parallelism without drops: tokens travel to the devices that hold their experts, and back, in rounds.

Lepikhin et al. 2020, "GShard", section 3.2, sends tokens by all-to-all. There a device takes a fixed number of tokens
and drops the others; here the others wait for the next round. In one round a device sends at most C rows to each
device, and gets at most N C rows from all N, whatever the routing: C = ceil(SPARE * rows / devices with experts). There
are as many rounds as the largest load needs: one if loads are about equal, at most rows / C if all tokens of a device
go to the same device. The backward pass sends the rows again and computes the experts again, so that no array of the
forward pass is kept but the rows.

`jax.lax.ragged_all_to_all` would save the sending of empty places. It needs a buffer for the largest load, or rounds as
here, and a CPU has none.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.feedforward.placement import Placement, gather, sum_and_scatter
from model.layout import vary

# The rows that a device takes in one round, in multiples of those that it would get if all loads were equal.
SPARE = 1.25

# run(params, rows, expert of each row, rows of each expert): the outputs of the E experts on rows sorted by expert; the
# expert of an empty row is E, and its output is 0.
RunExperts = Callable[[dict[str, jax.Array], jax.Array, jax.Array, jax.Array], jax.Array]


def places(rows: int, devices: int) -> int:
    """Returns C for the rows of a device whose experts are on so many devices."""
    return min(rows, math.ceil(SPARE * rows / devices))


def rounds_needed(sizes_NE: jax.Array, capacity: int) -> jax.Array:
    """Returns the number of rounds in which a device has sent all its rows."""
    return jnp.max((jnp.sum(sizes_NE, axis=1) + capacity - 1) // capacity)


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The rows of each round. N devices exchange rows; E is the number of experts of each.

    Attributes:
      names: the mesh axes of the devices.
      capacity: C.
      sizes_NE: the rows here for each device and expert; rows are sorted by both.
      received_NE: the rows that each device has for the experts here.
    """

    names: tuple[str, ...]
    capacity: int
    sizes_NE: jax.Array
    received_NE: jax.Array

    def sent(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the indices of the rows sent in round i, and whether there is such a row, both (N, C)."""
        count_N = jnp.sum(self.sizes_NE, axis=1)
        start_N = jnp.cumsum(count_N) - count_N
        place_C = i * self.capacity + jnp.arange(self.capacity, dtype=jnp.int32)
        return start_N[:, None] + place_C, place_C < count_N[:, None]

    def arrived_sizes(self, i: jax.Array) -> jax.Array:
        """Returns how many rows for each expert each device sends here in round i, (N, E)."""
        end_NE = jnp.cumsum(self.received_NE, axis=1)
        first, last = i * self.capacity, (i + 1) * self.capacity
        return jnp.clip(end_NE, first, last) - jnp.clip(end_NE - self.received_NE, first, last)

    def apply(self, run: RunExperts, i: jax.Array, params: dict[str, jax.Array], sent_NCD: jax.Array) -> jax.Array:
        """Sends the rows of round i, applies the experts, and returns the outputs that come back."""
        sizes_NE = self.arrived_sizes(i)
        x_MD = self._exchange(sent_NCD).reshape(-1, sent_NCD.shape[-1])
        end_NE, place_C = jnp.cumsum(sizes_NE, axis=1), jnp.arange(self.capacity, dtype=jnp.int32)
        # An empty place has expert E, and comes last.
        expert_M = jnp.sum(place_C[:, None] >= end_NE[:, None], axis=-1, dtype=jnp.int32).reshape(-1)
        order_M = jnp.argsort(expert_M, stable=True)
        y_MD = run(params, x_MD[order_M], expert_M[order_M], jnp.sum(sizes_NE, axis=0))
        return self._exchange(y_MD[jnp.argsort(order_M)].reshape(sent_NCD.shape))

    def _exchange(self, x_NCD: jax.Array) -> jax.Array:
        """Sends part n to device n."""
        return jax.lax.all_to_all(x_NCD, self.names, 0, 0, tiled=True)


def apply_in_rounds(
    run: RunExperts, placement: Placement, params: dict[str, jax.Array], rows_MD: jax.Array, sizes_NE: jax.Array
) -> jax.Array:
    """Returns the outputs of the experts for rows of this device; runs inside `shard_map`.

    Args:
      run: the experts of one device.
      placement: where experts and tokens are.
      params: this device's shards of the parameters.
      rows_MD: rows, sorted by device and expert; those after the last group have no output.
      sizes_NE: the number of rows for each device and expert.

    Returns:
      (M, D); rows without an output are 0.
    """
    names, dtype, varying = placement.exchange_axes, rows_MD.dtype, placement.mesh_axes
    capacity = places(len(rows_MD), placement.experts.ways)
    received_NE = jax.lax.all_to_all(sizes_NE, names, 0, 0, tiled=True)
    # All devices make equally many rounds, or some would wait for others for ever.
    count = jax.lax.pmax(rounds_needed(sizes_NE, capacity), varying)
    formats = {name: p.dtype for name, p in params.items()}

    def gather_all(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: gather(p, placement.gathered[name], dtype) for name, p in params.items()}

    def widen(whole: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns parameters in their own formats, which their gradients have; each product rounds them again."""
        return {name: p.astype(formats[name]) for name, p in whole.items()}

    def over_rounds(count: jax.Array, body: Callable[[jax.Array, Any], Any], start: Any) -> Any:
        step = lambda state: (state[0] + 1, body(*state))  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0] < count, step, (jnp.int32(0), vary(start, varying)))[1]

    def read(x_MD: jax.Array, index_NC: jax.Array, real_NC: jax.Array) -> jax.Array:
        return jnp.where(real_NC[..., None], x_MD.at[index_NC].get(mode="clip"), 0)

    def write(x_MD: jax.Array, index_NC: jax.Array, real_NC: jax.Array, value_NCD: jax.Array) -> jax.Array:
        return x_MD.at[jnp.where(real_NC, index_NC, len(x_MD))].set(value_NCD, mode="drop")

    @jax.custom_vjp
    def all_rounds(params: dict[str, jax.Array], x_MD: jax.Array, sizes: Any, count: jax.Array) -> jax.Array:
        rounds, whole = Rounds(names, capacity, *sizes), gather_all(params)

        def body(i: jax.Array, y_MD: jax.Array) -> jax.Array:
            here = rounds.sent(i)
            return write(y_MD, *here, rounds.apply(run, i, widen(whole), read(x_MD, *here)))

        return over_rounds(count, body, jnp.zeros_like(x_MD))

    def backward(residuals: Any, dy_MD: jax.Array) -> Any:
        params, x_MD, sizes, count = residuals
        rounds, whole = Rounds(names, capacity, *sizes), gather_all(params)

        def body(i: jax.Array, sums: Any) -> Any:
            dparams, dx_MD = sums
            here = rounds.sent(i)
            _, pull = jax.vjp(functools.partial(rounds.apply, run, i), widen(whole), read(x_MD, *here))
            more, dx_NCD = pull(read(dy_MD, *here))
            return jax.tree.map(jnp.add, dparams, more), write(dx_MD, *here, dx_NCD)

        start = jax.tree.map(jnp.zeros_like, (widen(whole), x_MD))
        dparams, dx_MD = over_rounds(count, body, start)
        return {n: sum_and_scatter(dp, placement.gathered[n]) for n, dp in dparams.items()}, dx_MD, None, None

    all_rounds.defvjp(lambda *inputs: (all_rounds(*inputs), inputs), backward)
    return all_rounds(params, rows_MD, (sizes_NE, received_NE), count)
