"""Maps of attention: the weight that each token gives to each, by layer and head; entropy and distance of heads.

With weights a_ts of query t and key s, the entropy of a head is the mean over t of -sum_s a_ts log a_ts, in nats, and
its distance the mean over t of sum_s a_ts |t - s|, in tokens. A model with an encoder has three kinds of maps: of the
encoder over the source, of the decoder over the text, and of cross-attention from the text to the source; in one
without self-attention (Bahdanau et al. 2015) the last are the alignment of the two.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model.errors import UserError
from train.inspection.choice import Heads, heads_in
from train.inspection.page.page import packed
from train.inspection.result import Part, Result, Widget
from train.inspection.source import encoder_of, notes_of, subject_of, words_on
from train.inspection.subject import EMPTY, Subject, by_layer, chosen_layers, layers_with
from train.inspection.text import Tokens, read
from train.run.loading import LoadedRun

MAX_TOKENS = 256  # on a page
MAX_WEIGHTS = 8 << 20  # on a page, a byte each

TAP = "attention_weights"
CROSS_TAP = "cross_weights"


class HeadShape(NamedTuple):
    """The shape of a head's attention: entropy in nats, distance in tokens, the share of the first token."""

    entropy_N: np.ndarray
    distance_N: np.ndarray
    first_N: np.ndarray


def shape_of_heads(weights_NTS: np.ndarray) -> HeadShape:
    """The entropy, the distance and the share of the first token of each head, means over queries."""
    weights = weights_NTS.astype(np.float64)
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    queries, keys = (np.arange(length) for length in weights.shape[-2:])
    apart_TS = np.abs(queries[:, None] - keys[None, :])
    return HeadShape(
        entropy_N=-(weights * logs).sum(-1).mean(-1),
        distance_N=(weights * apart_TS).sum(-1).mean(-1),
        first_N=weights[:, :, 0].mean(-1),
    )


class Attention(NamedTuple):
    """Attention of one kind that a model has.

    Attributes:
      name: encoder, decoder or cross; "" for the only one.
      subject: the model that it is read from.
      tap: the tap of its weights.
      heads: by layer, from 0, the numbers of the heads to look at.
      causal: whether a query sees itself and earlier tokens alone.
    """

    name: str
    subject: Subject
    tap: str
    heads: dict[int, list[int]]
    causal: bool


class Maps(NamedTuple):
    """The maps of one kind of attention.

    Attributes:
      name, causal: as in `Attention`.
      queries, keys: the tokens that attend, and those that they attend to.
      heads: the numbers of the heads, by layer.
      weights: theirs by layer, (N, T, S).
    """

    name: str
    causal: bool
    queries: Tokens
    keys: Tokens
    heads: dict[int, list[int]]
    weights: dict[int, np.ndarray]

    def shapes(self) -> dict[int, HeadShape]:
        """The shapes of heads, by layer."""
        return {number: shape_of_heads(weights) for number, weights in self.weights.items()}

    def uniform(self) -> HeadShape:
        """The shape of a head that gives the same weight to all tokens that its queries see."""
        seen_TS = np.ones((len(self.queries), len(self.keys)))
        seen_TS = np.tril(seen_TS) if self.causal else seen_TS
        return shape_of_heads((seen_TS / seen_TS.sum(-1, keepdims=True))[None])


