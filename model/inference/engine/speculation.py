"""Speculative decoding: guesses at the next tokens of a text, which one pass of the model reads beside its last token.

Leviathan, Kalman, Matias 2023, "Fast Inference from Transformers via Speculative Decoding", and Chen et al. 2023,
"Accelerating Large Language Model Decoding with Speculative Sampling". Their rule accepts a guess by a draw of its own,
so that only the distribution of the text stays the same. Here the text itself stays the same: the draw after a position
has a key of that position (model/inference/prompts.py), the pass chooses the next token after every guess as it would
without guesses, and a guess is accepted if it is the token that was chosen before it. So all tokens and
log-probabilities, greedy or drawn, are the bits of the engine without speculation, where that is exact at all.

The price in acceptance: a guess that is a function of the text alone, such as an n-gram's, is accepted with its
probability p, as by the rule of both papers. A draft model that draws from q with a draw of its own would be accepted
with the sum of p q, and by their rule with that of min(p, q) = 1 - TV, the most possible. Our draft draws with the keys
of the model, so that both add the same Gumbel noise to their logits and take the largest: they then agree with at least
(1 - TV) / (1 + TV) (Daliri, Musco, Suresh 2024, "Coupling without Communication and Drafter-Invariant Speculative
Decoding", theorem 3), and always when greedy decoding of both does.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine.sequence import Sequence as Text
from model.recurrent.memory import RecurrentOption

MAX_GUESSES = 31  # with the last token they fill the largest program


@dataclasses.dataclass(frozen=True, kw_only=True)
class NGram:
    """Guesses that a text goes on as it did after the same tokens before (prompt lookup); needs no other model.

    Attributes:
      tokens: the most tokens that are guessed in a step.
      longest, shortest: how many of the last tokens must have stood there before; longer matches come first.
    """

    tokens: int = 4
    longest: int = 4
    shortest: int = 2

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_tokens(self.tokens)
        if self.shortest < 1:
            yield "shortest", f"must be at least 1, got {self.shortest}"
        if self.longest < self.shortest:
            yield "longest", f"must be at least shortest={self.shortest}, got {self.longest}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """Guesses with a smaller model of the same tokens, which the engine is given beside its own.

    Attributes:
      tokens: the most tokens that are guessed in a step.
    """

    tokens: int = 4

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_tokens(self.tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modules:
    """Guesses with the model's own modules of multi-token prediction (modules.py), in a model that has them.

    Attributes:
      tokens: the tokens that are guessed in a step, one by each of the first modules.
    """

    tokens: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_tokens(self.tokens)


Speculation = NGram | Draft | Modules


def _problems_of_tokens(tokens: int) -> Iterator[tuple[str, str]]:
    if not 1 <= tokens <= MAX_GUESSES:
        yield "tokens", f"must be from 1 to {MAX_GUESSES}, got {tokens}"


class Proposer(Protocol):
    """Guesses the next tokens of texts."""

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compiles its programs, if it has any; see `Engine.compile`."""

    @property
    def num_programs(self) -> int:
        """The programs that `compile` reports."""

    def propose(self, texts: Sequence[Text], counts: Sequence[int]) -> list[list[int]]:
        """Returns at most so many guesses for each text."""

    def forget(self, text: Text) -> None:
        """Lets go of a text that ended."""


def check_rolls_back(config: ModelConfig, what: str) -> None:
    """Raises UserError for a model whose cache cannot give back tokens; `what` names the model."""
    for number, layer in enumerate(config.layers):
        if isinstance(layer.mixer, RecurrentOption):
            name = type(layer.mixer).__name__
            raise UserError(
                f"engine.speculation: layer {number} of {what} is a {name}, whose state cannot give back a guess that "
                "was wrong; set engine.speculation=None"
            )


def accepted(proposed: Sequence[int], chosen: Sequence[Any]) -> int:
    """Returns how many guesses are the tokens that were chosen in their places."""
    count = 0
    while count < len(proposed) and proposed[count] == chosen[count]:
        count += 1
    return count
