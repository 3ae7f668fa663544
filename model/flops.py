"""Exact counts of parameters and of floating-point operations, from the options alone.

Convention. A multiplication with its addition counts as 2. Counted are the matrix products of a forward pass: the
projections, the feed-forward layer, the logits, and the two products of attention over the pairs of a query and a key
that it may see: a causal sequence of T tokens has T (T + 1) / 2 pairs, not T^2, and a sliding window fewer. Not counted
are look-ups, norms, activations, softmax and the optimizer, and what rematerialisation computes again. The backward
pass has two products for each one of the forward pass, so training counts three times the forward pass. This is the
"model FLOPs" of Chowdhery et al. 2022 ("PaLM", appendix B) with causal attention counted once. Of a mixture of experts
count the router, the experts that a token is sent to and the shared one, whatever else a dispatch computes.
"""

import dataclasses

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.embedding import Untied
from model.experts import Experts
from model.feedforward import MLP, Gated
from model.masks import pairs
from model.norms import LayerNorm, RMSNorm
from model.positions import Learned


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """How many parameters there are, by what they are for; `idle` are those of experts that a token does not use."""

    embedding: int
    blocks: int
    final_norm: int
    unembedding: int
    idle: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.final_norm + self.unembedding

    @property
    def active(self) -> int:
        """Those that one token uses."""
        return self.total - self.idle

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
    norms = 2 * _norm_parameters(config.norm, d)
    return ParameterCount(
        embedding=config.vocab_size * d + positions,
        blocks=sum(
            _attention_parameters(layer.attention, d) + _ffn_parameters(layer.ffn, d) + norms for layer in config.layers
        ),
        final_norm=_norm_parameters(config.norm, d) if config.norm_placement == "pre" else 0,
        unembedding=unembedding,
        idle=sum(_idle_parameters(layer.ffn, d) for layer in config.layers),
    )


def _norm_parameters(norm: LayerNorm | RMSNorm, width: int) -> int:
    return 2 * width if isinstance(norm, LayerNorm) and norm.bias else width


def _attention_parameters(attention: GroupedQuery, d: int) -> int:
    n, k, h = attention.num_heads, attention.kv_heads, attention.head_width(d)
    biases = (n + 2 * k) * h + d if attention.bias else 0
    norms = 2 * _norm_parameters(attention.qk_norm, h) if attention.qk_norm else 0
    return d * h * (2 * n + 2 * k) + biases + norms


def _ffn_parameters(ffn: MLP | Gated | Experts, d: int) -> int:
    if isinstance(ffn, Experts):
        e = ffn.num_experts
        router = e * (d + ffn.router.bias + (ffn.load_bias is not None))
        shared = _ffn_parameters(ffn.shared.ffn, d) + d * ffn.shared.gate if ffn.shared else 0
        return router + e * _ffn_parameters(ffn.expert, d) + shared
    inputs = 2 if isinstance(ffn, Gated) else 1
    return (inputs + 1) * d * ffn.width + (inputs * ffn.width + d if ffn.bias else 0)


def _idle_parameters(ffn: MLP | Gated | Experts, d: int) -> int:
    return (ffn.num_experts - ffn.top_k) * _ffn_parameters(ffn.expert, d) if isinstance(ffn, Experts) else 0


def forward_flops(config: ModelConfig, length: int) -> int:
    """Operations of one forward pass over one causal sequence of `length` tokens."""
    layers = sum(
        _attention_flops(layer.attention, config.width, length) + _ffn_flops(layer.ffn, config.width, length)
        for layer in config.layers
    )
    return layers + 2 * length * config.width * config.vocab_size


def _attention_flops(attention: GroupedQuery, d: int, length: int) -> int:
    n, k, h = attention.num_heads, attention.kv_heads, attention.head_width(d)
    projections = length * d * h * (2 * n + 2 * k)
    return 2 * projections + 2 * 2 * n * h * pairs(attention.pattern, length)  # scores, and the weighted sum of values


def _ffn_flops(ffn: MLP | Gated | Experts, d: int, length: int) -> int:
    if isinstance(ffn, Experts):
        router = 2 * length * d * ffn.num_experts
        shared = _ffn_flops(ffn.shared.ffn, d, length) + 2 * length * d * ffn.shared.gate if ffn.shared else 0
        return router + ffn.top_k * _ffn_flops(ffn.expert, d, length) + shared
    return 2 * length * (3 if isinstance(ffn, Gated) else 2) * d * ffn.width


def training_flops(config: ModelConfig, length: int) -> int:
    """Operations of a forward and backward pass over one causal sequence of `length` tokens."""
    return 3 * forward_flops(config, length)


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """The mean over a sequence of `length` tokens; times tokens per second this is the numerator of MFU."""
    return training_flops(config, length) / length
