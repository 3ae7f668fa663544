"""Exact counts of parameters and of floating-point operations, from the options alone.

Convention. A multiplication with its addition counts as 2. Counted are the matrix products of a forward pass: the
projections, the feed-forward layer, the logits, and the two products of attention over the pairs of a query and a key
that it may see: a causal sequence of T tokens has T (T + 1) / 2 pairs, not T^2, and a sliding window fewer. Not counted
are look-ups, norms, activations, softmax and the optimizer, and what rematerialisation computes again. The backward
pass has two products for each one of the forward pass, so training counts three times the forward pass, with that of
the modules that predict tokens further on, which run over all T tokens and in training alone. This is the
"model FLOPs" of Chowdhery et al. 2022 ("PaLM", appendix B) with causal attention counted once. Of a mixture of experts
count the router, the experts that a token is sent to and the shared one, whatever else a dispatch computes. Recurrences
count token by token, whatever a chunk computes: of a memory the products that write to it and read from it, a matrix
and a vector each time, and of a short convolution each of its factors.
"""

import dataclasses

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.config import ModelConfig
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.layers import Layer
from model.mixers import Mixer
from model.norms import LayerNorm, RMSNorm
from model.positions.absolute import Learned
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.residual import Parallel, PostNorm, Residual, Sandwich
from model.vocabulary.embedding import Untied


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """How many parameters there are, by what they are for; `idle` are those of experts that a token does not use.

    Those of modules that predict tokens further on (`multi_token`) are used in training, and counted as such.
    """

    embedding: int
    blocks: int
    final_norm: int
    unembedding: int
    multi_token: int = 0
    idle: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.final_norm + self.unembedding + self.multi_token

    @property
    def active(self) -> int:
        """Those that one token uses."""
        return self.total - self.idle

    @property
    def without_embedding(self) -> int:
        """All but the embeddings of tokens and positions: the N of scaling laws (Kaplan et al. 2020, section 2.1)."""
        return self.total - self.embedding


def count_parameters(config: ModelConfig) -> ParameterCount:
    """The exact number of parameters of a model."""
    d = config.width
    position = config.position
    positions = (config.context_length + position.offset) * d if isinstance(position, Learned) else 0
    norm = _norm_parameters(config.embedding_norm, d) if config.embedding_norm else 0
    unembedding = 0
    if isinstance(config.unembedding, Untied):
        unembedding = config.vocab_size * (d + config.unembedding.bias)
    extras = _block_norms(config.residual) * _norm_parameters(config.norm, d) + (2 * d if config.layer_scale else 0)
    blocks = [
        _attention_parameters(layer.attention, d) + _bias_parameters(layer) + _ffn_parameters(layer.ffn, d) + extras
        for layer in config.layers
    ]
    idle = [_idle_parameters(layer.ffn, d) for layer in config.layers]
    final_norm = 0 if isinstance(config.residual, PostNorm) else _norm_parameters(config.norm, d)
    depth = config.multi_token.depth if config.multi_token else 0
    return ParameterCount(
        embedding=config.vocab_size * d + positions + norm,
        blocks=sum(blocks),
        final_norm=final_norm,
        unembedding=unembedding,
        multi_token=depth * (blocks[-1] + 2 * _norm_parameters(config.norm, d) + final_norm + 2 * d * d),
        idle=sum(idle) + depth * idle[-1],
    )


def _block_norms(residual: Residual) -> int:
    if isinstance(residual, Sandwich):
        return 4
    return 1 if isinstance(residual, Parallel) and residual.shared_norm else 2


def _norm_parameters(norm: LayerNorm | RMSNorm, width: int) -> int:
    if isinstance(norm, RMSNorm):
        return 0 if norm.scale == "none" else width
    return (norm.scale + norm.bias) * width


def _attention_parameters(attention: Mixer, d: int) -> int:
    if not isinstance(attention, GroupedQuery | Latent):
        return _recurrent_matrices(attention, d) + _recurrent_vectors(attention, d)
    if isinstance(attention, Latent):
        norms = _norm_parameters(attention.norm, attention.kv_rank + (attention.query_rank or 0))
        return _latent_matrices(attention, d) + norms
    n, k, h = attention.num_heads, attention.kv_heads, attention.head_width(d)
    biases = (n + 2 * k) * h * attention.qkv_bias + d * attention.output_bias
    norms = 0
    if attention.qk_norm:
        heads = 2 if attention.qk_norm.over == "head" else n + k
        norms = _norm_parameters(attention.qk_norm.norm, heads * h)
    return _grouped_matrices(attention, d) + biases + norms + n * attention.sinks


