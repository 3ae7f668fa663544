"""The logit lens and the tuned lens: the prediction after every layer, over a text.

nostalgebraist 2020, "interpreting GPT: the logit lens": the last norm and the unembedding read the stream after each
layer as if it were the last. Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens":
a trained affine map of each layer comes before them (tuned.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.taps.request import Tap
from model.transformer import logits
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.source import notes_of, subject_of, words_on
from train.inspection.stream.readout import lens
from train.inspection.stream.tuned import Translators, train_translators, translate
from train.inspection.subject import Subject
from train.inspection.text import Tokens, read, token_texts
from train.run.loading import LoadedRun

MAX_TOKENS = 96
TOP = 5


class Reading(NamedTuple):
    """The predictions after the embedding (row 0) and after each layer, at each token of a text.

    Attributes:
      top_ids_LTk, top_probabilities_LTk: the likeliest next tokens.
      kl_LT: the divergence KL(p_last || p_layer) from the model's own prediction, in nats.
      loss_LT: -log p of the next token, at all tokens but the last; NaN there.
      rank_LT: the number of tokens that are likelier than the model's own first choice.
    """

    top_ids_LTk: Any
    top_probabilities_LTk: Any
    kl_LT: Any
    loss_LT: Any
    rank_LT: Any


def streams_of(subject: Subject, params: Any, tokens_BT: jax.Array) -> tuple[Any, jax.Array]:
    """The stream after the embedding and after each layer, (L + 1, B, T, ...), and the logits (B, T, V)."""
    output = subject.stream(params, tokens_BT, (Tap("embedding"), Tap("block_output")))
    first = subject.config.residual.enter(output.taps["embedding"])
    streams = jnp.concatenate([first[None], output.taps["block_output"]])
    return streams, logits(subject.config, params, output.stream_BTD, layout=subject.layout)


def reading(subject: Subject, ids: np.ndarray, translators: Translators | None = None) -> Reading:
    """The predictions after every layer of a text, int32 (T,)."""
    config, count = subject.config, min(TOP, subject.config.vocab_size)

    def found(params: Any, tokens_BT: jax.Array, translators: Translators | None) -> Reading:
        streams, last_BTV = streams_of(subject, params, tokens_BT)
        last_TV = jax.nn.log_softmax(last_BTV[0].astype(jnp.float32))
        choice_T = jnp.argmax(last_TV, axis=-1)
        next_T = jnp.roll(tokens_BT[0], -1)

        def one(inputs: Any) -> Any:
            x, translator = inputs
            x = x if translator is None else translate(translator, x)
            log_p_TV = jax.nn.log_softmax(lens(config, params, x, subject.layout)[0].astype(jnp.float32))
            top_Tk, ids_Tk = jax.lax.top_k(log_p_TV, count)
            at = lambda ids_T: jnp.take_along_axis(log_p_TV, ids_T[:, None], axis=1)  # noqa: E731
            return Reading(
                ids_Tk,
                jnp.exp(top_Tk),
                jnp.sum(jnp.exp(last_TV) * (last_TV - log_p_TV), axis=-1),
                -at(next_T)[:, 0],
                jnp.sum(log_p_TV > at(choice_T), axis=-1),
            )

        return jax.lax.map(one, (streams, translators))

    result: Reading = subject.compiled(found)(ids[None].astype(np.int32), translators)
    loss = np.array(result.loss_LT)
    loss[:, -1] = np.nan
    return Reading(*result)._replace(loss_LT=loss)


def inspect(
    run: LoadedRun,
    *,
    text: str,
    source: str | None = None,
    tuned: bool = False,
    steps: int = 200,
    corpus: str | None = None,
    seed: int = 0,
) -> Result:
    """The prediction after every layer, at each token of a text.

    Args:
      run: the model.
      text: the text; for a model with an encoder, the target.
      source: the text that an encoder reads; None for a model without one.
      tuned: whether to train a tuned lens, and show it beside the logit lens.
      steps: the steps of its training.
      corpus: the text that it is trained on; None for the run's own.
      seed: the seed of that training.
    """
    subject, read_too = subject_of(run, source)
    if tuned and read_too is not None:
        raise UserError(
            "--tuned: its maps are trained on text without sources; leave it out for a model with an encoder"
        )
    tokens = read(run, text, most=MAX_TOKENS)
    readings = {"logit lens": reading(subject, tokens.ids)}
    numbers: dict[str, Any] = {}
    lines, notes = [], [*tokens.notes, *notes_of(read_too)]
    arrays: dict[str, np.ndarray] = {}
    if tuned:
        training = train_translators(run, steps=steps, corpus=corpus, seed=seed)
        readings["tuned lens"] = reading(subject, tokens.ids, training.translators)
        numbers["held_out"] = {"logit_lens_kl": training.kl_before_L, "tuned_lens_kl": training.kl_after_L}
        arrays |= {"translator_scale": training.translators.a_LDD, "translator_shift": training.translators.b_LD}
        kept = int(np.sum(training.kl_after_L < training.kl_before_L))
        lines.append(f"tuned lens: {kept} of {len(training.kl_before_L)} maps are better on held-out text, and kept")
        notes.append(
            f"Tuned lens: after {steps:,} steps {kept} of {len(training.kl_before_L)} maps have a lower KL than the "
            "logit lens on held-out text; the others change nothing. On this text it can be higher."
        )
    for name, each in readings.items():
        word = name.replace(" ", "_")
        numbers[word] = {
            "kl": each.kl_LT.mean(1),
            "loss": np.nanmean(each.loss_LT, axis=1) if len(tokens) > 1 else None,
        }
        arrays |= {f"{word}_{field}": x for field, x in each._asdict().items()}
        lines += [f"{name}, mean KL to the last layer by layer: " + " ".join(f"{x:.3f}" for x in each.kl_LT.mean(1))]
    return Result(
        title="Lens",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(tokens):,} tokens{words_on(read_too)}",
        numbers={"tokens": list(tokens.texts), "ids": tokens.ids, "layers": _rows(subject.config), **numbers},
        arrays=arrays,
        parts=[*(_map(run, name, each, tokens) for name, each in readings.items()), _table(subject.config, readings)],
        notes=notes,
        lines=lines,
    )


def _rows(config: ModelConfig) -> list[str]:
    return ["embedding", *(f"layer {number}" for number in range(config.num_layers))]


def _map(run: LoadedRun, name: str, found: Reading, tokens: Tokens) -> Widget:
    texts = dict(enumerate_texts(run, np.unique(found.top_ids_LTk)))
    # The last layer comes first, as in the figures of these papers.
    order = list(range(len(found.kl_LT)))[::-1]

    def words(layer: int, place: int) -> str:
        pairs = zip(found.top_ids_LTk[layer, place], found.top_probabilities_LTk[layer, place], strict=True)
        listed = "\n".join(f"{p:.3f}  {texts[int(i)]!r}" for i, p in pairs)
        return f"{listed}\nKL to the last layer {found.kl_LT[layer, place]:.3f} nats"

    places = range(len(tokens))
    cells = [[texts[int(found.top_ids_LTk[layer, place, 0])] for place in places] for layer in order]
    notes = [[words(layer, place) for place in places] for layer in order]
    views = {
        "probability of the first choice": found.top_probabilities_LTk[order, :, 0],
        "KL to the last layer, nats": found.kl_LT[order],
        "loss of the next token, nats": found.loss_LT[order],
    }
    return Widget(
        name="heatmap",
        title=f"{name.capitalize()}: the first choice after every layer",
        data={
            "rows": [_rows(run.experiment.model)[layer] for layer in order],
            "columns": list(tokens.texts),
            "values": packed(np.stack([np.asarray(x, np.float32) for x in views.values()])),
            "views": list(views),
            "texts": cells,
            "notes": [notes] * len(views),
            "rowName": "after",
            "columnName": "token",
            "low": 0,
        },
        caption="Each cell has the likeliest next token after this token and layer; point at it for more of them.",
    )


def enumerate_texts(run: LoadedRun, ids: np.ndarray) -> Sequence[tuple[int, str]]:
    """The text of each id."""
    return list(zip(map(int, ids), token_texts(run.tokenizer, ids), strict=True))


def _table(config: ModelConfig, readings: dict[str, Reading]) -> Table:
    head, columns = ["after"], []
    for name, found in readings.items():
        agrees = found.top_ids_LTk[:, :, 0] == found.top_ids_LTk[-1, :, 0]
        head += [f"{name}: KL, nats", "loss, nats", "same first choice"]
        losses = found.loss_LT[:, :-1]
        columns += [
            [f"{x:.4f}" for x in found.kl_LT.mean(1)],
            [f"{x:.4f}" for x in losses.mean(1)] if losses.size else ["\u2013"] * len(losses),
            [f"{x:.0%}" for x in agrees.mean(1)],
        ]
    return Table(
        title="Means over the text",
        head=head,
        rows=[list(row) for row in zip(_rows(config), *columns, strict=True)],
        caption="KL is the divergence from the model's own prediction, which the last layer has exactly.",
    )
