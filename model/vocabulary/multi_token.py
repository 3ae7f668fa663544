"""Multi-token prediction: auxiliary modules that predict tokens further ahead.

DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.2. With h^0_i the residual stream of token t_i after the
last layer, module k of a chain reads the token k places ahead and predicts the token after it:

    h'_i = M_k [N(h^(k-1)_i); N(Emb(t_(i+k)))]                          (21)
    h^k  = TRM_k(h'), one block of the model, causal                    (22)
    P^k_(i+k+1) = OutHead(h^k_i)                                        (23)
    L^k  = -1/T sum over i of log P^k_(i+k+1)[t_(i+k+1)]                (24)
    L    = weight / depth * sum over k of L^k, added to the main loss   (25)

The modules share the model's embedding and unembedding. If the model has a final norm, each module has its own norm
before the unembedding. The block is of the kind of the last layer. T counts the tokens of the main loss. A token adds
to L^k if the token k + 1 places ahead counts in the main loss and is in the same document. The modules run in training,
and where the engine guesses by them (model/inference/engine/modules.py).
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken:
    """Modules that predict tokens further ahead in training.

    Attributes:
      depth: the number of modules, in a chain; 1 predicts one more token than the model does.
      weight: the weight of their mean loss; the main loss has weight 1 (DeepSeek-V3: 0.3, later 0.1).
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
        """Returns the operations of a forward pass of all modules, from those of one block and of the logits."""
        return self.depth * (block + logits + 2 * length * 2 * width * width)

    def problems_with(self, context_length: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields each field that clashes with the context length, with the problem; `path` leads to this option."""
        if self.depth >= context_length >= 1:
            yield (
                f"{path}.depth",
                f"predicts {self.depth + 1} tokens ahead, too many for context_length={context_length}; lower it",
            )


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """The tokens that modules are trained on: tokens, next tokens, and documents, all (B, T).

    Attributes:
      tokens_BT, targets_BT: the ids of the tokens and of the next tokens.
      segment_ids_BT: the document of each token; None if every row is one document.
      token_types_BT: the type of each token, which the modules do not read; None for type 0.
    """

    tokens_BT: jax.Array
    targets_BT: jax.Array | None
    segment_ids_BT: jax.Array | None
    token_types_BT: jax.Array | None = None


def shift_left(x_BT: jax.Array) -> jax.Array:
    """Shifts x by one place: each token gets the value of the next one, and the last token gets 0."""
    return jnp.pad(x_BT[:, 1:], ((0, 0), (0, 1)))