def inspect(
    run: LoadedRun,
    *,
    text: str,
    source: str | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
) -> Result:
    """Maps of attention over a text.

    Args:
      run: the model.
      text: the text; of a long one the first tokens. For a model with an encoder, the target.
      source: the text that an encoder reads; None for a model without one.
      layers: the layers to look at, of the encoder and of the decoder; None for all that have attention.
      heads: the heads to show, such as 1.4 for head 4 of layer 1; None for all of the layers.
    """
    kinds = _kinds(subject_of(run, source)[0], layers, heads)
    most = _most_tokens(sum(len(numbers) for each in kinds for numbers in each.heads.values()))
    subject, read_by_encoder = subject_of(run, source, most=most)
    tokens = read(run, text, most=most)
    found = [_maps_of(each, tokens, read_by_encoder) for each in _kinds(subject, layers, heads)]
    missing = [name for name in ("encoder", "decoder") if source is not None and name not in [x.name for x in found]]
    sources = (
        {} if read_by_encoder is None else {"source": list(read_by_encoder.texts), "source_ids": read_by_encoder.ids}
    )
    shapes = [each.shapes() for each in found]
    return Result(
        title="Attention",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(tokens):,} tokens{words_on(read_by_encoder)}",
        numbers={
            "tokens": list(tokens.texts),
            "ids": tokens.ids,
            **sources,
            "heads": [
                ({"of": each.name} if each.name else {})
                | {
                    "layer": n,
                    "head": head,
                    "entropy": shape.entropy_N[row],
                    "distance": shape.distance_N[row],
                    "first_token": shape.first_N[row],
                }
                for each, of_layers in zip(found, shapes, strict=True)
                for n, shape in of_layers.items()
                for row, head in enumerate(each.heads[n])
            ],
        },
        arrays={f"{each.name}_layer_{n}".removeprefix("_"): x for each in found for n, x in each.weights.items()},
        parts=[part for each, of_layers in zip(found, shapes, strict=True) for part in _parts(each, of_layers)],
        notes=[
            *tokens.notes,
            *notes_of(read_by_encoder),
            *(f"Of the {name} nothing is shown: no self-attention is chosen, or it has none." for name in missing),
        ],
        lines=[line for each, of_layers in zip(found, shapes, strict=True) for line in _lines(each, of_layers)],
    )


def _kinds(subject: Subject, layers: Sequence[int] | None, heads: Sequence[str] | None) -> list[Attention]:
    """The kinds of attention of a model that have heads to show. Raises UserError for layers and heads of none."""
    config = subject.config
    if subject.source_S is None:
        of_all = [("", subject, TAP, config.visibility.decodes)]
    else:
        encoder = encoder_of(subject)
        of_all = [] if encoder is None else [("encoder", encoder, TAP, False)]
        of_all += [("decoder", subject, TAP, True), ("cross", subject, CROSS_TAP, False)]
    there = [Heads(one.config.num_layers, _counts(one, tap)) for _, one, tap, _ in of_all]
    if heads is not None:
        if not any(each.counts for each in there):
            chosen_layers(config, TAP, None)  # raises: there is no attention
        chosen = heads_in(there, heads, layers)
    elif subject.source_S is None:
        chosen = [{n: list(range(there[0].counts[n])) for n in chosen_layers(config, TAP, layers)}]
    else:
        chosen = _of_layers(there, layers)
    return [
        Attention(name, one, tap, numbers, causal)
        for (name, one, tap, causal), numbers in zip(of_all, chosen, strict=True)
        if numbers
    ]


def _counts(subject: Subject, tap: str) -> dict[int, int]:
    """The heads of the layers that have some."""
    return {number: shape[1] for number, shape in layers_with(subject.config, tap).items()}


def _of_layers(there: Sequence[Heads], layers: Sequence[int] | None) -> list[dict[int, list[int]]]:
    """The heads of layers of each part of a model, or of all layers. Raises UserError for layers that no part has."""
    if layers is None:
        return [{n: list(range(count)) for n, count in each.counts.items()} for each in there]
    if not layers:
        raise UserError(EMPTY.format("layers"))
    found: list[dict[int, list[int]]] = []
    for each in there:
        numbers = [n % each.num_layers for n in layers if -each.num_layers <= n < each.num_layers]
        if len(set(numbers)) < len(numbers):
            raise UserError(f"--layers={','.join(map(str, layers))} names a layer twice")
        found.append({n: list(range(each.counts[n])) for n in numbers if n in each.counts})
    for n in layers:
        if not any(n % each.num_layers in each.counts for each in there if -each.num_layers <= n < each.num_layers):
            last = max(each.num_layers for each in there) - 1
            raise UserError(f"--layers: neither encoder nor decoder has attention in a layer {n}; give 0 to {last}")
    return found


