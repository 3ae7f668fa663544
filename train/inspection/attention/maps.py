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
from train.inspection.page.page import packed
from train.inspection.result import Part, Result, Widget
from train.inspection.source import encoder_of, subject_of
from train.inspection.subject import Subject, by_layer, chosen_layers, layers_with
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
      layers: the layers to look at, from 0.
      causal: whether a query sees itself and earlier tokens alone.
    """

    name: str
    subject: Subject
    tap: str
    layers: list[int]
    causal: bool

    def num_heads(self) -> int:
        """The heads of all of the layers."""
        known = layers_with(self.subject.config, self.tap)
        return sum(known[number][1] for number in self.layers)


class Maps(NamedTuple):
    """The maps of one kind of attention.

    Attributes:
      name, causal: as in `Attention`.
      queries, keys: the tokens that attend, and those that they attend to.
      weights: by layer, (N, T, S).
    """

    name: str
    causal: bool
    queries: Tokens
    keys: Tokens
    weights: dict[int, np.ndarray]

    def shapes(self) -> dict[int, HeadShape]:
        """The shapes of heads, by layer."""
        return {number: shape_of_heads(weights) for number, weights in self.weights.items()}

    def uniform(self) -> HeadShape:
        """The shape of a head that gives the same weight to all tokens that its queries see."""
        seen_TS = np.ones((len(self.queries), len(self.keys)))
        seen_TS = np.tril(seen_TS) if self.causal else seen_TS
        return shape_of_heads((seen_TS / seen_TS.sum(-1, keepdims=True))[None])


def inspect(run: LoadedRun, *, text: str, source: str | None = None, layers: Sequence[int] | None = None) -> Result:
    """Maps of attention over a text.

    Args:
      run: the model.
      text: the text; of a long one the first tokens. For a model with an encoder, the target.
      source: the text that an encoder reads; None for a model without one.
      layers: the layers to look at, of the encoder and of the decoder; None for all that have attention.
    """
    most = _most_tokens(sum(each.num_heads() for each in _kinds(subject_of(run, source)[0], layers)))
    subject, read_by_encoder = subject_of(run, source, most=most)
    tokens = read(run, text, most=most)
    found = [_maps_of(each, tokens, read_by_encoder) for each in _kinds(subject, layers)]
    missing = [name for name in ("encoder", "decoder") if source is not None and name not in [x.name for x in found]]
    sources = (
        {} if read_by_encoder is None else {"source": list(read_by_encoder.texts), "source_ids": read_by_encoder.ids}
    )
    shapes = [each.shapes() for each in found]
    return Result(
        title="Attention",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(tokens):,} tokens"
        + ("" if read_by_encoder is None else f", a source of {len(read_by_encoder):,}"),
        numbers={
            "tokens": list(tokens.texts),
            "ids": tokens.ids,
            **sources,
            "heads": [
                ({"of": each.name} if each.name else {})
                | {
                    "layer": n,
                    "head": head,
                    "entropy": shape.entropy_N[head],
                    "distance": shape.distance_N[head],
                    "first_token": shape.first_N[head],
                }
                for each, of_layers in zip(found, shapes, strict=True)
                for n, shape in of_layers.items()
                for head in range(len(shape.entropy_N))
            ],
        },
        arrays={f"{each.name}_layer_{n}".removeprefix("_"): x for each in found for n, x in each.weights.items()},
        parts=[part for each, of_layers in zip(found, shapes, strict=True) for part in _parts(each, of_layers)],
        notes=[
            *tokens.notes,
            *(() if read_by_encoder is None else read_by_encoder.notes),
            *(f"The layers of the {name} that are shown have no self-attention, and so no maps." for name in missing),
        ],
        lines=[line for each, of_layers in zip(found, shapes, strict=True) for line in _lines(each.name, of_layers)],
    )


def _kinds(subject: Subject, layers: Sequence[int] | None) -> list[Attention]:
    """The kinds of attention of a model. Raises UserError for layers that none of them has."""
    config = subject.config
    if subject.source_S is None:
        return [Attention("", subject, TAP, chosen_layers(config, TAP, layers), config.visibility.decodes)]
    encoder = encoder_of(subject)
    all_of_them = [("decoder", subject, TAP, True), ("cross", subject, CROSS_TAP, False)]
    if encoder is not None:
        all_of_them.insert(0, ("encoder", encoder, TAP, False))
    if layers is not None:
        there = {n for n in layers for _, one, tap, _ in all_of_them if _number(one, tap, n) is not None}
        if lost := [n for n in layers if n not in there]:
            last = max(one.config.num_layers for _, one, _, _ in all_of_them) - 1
            raise UserError(
                f"--layers: neither encoder nor decoder has attention in a layer {lost[0]}; give 0 to {last}"
            )
    found = []
    for name, one, tap, causal in all_of_them:
        known = layers_with(one.config, tap)
        numbers = list(known) if layers is None else [_number(one, tap, n) for n in layers]
        chosen = list(dict.fromkeys(n for n in numbers if n is not None))
        if chosen:
            found.append(Attention(name, one, tap, chosen, causal))
    return found


def _number(subject: Subject, tap: str, layer: int) -> int | None:
    """A layer counted from 0; None where it is not there or has no such tap."""
    count = subject.config.num_layers
    number = layer % count if -count <= layer < count else None
    return number if number in layers_with(subject.config, tap) else None


def _maps_of(kind: Attention, text: Tokens, source: Tokens | None) -> Maps:
    """The weights over a text, or over the source, or from the text to it."""
    queries = source if kind.name == "encoder" and source is not None else text
    keys = source if kind.name in ("encoder", "cross") and source is not None else text
    weights = {n: x[0] for n, x in by_layer(kind.subject, queries.ids[None], kind.tap, kind.layers).items()}
    return Maps(kind.name, kind.causal, queries, keys, weights)


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
    uniform = maps.uniform()
    seen = "all earlier tokens" if maps.causal else _SEEN.get(maps.name, "all tokens")
    return Widget(
        name="heatmap",
        title=_HEADS[maps.name],
        data={
            "rows": list(shapes),
            "columns": list(range(widest)),
            "values": packed(values),
            "views": list(views),
            "rowName": "layer",
            "columnName": "head",
            "low": 0,
        },
        caption=f"Means over the tokens that attend. A head that gives {seen} the same weight has an entropy of "
        f"{uniform.entropy_N[0]:.2f} nats and a mean distance of {uniform.distance_N[0]:.1f} tokens."
        + (" The distance is that of the numbers of both tokens." if maps.name == "cross" else ""),
    )


def _lines(name: str, shapes: Mapping[int, HeadShape]) -> list[str]:
    lines = [*([_HEADS[name]] if name else []), "layer  head  entropy  distance  first token"]
    for number, shape in shapes.items():
        for head, (entropy, distance, first) in enumerate(zip(*shape, strict=True)):
            lines.append(f"{number:>5}  {head:>4}  {entropy:>7.3f}  {distance:>8.2f}  {first:>11.3f}")
    return lines
