"""Norms of the residual stream by layer, and the path of a logit from the embedding to the last layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.taps.request import Tap
from train.inspection.choice import position_in, predictions, single_token
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.source import notes_of, subject_of, words_on
from train.inspection.stream.lens import streams_of
from train.inspection.stream.readout import lens
from train.inspection.subject import Subject
from train.inspection.text import read, token_texts
from train.run.loading import LoadedRun

MAX_TOKENS = 128


class Path(NamedTuple):
    """Norms and predictions; row 0 of L + 1 rows is the embedding.

    Attributes:
      norm_LT: the Euclidean norm of the stream after each layer; of several streams together.
      logit_LT, probability_LT: the logit and the probability of a token that the lens reads there.
    """

    norm_LT: Any
    logit_LT: Any
    probability_LT: Any


class Writes(NamedTuple):
    """The outputs of a sublayer in each layer that has it: norms, and cosines with the stream before the layer."""

    norm_LT: Any
    cosine_LT: Any


def path(subject: Subject, ids: np.ndarray, target: int) -> Path:
    """The norms of the stream of a text, int32 (T,), and the path of the logit of a token."""
    config = subject.config

    def found(params: Any, tokens_BT: jax.Array, target: jax.Array) -> Path:
        streams, _ = streams_of(subject, params, tokens_BT)

        def one(x: jax.Array) -> Path:
            logits_TV = lens(config, params, x, subject.layout)[0].astype(jnp.float32)
            squares = jnp.square(x[0].astype(jnp.float32)).reshape(x.shape[1], -1)
            return Path(
                jnp.sqrt(jnp.sum(squares, axis=-1)),
                logits_TV[:, target],
                jax.nn.softmax(logits_TV)[:, target],
            )

        return jax.lax.map(one, streams)

    return Path(*subject.compiled(found)(ids[None].astype(np.int32), np.int32(target)))


def writes(subject: Subject, ids: np.ndarray) -> dict[str, Writes]:
    """The outputs of sublayers over a text, by their name, where the stream is one vector a token."""
    config = subject.config
    if not config.residual.one_vector:
        return {}
    names = [name for name in ("mixer", "cross", "ffn") if any(name in layer.sublayers for layer in config.layers)]
    keep = [Tap("embedding"), Tap("block_output"), *(Tap(f"{name}_output") for name in names)]

    def found(params: Any, tokens_BT: jax.Array) -> dict[str, Writes]:
        taps = subject.stream(params, tokens_BT, keep).taps
        before = jnp.concatenate([taps["embedding"][None], taps["block_output"][:-1]]).astype(jnp.float32)
        result = {}
        for name in names:
            rows = np.array([n for n, layer in enumerate(config.layers) if name in layer.sublayers])
            y, x = taps[f"{name}_output"].astype(jnp.float32)[:, 0], before[rows][:, 0]
            sizes = jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1)
            cosine = jnp.sum(x * y, axis=-1) / jnp.maximum(sizes[0] * sizes[1], 1e-30)
            result[name] = Writes(sizes[0], cosine)
        return result

    computed = subject.compiled(found)(ids[None].astype(np.int32))
    return {name: Writes(*computed[name]) for name in names}


def inspect(
    run: LoadedRun, *, text: str, source: str | None = None, position: int = -1, answer: str | None = None
) -> Result:
    """The norms of the stream over a text, and the path of a logit at one of its tokens.

    Args:
      run: the model.
      text: the text; for a model with an encoder, the target.
      source: the text that an encoder reads; None for a model without one.
      position: the token after which the next one is predicted.
      answer: the token whose logit it is; None for the likeliest one.
    """
    subject, read_too = subject_of(run, source)
    tokens = read(run, text, most=MAX_TOKENS)
    at = position_in(tokens, position)
    chances = predictions(subject, tokens.ids, at)
    target = int(chances.argmax()) if answer is None else single_token(run, answer, "answer")
    found, written = path(subject, tokens.ids, target), writes(subject, tokens.ids)
    (name,) = token_texts(run.tokenizer, np.array([target]))
    rows = ["embedding", *(f"layer {n}" for n in range(subject.config.num_layers))]
    return Result(
        title="The residual stream",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(tokens):,} tokens \u00b7 the path of {name!r} after token "
        f"{at}, {tokens.texts[at]!r}{words_on(read_too)}",
        numbers={
            "tokens": list(tokens.texts),
            "rows": rows,
            "norm": found.norm_LT.mean(1),
            "position": at,
            "answer": {"id": target, "text": name, "probability": float(np.exp(chances[target]))},
            "logit": found.logit_LT[:, at],
            "probability": found.probability_LT[:, at],
        },
        arrays=found._asdict()
        | {f"{name}_{k}": x for name, each in written.items() for k, x in each._asdict().items()},
        parts=[_table(subject.config, rows, found, written, at), _map(rows, tokens.texts, found)],
        notes=[*tokens.notes, *notes_of(read_too)],
        lines=[
            f"{row}: norm {norm:.3f}, probability of {name!r} {chance:.4f}"
            for row, norm, chance in zip(rows, found.norm_LT.mean(1), found.probability_LT[:, at], strict=True)
        ],
    )


def _table(config: ModelConfig, rows: list[str], found: Path, written: dict[str, Writes], at: int) -> Table:
    head = ["after", "norm of the stream", "logit", "probability"]
    columns = [
        [f"{x:.3f}" for x in found.norm_LT.mean(1)],
        [f"{x:z.3f}" for x in found.logit_LT[:, at]],
        [f"{x:.4f}" for x in found.probability_LT[:, at]],
    ]
    for name, each in written.items():
        numbers = [n for n, layer in enumerate(config.layers) if name in layer.sublayers]
        head += [f"norm of {name}", f"cosine of {name}"]
        norms, cosines = (dict(zip(numbers, x.mean(1), strict=True)) for x in each)
        for values in (norms, cosines):
            columns.append(
                ["\u2013", *(f"{values[n]:z.3f}" if n in values else "\u2013" for n in range(len(rows) - 1))]
            )
    return Table(
        title="Layer by layer",
        head=head,
        rows=[list(row) for row in zip(rows, *columns, strict=True)],
        caption=f"Norms and cosines are means over the text; a cosine is that of a sublayer's output with the stream "
        f"before the layer. Logit and probability are those that the logit lens reads at token {at}.",
    )


def _map(rows: list[str], texts: tuple[str, ...], found: Path) -> Widget:
    views = {
        "norm of the stream": found.norm_LT,
        "logit of the answer": found.logit_LT,
        "probability of the answer": found.probability_LT,
    }
    return Widget(
        name="heatmap",
        title="Token by token",
        data={
            "rows": rows,
            "columns": list(texts),
            "turned": True,
            "values": packed(np.stack(list(views.values()))),
            "views": list(views),
            "rowName": "after",
            "columnName": "token",
        },
    )