def _bias_parameters(layer: Layer) -> int:
    attends = isinstance(layer.attention, GroupedQuery | Latent)
    return layer.position.bias_parameters(layer.attention.num_heads) if attends else 0


def _grouped_matrices(attention: GroupedQuery, d: int) -> int:
    n, k, h = attention.num_heads, attention.kv_heads, attention.head_width(d)
    channels = {"none": 0, "head": 1, "channel": h}
    return d * (h * (2 * n + 2 * k) + n * channels[attention.output_gate])


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


def _latent_matrices(attention: Latent, d: int) -> int:
    n, r, h = attention.num_heads, attention.kv_rank, attention.head_dim
    queries = n * (h + attention.rotary_head_dim)
    down = d * (r + attention.rotary_head_dim)
    up = r * n * (h + attention.value_head_dim)
    q = attention.query_rank
    return down + up + (d * queries if q is None else q * (d + queries)) + n * attention.value_head_dim * d


def _recurrent_matrices(mixer: LinearAttention | GatedDelta | LSTM | GRU, d: int) -> int:
    n, h = mixer.num_heads, mixer.head_width(d)
    match mixer:
        case LinearAttention():
            return 4 * d * n * h
        case GatedDelta():
            keys, values = mixer.key_heads * h, n * mixer.value_width(d)
            projections = 2 * keys + (2 + mixer.output_gate) * values + (1 + mixer.decay) * n
            return d * projections + (mixer.convolution or 0) * (2 * keys + values)
        case LSTM(gates=gates):
            return gates * n * h * (d + h) + n * h * d
        case GRU():
            return 3 * n * h * (d + h) + n * h * d
    raise AssertionError(mixer)


def _recurrent_vectors(mixer: LinearAttention | GatedDelta | LSTM | GRU, d: int) -> int:
    n, h = mixer.num_heads, mixer.head_width(d)
    match mixer:
        case GatedDelta(output_norm=norm):
            return 2 * n * mixer.decay + (_norm_parameters(norm, mixer.value_width(d)) if norm else 0)
        case LSTM(gates=gates):
            return gates * n * h
        case GRU(reset=reset):
            return (4 if reset == "after" else 3) * n * h
    return 0


def _memory_products(mixer: LinearAttention | GatedDelta | LSTM | GRU, d: int) -> int:
    n, h = mixer.num_heads, mixer.head_width(d)
    match mixer:
        case LinearAttention():
            return n * h * (2 * h + 1)  # a value written, one read, and the sum of weights
        case GatedDelta():
            return 3 * n * h * mixer.value_width(d)  # what the key held, the difference written, a reading
    return 0


def _attention_flops(attention: Mixer, d: int, length: int) -> int:
    if not isinstance(attention, GroupedQuery | Latent):
        return 2 * length * (_recurrent_matrices(attention, d) + _memory_products(attention, d))
    if isinstance(attention, Latent):
        one_pair = attention.head_dim + attention.rotary_head_dim + attention.value_head_dim
        products = attention.num_heads * one_pair * attention.pattern.pairs(length)
        return 2 * (length * _latent_matrices(attention, d) + products)
    one_pair = 2 * attention.num_heads * attention.head_width(d)  # a score, and its part of the sum of values
    return 2 * (length * _grouped_matrices(attention, d) + one_pair * attention.pattern.pairs(length))


def _ffn_flops(ffn: MLP | Gated | Experts, d: int, length: int) -> int:
    if isinstance(ffn, Experts):
        router = 2 * length * d * ffn.num_experts
        shared = _ffn_flops(ffn.shared.ffn, d, length) + 2 * length * d * ffn.shared.gate if ffn.shared else 0
        return router + ffn.top_k * _ffn_flops(ffn.expert, d, length) + shared
    return 2 * length * (3 if isinstance(ffn, Gated) else 2) * d * ffn.width


def training_flops(config: ModelConfig, length: int) -> int:
    """Operations of a forward and backward pass over one causal sequence of `length` tokens."""
    return 3 * (forward_flops(config, length) + _multi_token_flops(config, length))


def _multi_token_flops(config: ModelConfig, length: int) -> int:
    """Of a forward pass through the modules that predict tokens further on, which run in training alone."""
    if config.multi_token is None:
        return 0
    last, d = config.layers[-1], config.width
    block = _attention_flops(last.attention, d, length) + _ffn_flops(last.ffn, d, length)
    return config.multi_token.depth * (block + 2 * length * d * (2 * d + config.vocab_size))


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """The mean over a sequence of `length` tokens; times tokens per second this is the numerator of MFU."""
    return training_flops(config, length) / length
