"""Generation from prompts: prefill in chunks, then one token per step for all rows, with a cache for every layer.

The cache is as long as prompts and budgets need, rounded up to one of a few sizes, and both programs have one shape for
each size: `prefill` takes chunks of a fixed number of tokens, padded on the right, and computes no logits; `decode`
takes one token of every row at that row's own position. No query sees padding (model/attention/cache.py).

Where positions depend on the length of the text (model/positions/scaling.py), a cache holds keys of the length at which
they were read. A row whose next token changes its positions is read again: once in a text with LongRoPE, and with
DynamicNTK, past its original length, at every token.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from model.attention.directions import refuse_without_decoding
from model.config import ModelConfig
from model.errors import UserError
from model.inference import cpu
from model.inference.prompts import check_ids, check_length, hash_of, key_of_text, occurrence_indices, seen_tokens
from model.inference.sampling import Rules, Sampling, sample_token
from model.inference.sources import read_sources, texts_and_sources
from model.layout import ONE_DEVICE, Layout
from model.options.tree import check
from model.parameters.precision import for_inference
from model.parameters.quantized_weights import fast_to_read
from model.positions.absolute import LayerPosition
from model.stack import LayerCaches, empty_caches
from model.taps.request import Edit, Tap, Taps
from model.transformer import Params, logits, specs, stream

MIN_CACHE_SLOTS = 64  # slots

# Edits of taps: a hashable form of `Taps.edit`.
Edits = tuple[tuple[Tap, Edit], ...]

# Called with a row and its next token, as soon as the token is known; True ends the row.
OnToken = Callable[[int, int], bool | None]


@struct.dataclass
class DecodeState:
    """The state between decoding steps.

    Attributes:
      cache: the keys and values of all tokens before the last, or the states of recurrent layers after them.
      token_B: the last token of each row, not yet in the cache (int32).
      position_B: the position of the last token of each row (int32).
      key_B: the random key of each row; the draw at position p uses this key folded with p.
      seen_BV: True for tokens of text that the row already has, for the repetition penalty; None without a penalty.
    """

    cache: LayerCaches
    token_B: jax.Array
    position_B: jax.Array
    key_B: jax.Array
    seen_BV: jax.Array | None


@dataclasses.dataclass(frozen=True)
class PreparedParams:
    """A copy of parameters for `prefill` and `decode`, in the dtypes that they compute with; see `prepare_params`."""

    params: Params


def prepare_params(config: ModelConfig, params: Params | PreparedParams, layout: Layout) -> PreparedParams:
    """Rounds and lays out parameters once for many calls of `generate`; returns a `PreparedParams` as it is."""
    if isinstance(params, PreparedParams):
        return params
    dtypes_differ = config.precision.compute != config.precision.parameters
    rounded: Params = _cast_for_inference(config, params) if dtypes_differ else params
    if config.precision.weights is not None and layout.platform == "cpu":
        rounded = _fast_to_read(config, rounded)
    return PreparedParams(cpu.decoding_params(rounded, layout))


def generate(
    config: ModelConfig,
    params: Params | PreparedParams,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    begin: int | None = None,
    end: int | None = None,
    on_token: OnToken | None = None,
    sample_indices: Sequence[int] | None = None,
    layout: Layout = ONE_DEVICE,
    row_multiple: int | None = None,
    cache_length: int | None = None,
    chunk: int = 128,
    edits: Edits = (),
) -> list[list[int]]:
    """Generates tokens after each prompt until an end mark, the budget, or a full context.

    A row's result is a function of the seed, its prompt and its draw. It does not depend on the other rows, except for
    rounding: with another number of rows the compiler may order sums differently.

    Args:
      config: the model's options.
      params: its parameters, as `model.transformer.init` returns them, on any mesh; every call copies them. To call it
        many times, pass the result of `prepare_params` for this config and layout.
      prompts: token ids, at least one in each prompt; with an encoder, the sources of texts.
      sampling: the number of new tokens, and the rules that choose them.
      begin: the id that begins a text, which the repetition penalty does not count; None for none.
      end: the id that ends a text (end of document), which the penalty does not count either; None for none.
      on_token: see `OnToken`; called in order of steps, and of rows within a step.
      sample_indices: the index of each row among the samples of its prompt; by default equal prompts count from 0.
      layout: the layout of activations over devices. Pass an equal one again to reuse the compiled programs.
      row_multiple: rows are added up to a multiple of this; None for the number of parts of the layout's batch axis.
      cache_length: the slots of each row's cache, and the longest text; None for as many slots as these prompts and
        their budgets need (`cache_slots`) and texts up to the model's context length.
      chunk: the number of tokens of a row that one prefill step takes.
      edits: edits of taps, of prompts and of new tokens alike. Equal functions reuse the compiled programs.

    Returns:
      The new ids of each row, with the end mark if it was generated.

    Raises:
      UserError: for invalid options, and for a prompt that is empty, longer than the cache, or has an id
        outside the vocabulary.
    """
    check(sampling, "sampling")
    refuse_without_decoding(config, "generate")
    prompts, sources = texts_and_sources(config, prompts)
    max_length = config.context_length if cache_length is None else min(cache_length, config.context_length)
    _check_prompts(prompts, max_length, config.vocab_size)
    if not prompts:
        return []
    length = max_length if cache_length is not None else cache_slots(config, prompts, sampling.max_tokens)
    weights = prepare_params(config, params, layout).params  # once, not in every step
    rules = sampling.rules()
    rows = [list(prompt) for prompt in prompts]
    rows += [[0]] * (-len(rows) % (row_multiple or layout.ways("batch")))
    marks = [mark for mark in (begin, end) if mark is not None]
    inputs = initial_inputs(rows, sample_indices, rules, sampling.seed, config.vocab_size, marks, sources)
    state = init_decode_state(config, layout, length, **inputs)
    state = state if sources is None else read_sources(config, layout, weights, state, sources)
    chunks = prefill_chunks(rows, min(chunk, length))
    if config.visibility.prompt_is_prefix:  # all tokens of a prompt at once; `decode` reads the last one again
        chunks = prefill_chunks([[*row, 0] for row in rows], length)
    for tokens_BC, first_position in chunks:
        state = prefill(config, layout, weights, state, tokens_BC, first_position, edits)

    # The last token needs no slot, so a full context still yields one token.
    budgets = [min(sampling.max_tokens, max_length - len(prompt) + 1) for prompt in prompts]
    generated: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))

    def record_tokens(tokens_B: jax.Array) -> None:
        tokens = np.asarray(tokens_B)
        for row in sorted(running):
            token = int(tokens[row])
            generated[row].append(token)
            stop = on_token is not None and on_token(row, token)
            if stop or token == end or len(generated[row]) == budgets[row]:
                running.remove(row)

    scaled = {layer.position for layer in config.layers if layer.position.reads_lengths}
    previous = None
    for step in range(max(budgets)):
        if previous is not None and _outgrown(scaled, prompts, running, step):
            record_tokens(previous)  # now, not later: these tokens are read again too
            previous = None
            texts = {row: [*prompts[row], *generated[row]] for row in _outgrown(scaled, prompts, running, step)}
            state = _read_again(config, layout, weights, state, texts, length, min(chunk, length), edits)
            if not running:
                break
        state, tokens_B = decode(config, layout, weights, rules, state, edits)
        if previous is not None:  # read one step late, so that the host works while the device computes
            record_tokens(previous)
        if not running:
            break
        previous = tokens_B
    else:
        record_tokens(tokens_B)
    return generated


# ---------------------------------------------------------------------------------------------- compiled functions


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def init_decode_state(
    config: ModelConfig,
    layout: Layout,
    length: int,
    token_B: jax.Array,
    position_B: jax.Array,
    fold_B2: jax.Array,
    seed: jax.Array,
    seen_BV: jax.Array | None,
) -> DecodeState:
    """Returns the state before the first token is read: an empty cache, and the last token of every prompt."""
    cache = empty_caches(config, len(token_B), length, source_length=1)  # until `read_sources` gives sources
    key_B = jax.vmap(lambda fold: key_of_text(seed, fold[0], fold[1]))(fold_B2)
    return _constrain_state(DecodeState(cache, token_B, position_B, key_B, seen_BV), layout)


@functools.partial(jax.jit, static_argnums=(0, 1, 6), donate_argnums=3)
def prefill(
    config: ModelConfig,
    layout: Layout,
    params: Params,
    state: DecodeState,
    tokens_BC: jax.Array,
    first_position: jax.Array,
    edits: Edits = (),
) -> DecodeState:
    """Writes the keys and values of C tokens, the first at `first_position`; no logits are computed.

    `decode` reads the last token of each row. Where a prompt is a prefix it is one chunk, and the last token is in it.
    """
    whole = config.visibility.prompt_is_prefix
    positions_BC = jnp.broadcast_to(first_position + jnp.arange(tokens_BC.shape[1], dtype=jnp.int32), tokens_BC.shape)
    output = stream(
        config,
        params,
        tokens_BC,
        positions_BT=positions_BC,
        cache=state.cache,
        lengths_B=state.position_B + whole,
        prefix_BT=state.position_B[:, None] + 1 if whole else None,
        text_lengths_B=state.position_B + 1,
        layout=layout,
        taps=Taps(edit=dict(edits)),
    )
    assert output.cache is not None
    return _constrain_state(dataclasses.replace(state, cache=output.cache), layout)


@functools.partial(jax.jit, static_argnums=(0, 1, 5), donate_argnums=4)
def decode(
    config: ModelConfig, layout: Layout, params: Params, rules: Rules, state: DecodeState, edits: Edits = ()
) -> tuple[DecodeState, jax.Array]:
    """Reads the last token of every row and chooses the next. Returns the state, and the tokens on every device."""
    tokens_BT, positions_BT = state.token_B[:, None], state.position_B[:, None]
    taps = Taps(edit=dict(edits))
    output = stream(config, params, tokens_BT, positions_BT=positions_BT, cache=state.cache, layout=layout, taps=taps)
    logits_BTV = logits(config, params, output.stream_BTD, layout=layout)
    key_B = jax.vmap(jax.random.fold_in)(state.key_B, state.position_B)
    token_B = sample_token(rules, logits_BTV[:, 0], key_B, state.seen_BV)
    seen_BV = state.seen_BV
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
    assert output.cache is not None
    after = DecodeState(output.cache, token_B, state.position_B + 1, state.key_B, seen_BV)
    return _constrain_state(after, layout), layout.constrain(token_B, (None,))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _replace_caches(layout: Layout, state: DecodeState, cache: LayerCaches, rows_R: jax.Array) -> DecodeState:
    """Returns the state with R caches in place of those of `rows_R`; a row past the last is left out."""
    replaced = jax.tree.map(lambda x, new: x.at[rows_R].set(new, mode="drop"), state.cache, cache)
    return _constrain_state(dataclasses.replace(state, cache=replaced), layout)


def _constrain_state(state: DecodeState, layout: Layout) -> DecodeState:
    """Returns the state with a fixed layout over the mesh: another layout would need another program."""
    return DecodeState(
        cache={layer: cache.sharded(layout) for layer, cache in state.cache.items()},
        token_B=layout.constrain(state.token_B, ("batch",)),
        position_B=layout.constrain(state.position_B, ("batch",)),
        key_B=layout.constrain(state.key_B, ("batch",)),
        seen_BV=None if state.seen_BV is None else layout.constrain(state.seen_BV, ("batch", None)),
    )


@functools.partial(jax.jit, static_argnums=0)
def _fast_to_read(config: ModelConfig, params: Params) -> Params:
    return fast_to_read(params, specs(config))


@functools.partial(jax.jit, static_argnums=0)
def _cast_for_inference(config: ModelConfig, params: Params) -> Params:
    return for_inference(params, specs(config), config.precision)


# ------------------------------------------------------------------------------------------------------ on the host


def _outgrown(
    positions: Iterable[LayerPosition], prompts: Sequence[Sequence[int]], rows: Iterable[int], new_tokens: int
) -> list[int]:
    """Returns the rows whose positions change with their last token, when each has `new_tokens` after its prompt."""
    lengths = {row: len(prompts[row]) + new_tokens for row in rows} if positions else {}
    return [row for row, length in lengths.items() if any(position.changes_at(length) for position in positions)]


def _read_again(
    config: ModelConfig,
    layout: Layout,
    params: Params,
    state: DecodeState,
    texts: Mapping[int, list[int]],
    length: int,
    chunk: int,
    edits: Edits,
) -> DecodeState:
    """Returns the state with new caches for some rows: of all their tokens but the last, as positions are by now.

    They are read in a cache of their own, as few at once as the layout allows: most often one row changes at a time.

    Args:
      config, layout, params, state: see `prefill`.
      texts: the tokens of these rows.
      length: the slots of a row of the cache.
      chunk: the number of tokens of a row that one prefill step takes.
      edits: see `generate`.
    """
    rows, group = sorted(texts), layout.ways("batch")
    for first in range(0, len(rows), group):
        some = rows[first : first + group]
        padding = group - len(some)
        read = [texts[row] for row in some] + [[0]] * padding
        inputs = initial_inputs(read, None, Sampling().rules(), 0, config.vocab_size)
        part = init_decode_state(config, layout, length, **inputs)
        for tokens_BC, first_position in prefill_chunks(read, chunk):
            part = prefill(config, layout, params, part, tokens_BC, first_position, edits)
        state = _replace_caches(layout, state, part.cache, np.array(some + [len(state.token_B)] * padding, np.int32))
    return state


def initial_inputs(
    rows: Sequence[list[int]],
    sample_indices: Sequence[int] | None,
    rules: Rules,
    seed: int,
    vocab_size: int,
    marks: Sequence[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Returns the arguments of `init_decode_state` for rows of prompt ids.

    The repetition penalty does not count `marks`. Draws depend on the sources, if there are any.
    """
    texts = rows if sources is None else sources
    sample_indices = occurrence_indices([tuple(text) for text in texts]) if sample_indices is None else sample_indices
    fold_B2 = np.zeros((len(rows), 2), np.uint32)
    for i, sample_index in enumerate(sample_indices):
        fold_B2[i] = hash_of(texts[i]), sample_index
    seen_BV = None
    if rules["repetition_penalty"] is not None:
        seen_BV = seen_tokens(rows, [marks] * len(rows), vocab_size)
    return {
        "token_B": np.array([row[-1] for row in rows], np.int32),
        "position_B": np.array([len(row) - 1 for row in rows], np.int32),
        "fold_B2": fold_B2,
        "seed": np.uint32(seed),
        "seen_BV": seen_BV,
    }


