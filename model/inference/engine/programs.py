"""The compiled programs of an engine: read tokens of prompts, score them, or read one token a row and choose the next.

All have fixed shapes, and read a few rows of a few tokens each. The results of a token must not depend on the shape of
the program that computed them, to the bit: a token of a prompt may be read beside others or alone, and a generated
token is read again as part of a prompt after a request gave way. On a CPU, XLA (jaxlib 0.10) allows for this, as
measured (tests/benchmarks/README.md):
  - A product of matrices computes each row of its result in the same way, wherever the row is and whatever the other
    rows hold. It has one order of sums from 2 rows to a number that depends on the other sizes, most often 32 or 48 and
    seldom 16, and another above; one row is a product with a vector, and has a third. So a program has 2 to 32 tokens,
    and `Engine.compile` runs each and takes only those with equal results.
  - The same holds for the products of attention if there are at least two rows in the batch and two queries for a key.
  - Sums along an axis are given to a library where an array is large, which sums in another order; `CPU_OPTIONS` leaves
    them to the compiler.

On accelerators a compiler picks the tiles of a product by its shape, and with them the order of sums. With
`EngineOptions.invariant` only `decode` is compiled, for one number of rows: each row reads one token, of a prompt or
the last one of a text, and rows without a token are padding. So every token of every request meets the same kernels
with the same tiles. The other requests, the parts of a prompt, the pages that were found, the step before which a text
gave way, and guesses decide only in which row a token is read, and which numbers are in the others. A kernel computes
all rows of a tile in one order, but nobody promises that for all tiles; so `Engine.compile` tries it on the device
(every row, alone and beside others), and refuses the option where it does not hold, as may be on a mesh, where the
order of sums over devices can depend on the place.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.config import ModelConfig
from model.feedforward.dispatch import Capacity, Dropless
from model.inference.constraint import ALL, keep_allowed
from model.inference.engine.device_state import CachePlan, DeviceState, Rows
from model.inference.engine.sequence import ON_DEVICE
from model.inference.prompts import key_of_text
from model.inference.sampling import Rules, likeliest_token, sample_token
from model.inference.tokens_ahead import tokens_ahead
from model.layers import group_layers
from model.layout import Layout
from model.recurrent.memory import RecurrentOption
from model.stack import LayerCaches
from model.taps.request import Tap
from model.transformer import Params, logits, stream

MIN_TOKENS, MAX_TOKENS = 2, 32  # of a program

# See the module docstring; products still go to the library.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@struct.dataclass
class Choices:
    """How the next token of each row is chosen.

    Attributes:
      rules: the result of `rules_of_rows`.
      seed_B, prompt_B, sample_B: the seed, the hash of the prompt and the number of the sample (uint32), which with the
        position make the key of a draw.
      bias_BV: numbers to add to logits; all zeros if no row has any.
      allowed_BW: the tokens that constraints allow (model/inference/constraint.py); all bits without a constraint.
      scale_B: the temperature of log-probabilities, 1 for those of the model alone.
      known_B: the next token where it is known, as in a prompt, and -1 where it is chosen.
      seen_BV: True for tokens that the text already has, for the repetition penalty.
      wants_logprob, wants_likeliest: whether any row asks for log-probabilities, and for those of the likeliest tokens.
    """

    rules: Rules
    seed_B: Any
    prompt_B: Any
    sample_B: Any
    bias_BV: Any
    allowed_BW: Any
    scale_B: Any
    known_B: Any
    seen_BV: Any
    wants_logprob: Any
    wants_likeliest: Any


@struct.dataclass
class Scores:
    """Log-probabilities, by the model alone, of given tokens (B, ...) and of the likeliest (B, ..., n)."""

    logprob: jax.Array
    likeliest: jax.Array
    likeliest_logprob: jax.Array


@struct.dataclass
class Drawn:
    """The next token of each row (B,), its scores, and guesses at those after it by modules (B, K), or None."""

    token: jax.Array
    scores: Scores
    guesses: jax.Array | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def read(
    config: ModelConfig, layout: Layout, plan: CachePlan, params: Params, state: DeviceState, rows: Rows
) -> DeviceState:
    """Reads tokens of prompts."""
    return plan.with_caches(state, _stream(config, layout, plan, params, state, rows)[0], rows, layout)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def score(
    config: ModelConfig,
    layout: Layout,
    plan: CachePlan,
    num_likeliest: int,
    params: Params,
    state: DeviceState,
    rows: Rows,
    next_BT: jax.Array,
    wants_likeliest: jax.Array,
) -> tuple[DeviceState, Scores]:
    """Reads tokens of prompts; returns the scores of the token after each."""
    caches, stream_BTD, _ = _stream(config, layout, plan, params, state, rows)
    logits_BTV = logits(config, params, stream_BTD, layout=layout)
    scores = _scores(logits_BTV, next_BT, num_likeliest, jnp.ones((), bool), wants_likeliest)
    return plan.with_caches(state, caches, rows, layout), scores


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=6)
def decode(
    config: ModelConfig,
    layout: Layout,
    plan: CachePlan,
    num_likeliest: int,
    most_steps: int,
    params: Params,
    state: DeviceState,
    rows: Rows,
    choices: Choices,
    last_R: jax.Array,
    steps_B: jax.Array,
) -> tuple[DeviceState, Drawn, jax.Array]:
    """Reads the last token of every row and chooses the next, and so on with that one, for some steps.

    Args:
      config, layout, plan, num_likeliest, params, state, choices: of the engine.
      most_steps: S, the most steps of a row.
      rows: the last token of each row. If it is ON_DEVICE the row reads that of `last_R`, so that a step need not wait
        for the host to have the tokens of the step before.
      last_R: the last token that each row of the engine was given, by the number of its state.
      steps_B: the steps that each row takes; the program takes as many as the longest, which may change in each call.

    Returns:
      The arrays, what was drawn with a leading axis S, and `last_R`; what is past the steps of a row means nothing.
    """
    first_B = jnp.where(
        rows.tokens_BT[:, 0] == ON_DEVICE, last_R.at[rows.state_B].get(mode="clip"), rows.tokens_BT[:, 0]
    )
    model = functools.partial(_next_token, config, layout, plan, num_likeliest, params, choices)
    if most_steps == 1:
        state, drawn = model(state, rows, first_B)
        last_B, drawn_S = drawn.token, jax.tree.map(lambda x: x[None], drawn)
    else:

        def step(s: jax.Array, carry: tuple[DeviceState, jax.Array, Drawn]) -> tuple[DeviceState, jax.Array, Drawn]:
            state, before_B, drawn_S = carry
            goes_on_B, ahead_B = s < steps_B, jnp.minimum(s, jnp.maximum(steps_B, 1) - 1)
            here = dataclasses.replace(
                rows,
                first_B=rows.first_B + ahead_B,
                text_length_B=rows.text_length_B + ahead_B,
                count_B=jnp.where(goes_on_B, rows.count_B, 0),
                state_B=jnp.where(goes_on_B, rows.state_B, plan.rows),
            )
            state, drawn = model(state, here, before_B)
            drawn_S = jax.tree.map(lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, s, 0), drawn_S, drawn)
            return state, jnp.where(goes_on_B, drawn.token, before_B), drawn_S

        shapes = jax.eval_shape(lambda: model(state, rows, first_B)[1])
        empty = jax.tree.map(lambda x: jnp.zeros((most_steps, *x.shape), x.dtype), shapes)
        state, last_B, drawn_S = jax.lax.fori_loop(0, jnp.max(steps_B), step, (state, first_B, empty))
    last_R = last_R.at[rows.state_B].set(last_B, mode="drop")
    constrain = lambda x: layout.constrain(x, (None,) * x.ndim)  # noqa: E731
    return state, jax.tree.map(constrain, drawn_S), constrain(last_R)


def _next_token(
    config: ModelConfig,
    layout: Layout,
    plan: CachePlan,
    num_likeliest: int,
    params: Params,
    choices: Choices,
    state: DeviceState,
    rows: Rows,
    last_B: jax.Array,
) -> tuple[DeviceState, Drawn]:
    """Reads one token of every row, and draws the next of each."""
    rows = dataclasses.replace(rows, tokens_BT=rows.tokens_BT.at[:, 0].set(last_B))
    caches, stream_BTD, last_BTD = _stream(config, layout, plan, params, state, rows)
    logits_BV = logits(config, params, stream_BTD[:, :1], layout=layout)[:, 0].astype(jnp.float32)
    token_B = _choose(choices, logits_BV, rows.first_B, choices.allowed_BW)
    token_B = jnp.where(choices.known_B >= 0, choices.known_B, token_B)
    scaled_BV = jax.lax.cond(
        jnp.any(choices.scale_B != 1), lambda: logits_BV / choices.scale_B[:, None], lambda: logits_BV
    )  # fmt: skip
    scores = _scores(scaled_BV, token_B, num_likeliest, choices.wants_logprob, choices.wants_likeliest)
    guesses, guess_B = [], token_B
    for number in range(plan.modules):
        tokens_BT = jnp.zeros_like(rows.tokens_BT).at[:, 0].set(guess_B)
        last_BTD, normed_BTD = _ahead(config, layout, params, rows, number, last_BTD, tokens_BT, caches)
        logits_BV = logits(config, params, normed_BTD[:, :1], layout=layout)[:, 0].astype(jnp.float32)
        guess_B = _choose(choices, logits_BV, rows.first_B + 1 + number, None)
        guesses.append(guess_B)
    drawn = Drawn(token_B, scores, jnp.stack(guesses, axis=1) if guesses else None)
    return plan.with_caches(state, caches, rows, layout), drawn


def _choose(choices: Choices, logits_BV: jax.Array, position_B: jax.Array, allowed_BW: jax.Array | None) -> jax.Array:
    """Returns the token of each row after a position; without `allowed_BW` constraints do not count."""
    key_B = jax.vmap(_key)(choices.seed_B, choices.prompt_B, choices.sample_B, position_B)
    logits_BV = jax.lax.cond(
        jnp.any(choices.bias_BV != 0), lambda x: x + choices.bias_BV, lambda x: x, logits_BV
    )  # fmt: skip
    if allowed_BW is not None:
        logits_BV = jax.lax.cond(
            jnp.any(allowed_BW != ALL), lambda x: keep_allowed(x, allowed_BW), lambda x: x, logits_BV
        )
    return sample_token(choices.rules, logits_BV, key_B, choices.seen_BV)


def _stream(
    config: ModelConfig, layout: Layout, plan: CachePlan, params: Params, state: DeviceState, rows: Rows
) -> tuple[LayerCaches, jax.Array, jax.Array]:
    """Reads tokens; returns the caches, the stream, and that of the last layer, or module, before the norm.

    Modules read with them if the tokens that they need are known.
    """
    caches = plan.caches(state, rows, layout)
    output = stream(
        config,
        params,
        rows.tokens_BT,
        cache=caches,
        layout=layout,
        taps=(Tap("block_output", layers=(config.num_layers - 1,)),) if plan.modules else (),
        **_places(rows),
    )
    assert output.cache is not None
    caches |= output.cache
    if not plan.modules:
        return caches, output.stream_BTD, output.stream_BTD
    last_BTD = config.residual.leave(output.taps["block_output"][0])
    for number in range(0 if rows.later_KBT is None else plan.modules):
        last_BTD, _ = _ahead(config, layout, params, rows, number, last_BTD, rows.later_KBT[number], caches)
    return caches, output.stream_BTD, last_BTD


def _ahead(
    config: ModelConfig,
    layout: Layout,
    params: Params,
    rows: Rows,
    number: int,
    last_BTD: jax.Array,
    tokens_BT: jax.Array,
    caches: LayerCaches,
) -> tuple[jax.Array, jax.Array]:
    """Runs a module and adds to its cache, in `caches`; returns its stream, before and after its norm."""
    name = str(config.num_layers + number)
    last_BTD, normed_BTD, after = tokens_ahead(
        config, params, number, last_BTD, tokens_BT, cache=caches.get(name), layout=layout, **_places(rows)
    )
    if after is not None:
        caches[name] = after
    return last_BTD, normed_BTD


def _places(rows: Rows) -> dict[str, Any]:
    """Returns the arguments of `stream` that tell where the tokens are."""
    return {
        "positions_BT": rows.first_B[:, None] + jnp.arange(rows.tokens_BT.shape[1], dtype=jnp.int32),
        "lengths_B": jnp.where(rows.count_B == 0, 0, rows.first_B + rows.count_B),
        "text_lengths_B": rows.text_length_B,
    }


def _key(seed: jax.Array, prompt: jax.Array, sample: jax.Array, position: jax.Array) -> jax.Array:
    """Returns the key of the draw after a position."""
    return jax.random.fold_in(key_of_text(seed, prompt, sample), position)


def _scores(
    logits_V: jax.Array, token: jax.Array, num_likeliest: int, wants_logprob: jax.Array, wants_likeliest: jax.Array
) -> Scores:
    """Returns the scores of tokens, from logits with a last axis V; zeros if no row wants them."""
    logits_V, count = logits_V.astype(jnp.float32), min(num_likeliest, logits_V.shape[-1])

    def logprob() -> tuple[jax.Array, jax.Array]:
        total = jax.nn.logsumexp(logits_V, axis=-1)
        return jnp.take_along_axis(logits_V, token[..., None], axis=-1)[..., 0] - total, total

    def likeliest() -> tuple[jax.Array, jax.Array]:
        if count == 1:  # a search is faster than an order
            ids = likeliest_token(logits_V)[..., None]
            return ids, jnp.take_along_axis(logits_V, ids, axis=-1)
        values, ids = jax.lax.top_k(logits_V, count)
        return ids, values

    zero, ids = jnp.zeros(token.shape, jnp.float32), jnp.zeros((*token.shape, count), jnp.int32)
    of_token, total = jax.lax.cond(wants_logprob, logprob, lambda: (zero, zero))
    ids, values = jax.lax.cond(wants_likeliest, likeliest, lambda: (ids, ids.astype(jnp.float32)))
    return Scores(of_token, ids, values - total[..., None])


def serving_config(config: ModelConfig) -> ModelConfig:
    """Returns the same model with options whose results depend on nothing but a text's own tokens.

    Recurrent layers read token by token, since sums over chunks would depend on where chunks end. Experts with a
    capacity take every token, as they do when a text is decoded token by token.
    """
    served: ModelConfig = _replaced(config)
    same = [(g.start, g.repeats, len(g.pattern)) for g in group_layers(config.layers)]
    assert same == [(g.start, g.repeats, len(g.pattern)) for g in group_layers(served.layers)], "the same stacks"
    return served


def _replaced(option: Any) -> Any:
    if isinstance(option, tuple):
        return tuple(_replaced(item) for item in option)
    if isinstance(option, Capacity):
        return Dropless()
    if not dataclasses.is_dataclass(option) or isinstance(option, type):
        return option
    changes = {}
    for field in dataclasses.fields(option):
        value = getattr(option, field.name)
        is_chunk = field.name == "chunk" and isinstance(option, RecurrentOption)
        if (new := 1 if is_chunk else _replaced(value)) is not value and new != value:
            changes[field.name] = new
    return dataclasses.replace(option, **changes) if changes else option


def decode_sizes(rows: int) -> list[int]:
    """Returns the numbers of rows of the programs that decode: powers of two, and none with one row."""
    sizes = [MIN_TOKENS]
    while sizes[-1] < min(rows, MAX_TOKENS):
        sizes.append(2 * sizes[-1])
    return sizes


def decode_width(config: ModelConfig) -> int:
    """Returns the tokens of a row in programs that decode: one, and after it padding for the loops of memories.

    A loop over one token is no loop to the compiler, which then rounds otherwise.
    """
    return 2 if any(hasattr(layer.mixer, "chunk") for layer in config.layers) else 1


def read_sizes(config: ModelConfig, tokens_per_step: int) -> list[tuple[int, int]]:
    """Returns the rows and tokens of programs that read, the largest first; an engine takes one of them.

    The rows of a program may be consecutive parts of one text, except where layers carry a state from one to the next.
    """
    recurrent = any(isinstance(layer.mixer, RecurrentOption) for layer in config.layers)
    sizes, most = [], MIN_TOKENS
    while most <= min(max(tokens_per_step, MIN_TOKENS), MAX_TOKENS):
        rows = 2 if recurrent or most < 16 else 4
        sizes.append((rows, most // rows))
        most *= 2
    return sizes[::-1]


def compiled(function: Any, *inputs: Any, platform: str) -> Callable[..., Any]:
    """Returns the compiled program of a function of this file for inputs of these shapes."""
    lowered = function.lower(*inputs)
    program: Callable[..., Any]
    try:
        program = lowered.compile(compiler_options=CPU_OPTIONS if platform == "cpu" else None)
    except jax.errors.JaxRuntimeError:  # a version of XLA that does not know an option
        if platform != "cpu":
            raise
        program = lowered.compile()
    return program
