"""Falcon: attention and feed-forward in parallel, one key head or few, rotary positions or ALiBi.

Almazrouei et al. 2023, "The Falcon Series of Open Language Models", section 4; its three kinds are Falcon-RW (biases,
ALiBi, one sublayer after the other), Falcon-7B (multi-query) and the "new decoder" of Falcon-40B and 180B.
"""

import dataclasses

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.each import bloom
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.alibi import ALiBi
from model.residual import Parallel, PreNorm


def config(published: Published) -> ModelConfig:
    """Returns the model of a config.json; without `max_position_embeddings` its context is 2048 tokens."""
    published.only("apply_residual_connection_post_layernorm", False)
    bias, heads = published.get("bias", False), published.get("num_attention_heads")
    width = published.get("n_embed", published.get("hidden_size"))
    alibi = published.get("alibi", False)
    if alibi:
        published.unused("rope_parameters", "rope_theta")
    return ModelConfig(
        vocab_size=published.get("vocab_size"),
        num_layers=published.get("num_hidden_layers"),
        width=width,
        context_length=published.get("max_position_embeddings", 2048) if alibi else _context_length(published),
        position=ALiBi(scale=(width // heads) ** -0.5, round_to_bfloat16=True) if alibi else rotary(published),
        mixer=GroupedQuery(num_heads=heads, num_kv_heads=_key_heads(published, heads), qkv_bias=bias, output_bias=bias),
        ffn=MLP(
            width=published.get("ffn_hidden_size", 4 * width),
            activation=published.activation("activation", "gelu"),
            bias=bias,
        ),
        norm=LayerNorm(epsilon=published.get("layer_norm_epsilon", 1e-5)),
        residual=_residual(published),
        unembedding=llama_like.unembedding(published, tied=True),
        dropout=published.dropout(attention="attention_dropout", residual="hidden_dropout"),
    )


def _context_length(published: Published) -> int:
    return 2048 if published.get("max_position_embeddings", None) is None else context_length(published)


def _key_heads(published: Published, heads: int) -> int:
    """Returns the number of key/value heads: `num_kv_heads` in the new decoder, else 1, or one for each query head."""
    count: int = published.get("num_kv_heads", heads)
    several = published.get("multi_query", True)
    if published.get("new_decoder_architecture", False):
        return count
    if several:
        return 1  # whatever num_kv_heads says
    published.only("num_kv_heads", heads)
    return heads


def _residual(published: Published) -> Parallel | PreNorm:
    new, beside = published.get("new_decoder_architecture", False), published.get("parallel_attn", True)
    if new and not beside:
        raise published.refusal("parallel_attn", "the new decoder has attention and feed-forward in parallel")
    norms = published.get("num_ln_in_parallel_attn", 2 if new else 1)
    if norms not in ((1, 2) if new else (1,)):
        raise published.refusal("num_ln_in_parallel_attn", "expected 1, or 1 or 2 in the new decoder")
    return Parallel(shared_norm=norms == 1) if beside else PreNorm()


def weights(model: ModelConfig) -> tuple[Weight, ...]:
    """Returns BLOOM's table; the two norms of parallel sublayers have names of their own."""
    if model.residual != Parallel(shared_norm=False):
        return bloom.WEIGHTS
    names = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}
    return tuple(
        dataclasses.replace(row, tensor=row.tensor.replace(name, names.get(name, name)))
        for row in bloom.WEIGHTS
        for name in [row.tensor.split(".")[-2]]
    )


FAMILY = Family(
    name="falcon",
    model_types=("falcon",),
    architecture="FalconForCausalLM",
    config=config,
    weights=weights,
    prefix="transformer.",
)
