"""A linear map from the stream to numbers: the reward of a text, or the value of each token.

For the stream h_t of token t after the final norm and a matrix W (D, n) the scores are h_t W. A reward model reads the
score of the last token of an answer (Stiennon et al. 2020, "Learning to summarize from human feedback", section 3.4);
a value function reads that of every token (Ouyang et al. 2022, "Training language models to follow instructions with
human feedback", section 3.4). Scores are float32: the difference of two rewards must not depend on rounding.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from model.errors import UserError
from model.layout import Layout
from model.parameters.maker import ParameterMaker

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreHead:
    """Numbers for each token, beside its logits.

    Attributes:
      outputs: n, the numbers of a token.
      zero: whether W starts at 0 and is not drawn. The first values of PPO are then 0, and the first advantages are
        those of the rewards alone (Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO", section 3).
    """

    outputs: int = 1
    zero: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.outputs < 1:
            yield "outputs", f"must be at least 1, or score_head=None for no scores, got {self.outputs}"

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of the scores of `length` tokens."""
        return 2 * length * width * self.outputs


class Scores(nnx.Module):
    """The matrix W."""

    def __init__(self, option: ScoreHead, width: int, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the maker."""
        self.weight = make.matrix("score", (width, option.outputs), ("embed", None), zero=option.zero)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns the scores of a stream, float32 (B, T, n)."""
        x_BTD = layout.constrain(x_BTD, ("batch", "sequence", "embed"))
        scores_BTn = jnp.einsum("BTD,Dn->BTn", x_BTD.astype(jnp.float32), self.weight[...].astype(jnp.float32))
        return layout.constrain(scores_BTn, ("batch", "sequence", None))


def new_score_head(config: "ModelConfig", make: ParameterMaker) -> Scores | None:
    """Returns the score head of a model, or None in a model without."""
    return None if config.score_head is None else Scores(config.score_head, config.width, make)


def scores_of(head: Scores | None, x_BTD: jax.Array, layout: Layout) -> jax.Array:
    """Returns the scores of a stream. Raises UserError for a model without a head."""
    if head is None:
        raise UserError("this model has no scores; give it score_head=ScoreHead(), as a reward model has")
    return head(x_BTD, layout)
