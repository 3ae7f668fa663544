"""Common parts of recurrent mixers, which carry a state of fixed size from token to token in place of attention.

There are two kinds of state. A *memory* is a matrix for every head: keys write values into it, and queries read it.
With a decay a_t for each token it is S_t = a_t S_(t-1) + k_t u_t^T, and a query reads y_t = S_t^T q_t. Tokens are
processed in chunks: within a chunk by sums over pairs of tokens, from chunk to chunk by the memory alone. Hua et al.
2022, "Transformer Quality in Linear Time", section 3.2; Yang et al. 2023, "Gated Linear Attention", section 2. A
*hidden vector* is a function of the hidden vector before it (LSTM, GRU), so that tokens are processed one by one.

Additional axis letters: P the width of a value, Z chunks, C and S tokens of one chunk.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.context import Context
from model.interfaces import MixerOption
from model.layout import Layout
from model.positions.absolute import Position


class RecurrentOption(MixerOption):
    """The base class of the options of recurrent mixers, which carry a state and have no attention."""

    num_heads: int
    head_dim: int | None

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields fields that clash with a model width, by path."""
        if self.num_heads >= 1 and width >= 1 and self.head_dim is None and width % self.num_heads:
            yield (
                f"{path}.num_heads",
                f"{self.num_heads} heads do not divide width={width}; change one of them, or set {path}.head_dim",
            )

    def head_width(self, width: int) -> int:
        """Returns H at a model width, also if `head_dim` is None."""
        return width // self.num_heads if self.head_dim is None else self.head_dim

    def sizes_below_one(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yields the fields among `names` that are below 1; None is allowed."""
        for name in names:
            size = getattr(self, name)
            if size is not None and size < 1:
                yield name, f"must be at least 1, got {size}"


@struct.dataclass
class RecurrentState:
    """The state that one layer carries from token to token: arrays (B, N, ...) by name.

    It is float32 whatever the dtype of activations, because it is a sum over all tokens so far.
    """

    arrays: dict[str, jax.Array]

    def sharded(self, layout: Layout) -> "RecurrentState":
        """Returns the state, laid out over the mesh."""
        constrain = lambda x: layout.constrain(x, ("batch", "heads", *[None] * (x.ndim - 2)))  # noqa: E731
        return RecurrentState({name: constrain(x) for name, x in self.arrays.items()})


def empty_state(**shapes: tuple[int, ...]) -> RecurrentState:
    """Returns the state before the first token."""
    return RecurrentState({name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()})


def mask_padding(x_BT: jax.Array, context: Context) -> jax.Array:
    """Returns x (B, T, ...) with zeros for padding, so that it writes nothing."""
    if context.real_BT is None:
        return x_BT
    return jnp.where(context.real_BT.reshape(*context.real_BT.shape, *[1] * (x_BT.ndim - 2)), x_BT, 0)


# ------------------------------------------------------------------------------------------------ hidden vectors


def scan_tokens(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any, context: Context
) -> tuple[Any, Any]:
    """Applies a step to each token in turn; resets the state at the start of a document, and skips padding.

    Args:
      step: maps the state and the input of one token (B, ...) to the next state and an output.
      state: arrays (B, ...) before the first token.
      inputs: arrays (B, T, ...).
      context: the context of the layer.

    Returns:
      The state after the last real token, and the outputs (B, T, ...).
    """
    segment_ids_BT = context.segment_ids_BT
    first_BT = None if segment_ids_BT is None else jnp.diff(segment_ids_BT, prepend=segment_ids_BT[:, :1]) != 0

    def step_token(state: Any, token: Any) -> Any:
        inputs, first_B, real_B = token
        before = state if first_B is None else _select_rows(~first_B, state, jax.tree.map(jnp.zeros_like, state))
        after, output = step(before, inputs)
        return after if real_B is None else _select_rows(real_B, after, state), output

    by_token = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (inputs, first_BT, context.real_BT))
    state, outputs = jax.lax.scan(step_token, state, by_token)
    return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)


def run_recurrent_units(
    step: Callable[[Any, Any], tuple[Any, Any]],
    gates_BTGNH: jax.Array,
    state: RecurrentState | None,
    empty: RecurrentState,
    context: Context,
) -> tuple[jax.Array, RecurrentState | None]:
    """Runs recurrent units over the tokens by `scan_tokens`; every output of a step is a tap.

    Args:
      step: maps the state and the gates of one token to the next state and a dict of outputs, with "hidden" in it.
      gates_BTGNH: the part of the gates that comes from the inputs, for all tokens.
      state: the state to continue from; None to start from `empty` and return no state.
      empty: the state before the first token.
      context: the context of the layer.

    Returns:
      The hidden vectors (B, T, N, H), and the state after them.
    """
    gates_BTGNH = context.shard(gates_BTGNH, ("batch", "query_sequence", None, "heads", "head_dim"))
    after, outputs = scan_tokens(step, (state or empty).arrays, gates_BTGNH, context)
    for name, value in outputs.items():
        context.offer(name, functools.partial(jnp.asarray, value))
    return outputs["hidden"], None if state is None else RecurrentState(after)


def _select_rows(condition_B: jax.Array, chosen: Any, others: Any) -> Any:
    """Takes each row from the tree `chosen` where the condition is true, else from `others`."""
    pick = lambda a, b: jnp.where(condition_B.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, chosen, others)


# ------------------------------------------------------------------------------------------------------- memories


@struct.dataclass
class ChunkDecays:
    """Products of decays in each chunk: the share that is left of earlier writes; 0 across a document border.

    Attributes:
      pairwise_ZBNCS: the share, at token C, of the value that token S wrote; S = C included, 0 for S after C.
      from_start_ZBNC: the share, at token C, of the memory before the chunk.
      to_end_ZBNC: the share, at the end of the chunk, of the value that token C wrote.
      total_ZBN: the share, at the end of the chunk, of the memory before the chunk.
    """

    pairwise_ZBNCS: jax.Array
    from_start_ZBNC: jax.Array
    to_end_ZBNC: jax.Array
    total_ZBN: jax.Array


def split_chunks(x_BTN: jax.Array, size: int, mode: str = "constant") -> jax.Array:
    """Reshapes (B, T, N, ...) to (Z, B, N, C, ...), with tokens added at the end to fill the last chunk."""
    batch, length, *rest = x_BTN.shape
    x_BTN = jnp.pad(x_BTN, [(0, 0), (0, -length % size), *[(0, 0)] * len(rest)], mode=mode)
    return jnp.moveaxis(x_BTN.reshape(batch, -1, size, *rest), (1, 3), (0, 2))


def chunk_decays(log_decay_BTN: jax.Array, size: int, context: Context) -> ChunkDecays:
    """Returns the decays of chunks of tokens, from the logarithm of each token's decay; padding does not decay."""
    log_ZBNC = split_chunks(mask_padding(log_decay_BTN, context), size)
    causal_CS = jnp.tril(jnp.ones((size, size), bool))
    segment_ids_BT = context.segment_ids_BT
    if segment_ids_BT is None:
        sums_ZBNC, visible_CS, always = jnp.cumsum(log_ZBNC, axis=-1), causal_CS, jnp.ones((), bool)
        from_start_C = to_end_C = total = always
    else:
        segment_ZBNC = split_chunks(segment_ids_BT[:, :, None], size, "edge")
        end_ZBN = segment_ZBNC[..., -1]
        start_ZBN = jnp.concatenate([segment_ids_BT[None, :, :1], end_ZBN[:-1]])
        visible_CS = causal_CS & (segment_ZBNC[..., :, None] == segment_ZBNC[..., None, :])
        # Sums within each document: a difference of sums over several documents would have their rounding errors, also
        # in the gradient.
        sums_ZBNC = jnp.sum(jnp.where(visible_CS, log_ZBNC[..., None, :], 0), axis=-1)
        from_start_C, to_end_C = segment_ZBNC == start_ZBN[..., None], segment_ZBNC == end_ZBN[..., None]
        total = start_ZBN == end_ZBN
    last_ZBN = sums_ZBNC[..., -1]
    # Above the diagonal the exponent is positive and exp may overflow, so the mask comes before exp.
    exponent_CS = jnp.where(visible_CS, sums_ZBNC[..., :, None] - sums_ZBNC[..., None, :], -jnp.inf)
    return ChunkDecays(
        pairwise_ZBNCS=jnp.exp(exponent_CS),
        from_start_ZBNC=jnp.exp(sums_ZBNC) * from_start_C,
        to_end_ZBNC=jnp.exp(last_ZBN[..., None] - sums_ZBNC) * to_end_C,
        total_ZBN=jnp.exp(last_ZBN) * total,
    )


def scan_chunks(
    memory_BNHP: jax.Array,
    q_ZBNCH: jax.Array,
    k_ZBNCH: jax.Array,
    u_ZBNCP: jax.Array,
    decay: ChunkDecays,
    w_ZBNCH: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes every query's reading of the memory, chunk after chunk.

    Args:
      memory_BNHP: the memory before the first chunk.
      q_ZBNCH, k_ZBNCH: queries and keys; a key of zeros writes nothing.
      u_ZBNCP: the values that the keys write.
      decay: the result of `chunk_decays`.
      w_ZBNCH: W, if the written values are u - W S, with S the memory before the chunk (the delta rule).

    Returns:
      The memory after the last chunk, and the readings (Z, B, N, C, P).
    """
    scores_ZBNCS = jnp.einsum("ZBNCH,ZBNSH->ZBNCS", q_ZBNCH, k_ZBNCH) * decay.pairwise_ZBNCS
    q_ZBNCH = q_ZBNCH * decay.from_start_ZBNC[..., None]
    k_ZBNCH = k_ZBNCH * decay.to_end_ZBNC[..., None]

    def chunk(memory_BNHP: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        q_BNCH, k_BNCH, scores_BNCS, u_BNCP, w_BNCH, total_BN = inputs
        if w_BNCH is not None:
            u_BNCP = u_BNCP - jnp.einsum("BNCH,BNHP->BNCP", w_BNCH, memory_BNHP)
        y_BNCP = jnp.einsum("BNCH,BNHP->BNCP", q_BNCH, memory_BNHP)
        y_BNCP = y_BNCP + jnp.einsum("BNCS,BNSP->BNCP", scores_BNCS, u_BNCP)
        written_BNHP = jnp.einsum("BNCH,BNCP->BNHP", k_BNCH, u_BNCP)
        return memory_BNHP * total_BN[..., None, None] + written_BNHP, y_BNCP

    chunks = (q_ZBNCH, k_ZBNCH, scores_ZBNCS, u_ZBNCP, w_ZBNCH, decay.total_ZBN)
    return jax.lax.scan(chunk, memory_BNHP, chunks)


def merge_chunks(y_ZBNCP: jax.Array, length: int) -> jax.Array:
    """Inverts `split_chunks`: reshapes (Z, B, N, C, P) to (B, T, N, P), without the added tokens."""
    y_BZCNP = jnp.moveaxis(y_ZBNCP, (0, 2), (1, 3))
    return y_BZCNP.reshape(y_BZCNP.shape[0], -1, *y_BZCNP.shape[3:])[:, :length]
