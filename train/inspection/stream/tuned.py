"""Training of a tuned lens: an affine map of each layer before the last norm and the unembedding.

Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens", section 3: with h the stream
after a layer, the lens reads h + A h + b, where A and b begin at zero, as the logit lens; they minimise the divergence
KL(p_last || p_layer) from the model's own prediction. A map that is no better on held-out text is left at zero, so that
the tuned lens is nowhere worse there than the logit lens.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model.errors import UserError
from model.taps.request import Tap
from model.transformer import logits, stream
from train.data.batches.opening import evaluation_batches, training_batches
from train.inspection.stream.readout import lens
from train.inspection.subject import Subject
from train.inspection.text import encode
from train.run.loading import LoadedRun

ROWS = 4  # windows of a step
WINDOW = 128  # tokens
HELD_OUT = 8  # windows
RATE = 1e-3


class Translators(NamedTuple):
    """The maps of the embedding and of all layers: h + A h + b, float32."""

    a_LDD: Any
    b_LD: Any


class Training(NamedTuple):
    """Trained maps, and the mean divergence on held-out text before and after, in nats, by layer."""

    translators: Translators
    kl_before_L: np.ndarray
    kl_after_L: np.ndarray


def translate(translator: Translators, x: jax.Array) -> jax.Array:
    """The stream after the map of a layer, in its dtype."""
    h = x.astype(jnp.float32)
    return (h + h @ translator.a_LDD + translator.b_LD).astype(x.dtype)


def train_translators(
    run: LoadedRun, *, steps: int = 200, corpus: str | None = None, seed: int = 0, rate: float = RATE
) -> Training:
    """Trains the maps of all layers on the text of the run, or on another one, `corpus`.

    Raises:
      UserError: for no steps, a stream of several vectors, and a text that is too short or that is not there.
    """
    subject = Subject.of(run)
    config = subject.config
    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    if not config.residual.one_vector:
        name = type(config.residual).__name__
        raise UserError(
            f"a tuned lens maps a stream of one vector a token, and {name} has several; take the logit lens"
        )
    windows, held_out = text_windows(run, corpus, seed)
    zeros = Translators(
        jnp.zeros((config.num_layers + 1, config.width, config.width)), jnp.zeros((config.num_layers + 1, config.width))
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def divergences(translators: Translators, params: Any, tokens_BT: jax.Array) -> jax.Array:
        output = stream(config, params, tokens_BT, layout=subject.layout, taps=(Tap("embedding"), Tap("block_output")))
        streams = jnp.concatenate([output.taps["embedding"][None], output.taps["block_output"]])
        streams = jax.lax.stop_gradient(streams)
        last = jax.nn.log_softmax(logits(config, params, output.stream_BTD).astype(jnp.float32))
        last = jax.lax.stop_gradient(last)

        @jax.checkpoint
        def one(inputs: Any) -> jax.Array:
            x, translator = inputs
            read_BTV = lens(config, params, translate(translator, x), subject.layout)
            found = jax.nn.log_softmax(read_BTV.astype(jnp.float32))
            return jnp.mean(jnp.sum(jnp.exp(last) * (last - found), axis=-1))

        return jax.lax.map(one, (streams, translators))

    def step(params: Any, translators: Translators, state: Any, tokens_BT: jax.Array) -> Any:
        gradient = jax.grad(lambda t: jnp.sum(divergences(t, params, tokens_BT)))(translators)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(translators, updates), state

    jitted, measure = jax.jit(step, donate_argnums=(1, 2)), jax.jit(divergences)
    translators, state = jax.tree.map(jnp.copy, zeros), optimizer.init(zeros)
    for _, tokens_BT in zip(range(steps), windows, strict=False):
        translators, state = jitted(subject.params, translators, state, tokens_BT)

    def held(translators: Translators) -> np.ndarray:
        return np.mean([np.asarray(measure(translators, subject.params, x)) for x in held_out], axis=0)

    before, after = held(zeros), held(translators)
    better = after < before
    kept = Translators(*(np.where(better.reshape(-1, *(1,) * (x.ndim - 1)), np.asarray(x), 0) for x in translators))
    return Training(kept, before, np.where(better, after, before))


def text_windows(run: LoadedRun, corpus: str | None, seed: int) -> tuple[Iterator[np.ndarray], list[np.ndarray]]:
    """Endless windows to train on, int32 (ROWS, T), and those that are held out."""
    if corpus is not None:
        return _windows_of_text(run, corpus, seed)
    data = run.experiment.data
    dataset = run.dataset()
    length = min(WINDOW, data.sequence_length)
    batches = training_batches(dataset, data, ("tokens",))

    def endless() -> Iterator[np.ndarray]:
        n = seed * 1_000_000
        while True:
            tokens = batches.rows(n)["tokens"][:, :length]
            for first in range(0, len(tokens) - ROWS + 1, ROWS) if len(tokens) >= ROWS else (0,):
                yield tokens[first : first + ROWS].astype(np.int32)
            n += 1

    held: list[np.ndarray] = []
    for batch in evaluation_batches(dataset, data, "validation", 8, range(data.batch_size)):
        full = batch["tokens"][(batch["weights"][:, :length] > 0).all(axis=1), :length]
        held += [full[i : i + 1].astype(np.int32) for i in range(len(full))]
    if not held:
        raise UserError(
            f"the validation split of {run.folder} has no whole window of {length} tokens; give --corpus_file"
        )
    return endless(), held[:HELD_OUT]


def _windows_of_text(run: LoadedRun, corpus: str, seed: int) -> tuple[Iterator[np.ndarray], list[np.ndarray]]:
    ids = encode(run.tokenizer, corpus, "corpus")
    length = min(WINDOW, run.experiment.model.context_length)
    count = len(ids) // length
    if count < 2 * ROWS:
        raise UserError(f"--corpus: the text has {len(ids):,} tokens, and {2 * ROWS * length:,} are needed")
    rows = ids[: count * length].reshape(count, length).astype(np.int32)
    held = max(1, min(HELD_OUT, count // 5))
    train, draw = rows[:-held], np.random.default_rng(seed)

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield train[draw.integers(0, len(train), ROWS)]

    return endless(), [row[None] for row in rows[-held:]]
