"""Constrained decoding: the tokens that may come next in a text, as masks of bits.

A `Constraint` is a set of texts, such as those of a JSON schema; Willard, Louf 2023, "Efficient Guided Generation for
Large Language Models", section 3: before every draw the tokens that no text of the set goes on with lose their
probability. The mask is applied after the bias of a request and before all filters (sampling.py), so that top-k and
top-p choose among the tokens that are left. Rows without a constraint keep the bits of their logits.

Masks are made on the host while the text is drawn: uint32 [W], W = V / 32 rounded up, where token v is bit v % 32 of
word v // 32. Nothing here knows a grammar: train/generation/constraints.py makes constraints by a library.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError

WORD = 32
ALL = np.uint32(2**WORD - 1)


class Matcher(Protocol):
    """A constraint at one place of one text."""

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Sets the bits of the tokens of which one may come next; returns whether the text may end here.

        The mask comes as zeros. Marks, such as the end of a document, have no bit.
        """

    def accept(self, token: int) -> bool:
        """Goes on by a token; returns False, for good, for one that may not come."""

    def undo(self, count: int) -> None:
        """Takes back the last tokens."""


class Constraint(Protocol):
    """A set of texts, for any number of requests."""

    def begin(self) -> Matcher:
        """The constraint before the first token of a text."""


class Follower:
    """Follows one text under a constraint.

    Attributes:
      allowed_W: the tokens that may come next, ends of the text included.
      ended_by: "constraint" when the text is complete and nothing may follow; "dead_end" when no token of the
        vocabulary leads on, or the matcher gives up; None while the text goes on.
    """

    def __init__(self, constraint: Constraint, ends: Sequence[int], vocab_size: int) -> None:
        """Begins a text.

        Args:
          constraint: the constraint.
          ends: the ids that end the text, which may come where it may end; those past V never come.
          vocab_size: V.

        Raises:
          UserError: for a constraint that allows no text, or only the empty one.
        """
        self._matcher, self._num_words = constraint.begin(), num_words(vocab_size)
        self._ends = tuple(end for end in ends if end < vocab_size)
        self.ended_by: Literal["constraint", "dead_end"] | None = None
        self.allowed_W = self._next()
        if self.ended_by is not None:
            why = "only the empty text" if self.ended_by == "constraint" else "no text that the vocabulary can write"
            raise UserError(f"request.constraint: it allows {why}")

    def accept(self, token: int) -> None:
        """Takes the next token of the text, which is none of those that end it."""
        if self._matcher.accept(token):
            self.allowed_W = self._next()
        else:
            self.ended_by = "dead_end"

    def after(self, guesses: Sequence[int]) -> list[np.ndarray]:
        """The masks after each of the first guesses that may come and leave the text unfinished."""
        masks: list[np.ndarray] = []
        before = self.allowed_W
        for token in guesses:
            if token in self._ends or not is_allowed(before, token) or not self._matcher.accept(token):
                break
            before = self._next()
            masks.append(before)
            if self.ended_by is not None:
                break
        self._matcher.undo(len(masks))
        if self.ended_by is not None:
            self.ended_by = None
            masks.pop()
        return masks

    def _next(self) -> np.ndarray:
        allowed_W = np.zeros(self._num_words, np.uint32)
        may_end = self._matcher.fill(allowed_W)
        if not allowed_W.any():
            self.ended_by = "constraint" if may_end else "dead_end"
        if may_end:
            for end in self._ends:
                allowed_W[end // WORD] |= np.uint32(1 << end % WORD)
        return allowed_W


def num_words(vocab_size: int) -> int:
    """Returns W."""
    return -(-vocab_size // WORD)


def is_allowed(allowed_W: np.ndarray, token: int) -> bool:
    """Whether a mask has the bit of a token."""
    return bool(allowed_W[token // WORD] >> np.uint32(token % WORD) & np.uint32(1))


def keep_allowed(logits_BV: jax.Array, allowed_BW: jax.Array) -> jax.Array:
    """Returns the logits, -inf for tokens without a bit."""
    place_V = jnp.arange(logits_BV.shape[-1], dtype=jnp.uint32)
    bits_BV = jnp.repeat(allowed_BW, WORD, axis=-1)[:, : logits_BV.shape[-1]] >> (place_V % WORD)
    return jnp.where(bits_BV & 1 == 1, logits_BV, -jnp.inf)
