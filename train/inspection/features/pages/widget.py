"""The part of a page that shows units one by one: train/inspection/page/units.js draws it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.data.tokenizers.interface import Tokenizer
from train.inspection.features.pages.effects import extremes
from train.inspection.features.pages.top_texts import EDGES, Collected
from train.inspection.result import Widget
from train.inspection.text import token_texts

TOP_LOGITS = 10


def units_widget(
    collected: Collected, tokenizer: Tokenizer, logits_UV: np.ndarray | None, title: str, word: str
) -> Widget:
    """The widget of units; `word` is "feature" or "neuron", `logits_UV` None where a unit has no direction."""
    tops = None if logits_UV is None else extremes(logits_UV, TOP_LOGITS)
    used = [example.tokens for unit in collected.units for example in unit.examples]
    ids = np.unique(np.concatenate([np.zeros(0, np.int32), *(np.ravel(each) for each in (*used, *(tops or ())))]))
    known = dict(zip(map(int, ids), token_texts(tokenizer, np.asarray(ids, np.int32)), strict=True))

    def named(token: int) -> str:
        """The text of a token, or its id where it is a part of a character."""
        return f"id {token}" if "\ufffd" in known[token] else known[token]

    def pairs(place: int, which: int) -> list[list[Any]]:
        if tops is None or logits_UV is None:
            return []
        return [[named(int(i)), round(float(logits_UV[place, i]), 3)] for i in tops[which][place]]

    units = [
        {
            "number": unit.number,
            "density": unit.fired / max(collected.tokens, 1),
            "largest": unit.examples[0].largest if unit.examples else 0.0,
            "counts": _trimmed(unit.counts),
            "promoted": pairs(place, 0),
            "suppressed": pairs(place, 1),
            "examples": [
                {
                    "tokens": [known[int(i)] for i in example.tokens],
                    "activations": [round(float(x), 4) for x in example.activations],
                    "peak": example.peak,
                }
                for example in unit.examples
            ],
        }
        for place, unit in enumerate(collected.units)
    ]
    return Widget(name="units", title=title, data={"units": units, "word": word}, caption=_CAPTION)


_CAPTION = (
    "Each text is around the token at which the unit is largest; the colour of a token is its activation as a share of "
    "the unit's largest one, orange below zero. Point at a token for its number. Bars: how many tokens have an "
    "activation of each size; both axes are logarithmic. Logits are those of the unit's direction after the last norm, "
    "less their mean."
)


def _trimmed(counts: np.ndarray) -> dict[str, Sequence[float]]:
    """The bins from the first to the last that is not empty, with the edges of the first and the last."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return {"edges": [], "counts": []}
    first, last = int(filled[0]), int(filled[-1])
    return {"edges": [float(EDGES[first]), float(EDGES[last + 1])], "counts": counts[first : last + 1].tolist()}
