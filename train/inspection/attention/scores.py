"""Scores of head roles on random tokens that are repeated.

With the tokens x of a row, a pattern P says which earlier key s a head of a role attends to from query t:

    previous_token    P_ts = 1 for s = t - 1
    duplicate_token   P_ts = 1 for s < t and x_s = x_t
    induction         P_ts = 1 for s - 1 < t and x_{s-1} = x_t: the token after an earlier copy

The score of a head is the share of its weights that is where the pattern is, sum(A P) / sum(A): these are the patterns
and the measure "mul" of `head_detector` in TransformerLens. Half of the queries have no earlier copy, so the two last
scores are at most about a half. `repeated` is the mean weight that a query of the repetition gives to the token after
its earlier copy (the induction score of TransformerLens' demonstrations; "prefix matching" in Olsson et al. 2022,
"In-context Learning and Induction Heads"), at most 1; `first_token` is the mean weight of the first key (a sink).

Two heads can copy at another distance than one: if the first layer moves to each token the one n before it, by which it
is found, and the one n - 1 before it, which is what comes next, then the second layer attends to the token n after the
earlier copy. `copying` is the mean weight at the best n, and `offsets` has that n. It is at most a quarter of the
sequence, so that a head that always looks some tokens back does not seem to copy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.taps.request import Tap
from model.transformer import stream
from train.evaluation.probes.interface import Reader
from train.inspection.subject import Subject, layers_with

TAP = "attention_weights"
ROLES = ("previous_token", "duplicate_token", "induction", "repeated", "copying", "first_token")
OFFSET = "offset"
MAX_HALF = 128  # tokens
MIN_HALF = 4


class RepeatedTokens(NamedTuple):
    """Rows of random tokens and their repetition.

    Attributes:
      tokens_BT: int32; a mark that begins documents comes first where the model has one.
      half: the tokens of a half.
      begins: the number of marks before the first half.
    """

    tokens_BT: np.ndarray
    half: int
    begins: int


def repeated_tokens(reader: Reader, *, rows: int = 8, half: int | None = None, seed: int = 0) -> RepeatedTokens:
    """Random tokens and their repetition; no token comes twice in a half if the vocabulary is large enough.

    Args:
      reader: the facts about the model.
      rows: B.
      half: the tokens of a half; None for as many as the context holds, 128 at most.
      seed: the seed of the tokens.

    Raises:
      UserError: for halves that are too short or that the context does not hold.
    """
    if rows < 1 or seed < 0:
        raise UserError(f"expected --sequences of 1 or more and a --seed of 0 or more, got {rows} and {seed}")
    begins = [] if reader.begin is None else [reader.begin]
    longest = (reader.context_length - len(begins)) // 2
    if half is None:
        half = min(MAX_HALF, longest)
    if not MIN_HALF <= half <= longest:
        raise UserError(
            f"--half: {half} tokens and their repetition: a half has at least {MIN_HALF} tokens, and the model's "
            f"context of {reader.context_length} holds halves of {longest} at most"
        )
    ids, draw = reader.ids(reader.num_ids), np.random.default_rng((seed, half))
    first = np.stack([draw.choice(ids, half, replace=half > len(ids)) for _ in range(rows)])
    marks = np.broadcast_to(np.array(begins, np.int32), (rows, len(begins)))
    return RepeatedTokens(np.concatenate([marks, first, first], axis=1).astype(np.int32), half, len(begins))


def patterns(tokens_BT: jax.Array) -> dict[str, jax.Array]:
    """The patterns of the first three roles, float32 (B, T, S)."""
    length = tokens_BT.shape[1]
    index = jnp.arange(length)
    earlier_TS = index[:, None] > index[None, :]
    duplicate_BTS = (tokens_BT[:, :, None] == tokens_BT[:, None, :]) & earlier_TS
    induction_BTS = jnp.pad(duplicate_BTS[:, :, :-1], ((0, 0), (0, 0), (1, 0)))
    previous_BTS = jnp.broadcast_to(index[:, None] == index[None, :] + 1, duplicate_BTS.shape)
    found = {"previous_token": previous_BTS, "duplicate_token": duplicate_BTS, "induction": induction_BTS}
    return {name: pattern.astype(jnp.float32) for name, pattern in found.items()}


def score(weights_BNTS: jax.Array, tokens_BT: jax.Array, half: int, begins: int) -> dict[str, jax.Array]:
    """The scores of heads, float32 (N,) for each of `ROLES`, and the `OFFSET` of `copying`, int32."""
    weights = weights_BNTS.astype(jnp.float32)
    total_N = jnp.sum(weights, axis=(0, 2, 3))
    found = {
        name: jnp.einsum("BNTS,BTS->N", weights, pattern) / total_N for name, pattern in patterns(tokens_BT).items()
    }
    copies = jnp.arange(begins + half, begins + 2 * half)
    after_TO = copies[:, None] - half + jnp.arange(1, half // 2 + 1)
    at_offsets_NO = jnp.mean(weights[:, :, copies[:, None], after_TO], axis=(0, 2))
    return found | {
        "copying": jnp.max(at_offsets_NO, axis=-1),
        OFFSET: 1 + jnp.argmax(at_offsets_NO, axis=-1),
        "repeated": jnp.mean(weights[:, :, copies, copies - half + 1], axis=(0, 2)),
        "first_token": jnp.mean(weights[..., 0], axis=(0, 2)),
    }


class HeadScores(NamedTuple):
    """Scores of heads: by role and layer, (N,); and by layer the n of `copying`, (N,)."""

    by_role: dict[str, dict[int, np.ndarray]]
    offsets: dict[int, np.ndarray]

    def best(self, role: str) -> tuple[float, int, int]:
        """The largest score of a role, its layer and its head."""
        return max((float(x.max()), layer, int(x.argmax())) for layer, x in self.by_role[role].items())


def measure(subject: Subject, repeated: RepeatedTokens) -> HeadScores:
    """The scores of all heads of a model. Raises UserError for a model without attention."""
    return scorer(subject, repeated)(subject.params)


def scorer(subject: Subject, repeated: RepeatedTokens) -> Any:
    """A function of parameters that gives the scores; it compiles once. Raises UserError without attention."""
    known = layers_with(subject.config, TAP)
    if not known:
        raise UserError("no layer of this model has attention weights, so it has no heads with roles")
    groups = [tuple(number for number in known if known[number] == shape) for shape in dict.fromkeys(known.values())]

    def scores(params: Any, tokens_BT: jax.Array) -> list[list[dict[str, jax.Array]]]:
        found = []
        for layers in groups:
            output = stream(subject.config, params, tokens_BT, layout=subject.layout, taps=(Tap(TAP, layers=layers),))
            found.append([score(x, tokens_BT, repeated.half, repeated.begins) for x in output.taps[TAP]])
        return found

    call = subject.compiled_for(scores)

    def measured(params: Any) -> HeadScores:
        found = call(params, repeated.tokens_BT)
        rows = {
            layer: row
            for layers, group in zip(groups, found, strict=True)
            for layer, row in zip(layers, group, strict=True)
        }
        by_role, offsets = (
            {name: {layer: rows[layer][name] for layer in known} for name in names} for names in (ROLES, (OFFSET,))
        )
        return HeadScores(by_role, offsets[OFFSET])

    return measured
