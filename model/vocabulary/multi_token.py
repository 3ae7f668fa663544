"""Multi-token prediction: what else is learned from a text than the next token of each.

DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.2. With h^0_i the residual stream of token t_i after the
last layer, module k of a chain reads the token k further on and predicts the one after it:

    h'_i = M_k [N(h^(k-1)_i); N(Emb(t_(i+k)))]                          (21)
    h^k  = TRM_k(h'), one block of the model, causal                    (22)
    P^k_(i+k+1) = OutHead(h^k_i)                                        (23)
    L^k  = -1/T sum over i of log P^k_(i+k+1)[t_(i+k+1)]                (24)
    L    = weight / depth * sum over k of L^k, added to the main loss   (25)

Embedding and unembedding are the model's own; before the latter each module has a norm of its own where the model has a
final one. The block is of the kind of the last layer. T counts the tokens of the main loss; a token adds to L^k where
the token k + 1 further on counts in the main loss and is of the same document. The modules run in training alone.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken:
    """Modules that predict tokens further on, while training.

    Attributes:
      depth: how many modules, one after another; 1 predicts one more token than the model does.
      weight: of their mean loss beside the main one (DeepSeek-V3: 0.3, later 0.1).
    """

    depth: int = 1
    weight: float = 0.3

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.depth < 1:
            yield "depth", f"must be at least 1, or multi_token=None for none, got {self.depth}"
        if self.weight <= 0:
            yield "weight", f"must be above 0, or multi_token=None for none, got {self.weight}"

    def cost(self, block: int, logits: int, width: int, length: int) -> int:
        """Operations of a forward pass of all modules, from those of one block and of the logits."""
        return self.depth * (block + logits + 2 * length * 2 * width * width)

    def problems_with(self, context_length: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields what does not go together with the longest sequence; `path` is that of this option."""
        if self.depth >= context_length >= 1:
            yield (
                f"{path}.depth",
                f"predicts {self.depth + 1} tokens ahead, and context_length={context_length} has no token to do so at",
            )


@dataclasses.dataclass(frozen=True)
class Text:
    """What modules are trained on: tokens, those that come next, and the document of each, all (B, T).

    Attributes:
      tokens_BT, targets_BT: ids.
      segment_ids_BT: the documents, or None where all of a row is one.
    """

    tokens_BT: jax.Array
    targets_BT: jax.Array | None
    segment_ids_BT: jax.Array | None


def ahead(x_BT: jax.Array) -> jax.Array:
    """What each token has one place further on; 0 for the last."""
    return jnp.pad(x_BT[:, 1:], ((0, 0), (0, 1)))
