"""Positions of a text, layers, heads, and tokens of the vocabulary that a user names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.transformer import logits
from train.inspection.subject import Subject
from train.inspection.text import Tokens, encode
from train.run.loading import LoadedRun


def position_in(tokens: Tokens, position: int, prefix: str | None = None) -> int:
    """A position counted from 0. Raises UserError for one that is not there, which starts with `prefix`."""
    count = len(tokens)
    if not -count <= position < count:
        given = f"--position={position}" if prefix is None else prefix
        raise UserError(f"{given}: {tokens.extent}; give 0 to {count - 1}, or -1 for the last")
    return position % count


def positions_in(tokens: Tokens, positions: Sequence[int]) -> list[int]:
    """The positions of --positions counted from 0, each once. Raises UserError for missing ones and for none."""
    if not positions:
        raise UserError("--positions is empty; give numbers of tokens, such as 3,-1")
    return list(dict.fromkeys(position_in(tokens, n, f"--positions: no token {n}") for n in positions))


def layer_in(config: ModelConfig, layer: int) -> int:
    """A layer counted from 0. Raises UserError for one that is not there."""
    if not -config.num_layers <= layer < config.num_layers:
        raise UserError(f"--layer={layer}: the model has layers 0 to {config.num_layers - 1}, -1 is the last")
    return layer % config.num_layers


class Heads(NamedTuple):
    """The heads that a part of a model has: the number of its layers, and the heads of those that have some."""

    num_layers: int
    counts: Mapping[int, int]


def heads_in(parts: Sequence[Heads], names: Sequence[str], layers: Sequence[int] | None) -> list[dict[int, list[int]]]:
    """The heads of --heads in each part of a model: by layer their numbers, in order.

    Args:
      parts: the heads that are there, in a model with an encoder those of its parts.
      names: names such as 1.4, for head 4 of layer 1; -1.4 is one of the last layer.
      layers: the value of --layers, which the names say too.

    Raises:
      UserError: for another form, a head that no part has, with the nearest that is there, one that is named twice,
        for none, and for layers beside heads.
    """
    if layers is not None:
        raise UserError("--layers has no effect beside --heads, whose names have the layer; leave one of them out")
    if not names:
        raise UserError("--heads is empty; give heads such as 0.2,1.4: the layer and the head")
    found: list[dict[int, list[int]]] = [{} for _ in parts]
    for name in names:
        form = re.fullmatch(r"(-?\d{1,6})\.(\d{1,6})", name.strip())
        if form is None:
            raise UserError(f"--heads={name[:40]!r}: expected a layer and a head, such as 1.4 for head 4 of layer 1")
        layer, head = int(form[1]), int(form[2])
        missing = True
        for part, chosen in zip(parts, found, strict=True):
            number = layer % part.num_layers if -part.num_layers <= layer < part.num_layers else -1
            if head < part.counts.get(number, 0):
                if head in chosen.get(number, []):
                    raise UserError(f"--heads={','.join(names)[:80]} names head {number}.{head} twice; name it once")
                chosen.setdefault(number, []).append(head)
                missing = False
        if missing:
            raise UserError(f"--heads: there is no head {name[:40]}; {_nearest_head(parts, layer, head)}")
    return [{number: sorted(heads) for number, heads in sorted(chosen.items())} for chosen in found]


def _nearest_head(parts: Sequence[Heads], layer: int, head: int) -> str:
    """The head of the nearest layer with the nearest number, in words."""
    there = [
        (
            abs((layer if layer >= 0 else layer + part.num_layers) - number),
            abs(head - min(head, count - 1)),
            number,
            count,
        )
        for part in parts
        for number, count in part.counts.items()
    ]
    if not there:
        return "no layer has heads"
    _, _, number, count = min(there)
    last = f"layer {number} has heads 0 to {count - 1}" if count > 1 else f"layer {number} has one head"
    return f"the nearest is {number}.{min(head, count - 1)}, as {last}"


def single_token(run: LoadedRun, text: str, flag: str) -> int:
    """The id of a text that is one token. Raises UserError for a text of several tokens, with these."""
    ids = encode(run.tokenizer, text, flag)
    if len(ids) != 1:
        pieces = ", ".join(repr(run.tokenizer.decode([int(i)])) for i in ids[:8]) or "none"
        raise UserError(
            f"--{flag}={text[:40]!r} is {len(ids)} tokens of this tokenizer ({pieces}); give a text of one "
            "token: a space before a word often belongs to it"
        )
    return int(ids[0])


def predictions(subject: Subject, ids: np.ndarray, position: int) -> np.ndarray:
    """The log-probabilities of the token after a position of a text, float32 (V,)."""

    def found(params: Any, tokens_BT: jax.Array, position: jax.Array) -> jax.Array:
        output = subject.stream(params, tokens_BT)
        x_BTD = jax.lax.dynamic_slice_in_dim(output.stream_BTD, position, 1, axis=1)
        return jax.nn.log_softmax(logits(subject.config, params, x_BTD)[0, 0].astype("float32"))

    result: np.ndarray = subject.compiled(found)(ids[None].astype(np.int32), np.int32(position))
    return result
