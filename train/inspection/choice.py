"""Positions of a text, layers, and tokens of the vocabulary that a user names."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.taps.request import Taps
from model.transformer import logits, stream
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
        output = stream(subject.config, params, tokens_BT, layout=subject.layout, taps=Taps())
        x_BTD = jax.lax.dynamic_slice_in_dim(output.stream_BTD, position, 1, axis=1)
        return jax.nn.log_softmax(logits(subject.config, params, x_BTD)[0, 0].astype("float32"))

    result: np.ndarray = subject.compiled(found)(ids[None].astype(np.int32), np.int32(position))
    return result