def cache_slots(config: ModelConfig, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
    """Returns the slots of a row of the cache: as prompts and budgets need, rounded up to one of a few sizes.

    A text never outgrows its cache, since its greatest length is known in advance. Sizes are powers of two and 1.5
    times powers of two, from 64 on, so that all lengths share a few compiled programs. None exceeds the context length.
    """
    needed = max(len(prompt) for prompt in prompts) + max_tokens - 1  # the last token needs no slot
    size = MIN_CACHE_SLOTS
    while size < needed:
        size = 3 * size // 2 if size & (size - 1) == 0 else 4 * size // 3
    return min(size, config.context_length)


def cache_bytes(config: ModelConfig, rows: int, slots: int) -> int:
    """Returns the bytes of a cache of `rows` rows with `slots` slots each; makes no array."""
    cache = jax.eval_shape(lambda: empty_caches(config, rows, slots))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))


def prefill_chunks(rows: Sequence[list[int]], size: int) -> list[tuple[np.ndarray, np.int32]]:
    """Returns all tokens but each row's last in chunks (B, size), padded with 0 on the right, and their positions."""
    longest = max(len(row) - 1 for row in rows)
    tokens = np.zeros((len(rows), -(-longest // size) * size), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row) - 1] = row[:-1]
    return [(tokens[:, first : first + size], np.int32(first)) for first in range(0, tokens.shape[1], size)]


def _check_prompts(prompts: Sequence[Sequence[int]], length: int, vocab_size: int) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise UserError(f"prompt {i + 1} has no tokens; expected at least one, such as the id that ends documents")
        check_length(f"prompt {i + 1}", prompt, length)
        check_ids(f"prompt {i + 1}", prompt, vocab_size)
