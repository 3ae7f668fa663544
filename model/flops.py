"""Exact counts of parameters and of floating-point operations, from the options alone.

Convention. A multiplication with its addition counts as 2. Counted are the matrix products of a forward pass: the
projections, the feed-forward layer, the logits, and the two products of attention over the pairs of a query and a key
that it may see: a causal sequence of T tokens has T (T + 1) / 2 pairs, not T^2. Not counted are look-ups, norms,
activations, softmax and the optimizer, and what rematerialisation computes again. The backward pass has two products
for each one of the forward pass, so training counts three times the forward pass. This is the "model FLOPs" of
Chowdhery et al. 2022 ("PaLM", appendix B) with causal attention counted once.
"""

import dataclasses

from model.config import ModelConfig
from model.embedding import Untied
from model.feedforward import Gated
from model.norms import LayerNorm, RMSNorm
from model.positions import Learned


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """How many parameters there are, by what they are for."""

    embedding: int
    blocks: int
    final_norm: int
    unembedding: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.final_norm + self.unembedding

    @property
    def without_embedding(self) -> int:
        """All but the token and position tables: the N of scaling laws (Kaplan et al. 2020, section 2.1)."""
        return self.total - self.embedding


def count_parameters(config: ModelConfig) -> ParameterCount:
    """The exact number of parameters of a model."""
    d = config.width
    positions = config.context_length * d if isinstance(config.position, Learned) else 0
    unembedding = 0
    if isinstance(config.unembedding, Untied):
        unembedding = config.vocab_size * (d + config.unembedding.bias)
    block = _attention_parameters(config) + _ffn_parameters(config) + 2 * _norm_parameters(config.norm, d)
    return ParameterCount(
        embedding=config.vocab_size * d + positions,
        blocks=config.num_layers * block,
        final_norm=_norm_parameters(config.norm, d) if config.norm_placement == "pre" else 0,
        unembedding=unembedding,
    )


def _norm_parameters(norm: LayerNorm | RMSNorm, width: int) -> int:
    return 2 * width if isinstance(norm, LayerNorm) and norm.bias else width


def _attention_parameters(config: ModelConfig) -> int:
    attention, d, h = config.attention, config.width, config.head_dim
    n, k = attention.num_heads, attention.kv_heads
    biases = (n + 2 * k) * h + d if attention.bias else 0
    norms = 2 * _norm_parameters(attention.qk_norm, h) if attention.qk_norm else 0
    return d * h * (2 * n + 2 * k) + biases + norms


def _ffn_parameters(config: ModelConfig) -> int:
    d, f = config.width, config.ffn.width
    inputs = 2 if isinstance(config.ffn, Gated) else 1
    return (inputs + 1) * d * f + (inputs * f + d if config.ffn.bias else 0)


def forward_flops(config: ModelConfig, length: int) -> int:
    """Operations of one forward pass over one causal sequence of `length` tokens."""
    d, h = config.width, config.head_dim
    n, k = config.attention.num_heads, config.attention.kv_heads
    projections = d * h * (2 * n + 2 * k)
    ffn = (3 if isinstance(config.ffn, Gated) else 2) * d * config.ffn.width
    pairs = length * (length + 1) // 2
    attention = 2 * n * h * pairs  # scores, and the weighted sum of values
    return 2 * (config.num_layers * (length * (projections + ffn) + attention) + length * d * config.vocab_size)


def training_flops(config: ModelConfig, length: int) -> int:
    """Operations of a forward and backward pass over one causal sequence of `length` tokens."""
    return 3 * forward_flops(config, length)


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """The mean over a sequence of `length` tokens; times tokens per second this is the numerator of MFU."""
    return training_flops(config, length) / length
