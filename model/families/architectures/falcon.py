"""Falcon: attention and feed-forward in parallel, one key head or few, rotary positions or ALiBi.

Almazrouei et al. 2023, "The Falcon Series of Open Language Models", section 4; its three kinds are Falcon-RW (biases,
ALiBi, one sublayer after the other), Falcon-7B (multi-query) and the "new decoder" of Falcon-40B and 180B.
"""

import dataclasses

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import bloom
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.alibi import ALiBi
from model.residual import Parallel, PreNorm


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model of a config.json; without `max_position_embeddings` its context is 2048 tokens."""
    config_json.require("apply_residual_connection_post_layernorm", False)
    bias, heads = config_json.get("bias", False), config_json.get("num_attention_heads")
    width = config_json.get("n_embed", config_json.get("hidden_size"))
    alibi = config_json.get("alibi", False)
    if alibi:
        config_json.ignore("rope_parameters", "rope_scaling", "rope_theta")
    return ModelConfig(
        vocab_size=config_json.get("vocab_size"),
        num_layers=config_json.get("num_hidden_layers"),
        width=width,
        context_length=config_json.get("max_position_embeddings", 2048) if alibi else _context_length(config_json),
        position=ALiBi(scale=(width // heads) ** -0.5, round_to_bfloat16=True) if alibi else rotary(config_json),
        mixer=GroupedQuery(
            num_heads=heads, num_kv_heads=_key_heads(config_json, heads), qkv_bias=bias, output_bias=bias
        ),
        ffn=MLP(
            width=config_json.get("ffn_hidden_size", 4 * width),
            activation=config_json.activation("activation", "gelu"),
            bias=bias,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        residual=_residual(config_json),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(attention="attention_dropout", residual="hidden_dropout"),
    )


def _context_length(config_json: ConfigJson) -> int:
    return 2048 if config_json.get("max_position_embeddings", None) is None else context_length(config_json)


def _key_heads(config_json: ConfigJson, heads: int) -> int:
    """Returns the number of key/value heads: `num_kv_heads` in the new decoder, else 1, or one for each query head."""
    count: int = config_json.get("num_kv_heads", heads)
    multi_query = config_json.get("multi_query", True)
    if config_json.get("new_decoder_architecture", False):
        return count
    if multi_query:
        return 1  # whatever num_kv_heads says
    config_json.require("num_kv_heads", heads)
    return heads


def _residual(config_json: ConfigJson) -> Parallel | PreNorm:
    new_decoder, parallel = config_json.get("new_decoder_architecture", False), config_json.get("parallel_attn", True)
    if new_decoder and not parallel:
        raise config_json.refusal("parallel_attn", "the new decoder has attention and feed-forward in parallel")
    norms = config_json.get("num_ln_in_parallel_attn", 2 if new_decoder else 1)
    if norms not in ((1, 2) if new_decoder else (1,)):
        raise config_json.refusal("num_ln_in_parallel_attn", "expected 1, or 1 or 2 in the new decoder")
    return Parallel(shared_norm=norms == 1) if parallel else PreNorm()


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
    read_config=read_config,
    weights=weights,
    prefix="transformer.",
)