def _maps_of(kind: Attention, text: Tokens, source: Tokens | None) -> Maps:
    """The weights over a text, or over the source, or from the text to it."""
    queries = source if kind.name == "encoder" and source is not None else text
    keys = source if kind.name in ("encoder", "cross") and source is not None else text
    every = by_layer(kind.subject, queries.ids[None], kind.tap, list(kind.heads))
    weights = {n: x[0, kind.heads[n]] for n, x in every.items()}
    return Maps(kind.name, kind.causal, queries, keys, kind.heads, weights)


def _most_tokens(heads: int) -> int:
    return max(2, min(MAX_TOKENS, int((MAX_WEIGHTS / heads) ** 0.5)))


_TITLES = {
    "": "Attention over the text",
    "encoder": "The encoder's attention over the source",
    "decoder": "The decoder's attention over the text",
    "cross": "Cross-attention: from the text to the source",
}
_HEADS = {
    "": "Heads",
    "encoder": "Heads of the encoder",
    "decoder": "Heads of the decoder",
    "cross": "Heads of cross-attention",
}
_SEEN = {"encoder": "all tokens of the source", "cross": "all tokens of the source"}


def _parts(maps: Maps, shapes: Mapping[int, HeadShape]) -> list[Part]:
    return [_map(maps), _heads(maps, shapes)]


def _map(maps: Maps) -> Widget:
    weights = [packed(np.rint(255 * np.sqrt(np.clip(x, 0, 1))).astype(np.uint8)) for x in maps.weights.values()]
    data = {"tokens": maps.queries.texts, "ids": maps.queries.ids, "layers": list(maps.weights), "weights": weights}
    data["heads"] = list(maps.heads.values())
    crossing = maps.name == "cross"
    return Widget(
        name="attention",
        title=_TITLES[maps.name],
        data=data | ({"source": maps.keys.texts, "sourceIds": maps.keys.ids} if crossing else {}),
        caption="Point at a token or at the map. Rows of the map are the tokens that attend, columns the tokens "
        + ("of the source " if crossing else "")
        + "that they attend to; a stronger colour is a larger weight. arrays.npz has the weights in float32.",
    )


def _heads(maps: Maps, shapes: Mapping[int, HeadShape]) -> Widget:
    columns = sorted({head for numbers in maps.heads.values() for head in numbers})
    views = {
        "entropy, nats": "entropy_N",
        "mean distance, tokens": "distance_N",
        "share of the first token": "first_N",
    }
    values = np.full((len(views), len(shapes), len(columns)), np.nan, np.float32)
    for view, name in enumerate(views.values()):
        for row, (number, shape) in enumerate(shapes.items()):
            values[view, row, [columns.index(head) for head in maps.heads[number]]] = getattr(shape, name)
    uniform = maps.uniform()
    seen = "all earlier tokens" if maps.causal else _SEEN.get(maps.name, "all tokens")
    return Widget(
        name="heatmap",
        title=_HEADS[maps.name],
        data={
            "rows": list(shapes),
            "columns": columns,
            "values": packed(values),
            "views": list(views),
            "rowName": "layer",
            "columnName": "head",
            "low": 0,
        },
        caption=f"Means over the tokens that attend. A head that gives {seen} the same weight has an entropy of "
        f"{uniform.entropy_N[0]:.2f} nats and a mean distance of {uniform.distance_N[0]:.1f} tokens."
        + (" A dash is a head that is not shown, or not there." if np.isnan(values).any() else "")
        + (" The distance is that of the numbers of both tokens." if maps.name == "cross" else ""),
    )


def _lines(maps: Maps, shapes: Mapping[int, HeadShape]) -> list[str]:
    lines = [*([_HEADS[maps.name]] if maps.name else []), "layer  head  entropy  distance  first token"]
    for number, shape in shapes.items():
        for head, entropy, distance, first in zip(maps.heads[number], *shape, strict=True):
            lines.append(f"{number:>5}  {head:>4}  {entropy:>7.3f}  {distance:>8.2f}  {first:>11.3f}")
    return lines
