"""Maps of attention: the weight that each token gives to each, by layer and head; entropy and distance of heads.

With weights a_ts of query t and key s, the entropy of a head is the mean over t of -sum_s a_ts log a_ts, in nats, and
its distance the mean over t of sum_s a_ts |t - s|, in tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.inspection.page.page import packed
from train.inspection.result import Result, Widget
from train.inspection.subject import Subject, by_layer, chosen_layers, layers_with
from train.inspection.text import Tokens, read
from train.run.loading import LoadedRun

MAX_TOKENS = 256  # on a page
MAX_WEIGHTS = 8 << 20  # on a page, a byte each

TAP = "attention_weights"


class HeadShape(NamedTuple):
    """The shape of a head's attention: entropy in nats, distance in tokens, the share of the first token."""

    entropy_N: np.ndarray
    distance_N: np.ndarray
    first_N: np.ndarray


def shape_of_heads(weights_NTS: np.ndarray) -> HeadShape:
    """The entropy, the distance and the share of the first token of each head, means over queries."""
    weights = weights_NTS.astype(np.float64)
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    length = np.arange(weights.shape[-1])
    apart_TS = np.abs(length[:, None] - length[None, :])
    return HeadShape(
        entropy_N=-(weights * logs).sum(-1).mean(-1),
        distance_N=(weights * apart_TS).sum(-1).mean(-1),
        first_N=weights[:, :, 0].mean(-1),
    )


def inspect(run: LoadedRun, *, text: str, layers: Sequence[int] | None = None) -> Result:
    """Maps of attention over a text.

    Args:
      run: the model.
      text: the text; of a long one the first tokens.
      layers: the layers to look at; None for all that have attention.
    """
    subject = Subject.of(run)
    numbers = chosen_layers(subject.config, TAP, layers)
    heads = [layers_with(subject.config, TAP)[number][1] for number in numbers]
    tokens = read(run, text, most=_most_tokens(sum(heads)))
    maps = {n: x[0] for n, x in by_layer(subject, tokens.ids[None], TAP, numbers).items()}
    shapes = {n: shape_of_heads(weights) for n, weights in maps.items()}
    return Result(
        title="Attention",
        about=f"{run.folder}, step {run.step:,} · {len(tokens):,} tokens",
        numbers={
            "tokens": list(tokens.texts),
            "ids": tokens.ids,
            "heads": [
                {
                    "layer": n,
                    "head": head,
                    "entropy": shape.entropy_N[head],
                    "distance": shape.distance_N[head],
                    "first_token": shape.first_N[head],
                }
                for n, shape in shapes.items()
                for head in range(len(shape.entropy_N))
            ],
        },
        arrays={f"layer_{n}": weights for n, weights in maps.items()},
        parts=[_map(tokens, maps), _heads(shapes, len(tokens))],
        notes=tokens.notes,
        lines=_lines(shapes),
    )


def _most_tokens(heads: int) -> int:
    return max(2, min(MAX_TOKENS, int((MAX_WEIGHTS / heads) ** 0.5)))


def _map(tokens: Tokens, maps: dict[int, np.ndarray]) -> Widget:
    weights = [packed(np.rint(255 * np.sqrt(np.clip(x, 0, 1))).astype(np.uint8)) for x in maps.values()]
    return Widget(
        name="attention",
        title="Attention over the text",
        data={"tokens": tokens.texts, "ids": tokens.ids, "layers": list(maps), "weights": weights},
        caption="Point at a token or at the map. Rows of the map are the tokens that attend, columns the tokens that "
        "they attend to; a stronger colour is a larger weight. arrays.npz has the weights in float32.",
    )


def _heads(shapes: dict[int, HeadShape], length: int) -> Widget:
    widest = max(len(shape.entropy_N) for shape in shapes.values())
    views = {
        "entropy, nats": "entropy_N",
        "mean distance, tokens": "distance_N",
        "share of the first token": "first_N",
    }
    values = np.full((len(views), len(shapes), widest), np.nan, np.float32)
    for view, name in enumerate(views.values()):
        for row, shape in enumerate(shapes.values()):
            values[view, row, : len(shape.entropy_N)] = getattr(shape, name)
    uniform = float(np.log(np.arange(1, length + 1)).mean())
    return Widget(
        name="heatmap",
        title="Heads",
        data={
            "rows": list(shapes),
            "columns": list(range(widest)),
            "values": packed(values),
            "views": list(views),
            "rowName": "layer",
            "columnName": "head",
            "low": 0,
        },
        caption=f"Means over the tokens of this text. A head that gives all earlier tokens the same weight has an "
        f"entropy of {uniform:.2f} nats and a mean distance of {(length - 1) / 4:.1f} tokens.",
    )


def _lines(shapes: dict[int, HeadShape]) -> list[str]:
    lines = ["layer  head  entropy  distance  first token"]
    for number, shape in shapes.items():
        for head, (entropy, distance, first) in enumerate(zip(*shape, strict=True)):
            lines.append(f"{number:>5}  {head:>4}  {entropy:>7.3f}  {distance:>8.2f}  {first:>11.3f}")
    return lines
