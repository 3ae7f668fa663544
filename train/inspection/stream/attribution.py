"""Direct logit attribution: the shares of sublayers, heads and neurons in a logit of a text; parts.py computes them."""

from typing import Any

import numpy as np

from train.inspection.choice import position_in, predictions, single_token
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.source import notes_of, subject_of, words_on
from train.inspection.stream.parts import Shares, attribute
from train.inspection.stream.readout import check_additive
from train.inspection.subject import Subject
from train.inspection.text import read, token_texts
from train.run.loading import LoadedRun

MOST_NEURONS = 25  # in the table


def inspect(
    run: LoadedRun,
    *,
    text: str,
    source: str | None = None,
    position: int = -1,
    answer: str | None = None,
    wrong: str | None = None,
) -> Result:
    """The shares in the logit of a next token, or in the difference of two.

    Args:
      run: the model.
      text: the text; for a model with an encoder, the target.
      source: the text that an encoder reads; None for a model without one.
      position: the token after which the next one is predicted.
      answer: the token whose logit it is; None for the likeliest one.
      wrong: a token whose logit is taken off it, or None.
    """
    subject, read_too = subject_of(run, source)
    check_additive(subject.config)
    tokens = read(run, text)
    at = position_in(tokens, position)
    chances = predictions(subject, tokens.ids, at)
    target = int(chances.argmax()) if answer is None else single_token(run, answer, "answer")
    against = None if wrong is None else single_token(run, wrong, "wrong")
    shares = attribute(subject, tokens.ids, at, target, against)
    names = token_texts(run.tokenizer, np.array([target] if against is None else [target, against]))
    words = f"logit of {names[0]!r}" + ("" if against is None else f" less that of {names[1]!r}")
    return Result(
        title="Shares of a logit",
        about=f"{run.folder}, step {run.step:,} \u00b7 {words}, after token {at}, {tokens.texts[at]!r}, of "
        f"{len(tokens):,}{words_on(read_too)}",
        numbers={
            "position": at,
            "answer": {"id": target, "text": names[0], "probability": float(np.exp(chances[target]))},
            "wrong": None if against is None else {"id": against, "text": names[1]},
            "logits": shares.logits,
            "total_before_softcap": shares.total,
            "bias": shares.bias,
            "parts": shares.parts,
            "heads": {n: x for n, (x, _) in shares.heads.items()},
            "biases_of_mixers": {n: rest for n, (_, rest) in shares.heads.items()},
            **(_of_cross(shares) if shares.cross_heads else {}),
            "biases_of_ffns": {n: rest for n, (_, rest) in shares.neurons.items()},
        },
        arrays={f"neurons_{n}": x for n, (x, _) in shares.neurons.items()},
        parts=[
            _parts(shares),
            *_heads("Heads", "mixer", shares.heads),
            *_heads("Heads of cross-attention", "cross-attention", shares.cross_heads),
            *_neurons(shares),
        ],
        notes=[*tokens.notes, *notes_of(read_too), *_left_out(subject, shares)],
        lines=[f"{name}: {share:+z.4f}" for name, share in [*shares.parts.items(), ("bias", shares.bias)]]
        + [f"sum: {shares.total:+z.4f}"],
    )


def _left_out(subject: Subject, shares: Shares) -> list[str]:
    config = subject.config
    without = [n for n, layer in enumerate(config.layers) if layer.ffn is not None and n not in shares.neurons]
    listed = ", ".join(map(str, without))
    return [f"Neurons of layers with experts are left out: {listed}."] if without else []


def _parts(shares: Shares) -> Table:
    rows, so_far = [], shares.bias
    rows.append(["bias", f"{shares.bias:+z.4f}", f"{so_far:+z.4f}"])
    for name, share in shares.parts.items():
        so_far += share
        rows.append([name, f"{share:+z.4f}", f"{so_far:+z.4f}"])
    return Table(
        title="Parts of the stream",
        head=["part", "share", "sum so far"],
        rows=rows,
        caption="The last norm is linearised with its own statistics: it divides each part as it divides the whole "
        f"stream. The parts and the bias sum to {shares.total:+z.4f}, the logit before a soft-cap.",
    )


def _of_cross(shares: Shares) -> dict[str, dict[int, Any]]:
    """The numbers of cross-attention."""
    heads, biases = ({n: pair[i] for n, pair in shares.cross_heads.items()} for i in (0, 1))
    return {"cross_heads": heads, "biases_of_cross": biases}


def _heads(title: str, sublayer: str, heads: dict[int, tuple[np.ndarray, float]]) -> list[Widget]:
    if not heads:
        return []
    widest = max(len(x) for x, _ in heads.values())
    values = np.full((len(heads), widest), np.nan, np.float32)
    for row, (x, _) in enumerate(heads.values()):
        values[row, : len(x)] = x
    most = max(float(np.nanmax(np.abs(values))), 1e-9)
    return [
        Widget(
            name="heatmap",
            title=title,
            data={
                "rows": list(heads),
                "columns": list(range(widest)),
                "values": packed(values),
                "rowName": "layer",
                "columnName": "head",
                "low": -most,
                "high": most,
            },
            caption=f"The shares of the heads of a layer, and of their biases, sum to that of its {sublayer}.",
        )
    ]


def _neurons(shares: Shares) -> list[Table]:
    if not shares.neurons:
        return []
    entries = [(abs(x), x, n, int(f)) for n, (values, _) in shares.neurons.items() for f, x in enumerate(values)]
    largest = sorted(entries, reverse=True)[:MOST_NEURONS]
    return [
        Table(
            title="Neurons with the largest shares",
            head=["layer", "neuron", "share"],
            rows=[[str(n), str(f), f"{x:+z.4f}"] for _, x, n, f in largest],
            caption=f"{len(largest)} of {len(entries):,} neurons; arrays.npz has all.",
        )
    ]
