"""Command R7B and Command A (Cohere 2): parallel layers, LayerNorm without bias, no positions in global layers.

Cohere 2025, "Command A: An Enterprise-Ready Large Language Model", section 2.1.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.norms import LayerNorm
from model.positions.absolute import NoPositions
from model.residual import Multipliers, Parallel


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    dimensions = llama_like.dimensions(config_json)
    period = config_json.get("sliding_window_pattern", config_json.get("_sliding_window_pattern", 4))
    types = llama_like.layer_types(config_json, lambda i: (i + 1) % period != 0)
    _check_older_keys(config_json, period, dimensions["width"] // config_json.get("num_attention_heads"))
    bias, heads = config_json.get("attention_bias", False), llama_like.heads(config_json)
    window = config_json.get_or_null("sliding_window", 4096)
    if window is None and "sliding_attention" in types:
        raise config_json.refusal("sliding_window", "layers with windows need their size")
    local, positions = llama_like.window_pattern(window), rotary(config_json, interleaved=True)

    def layer(kind: str) -> dict[str, Any]:
        sliding = kind == "sliding_attention"
        pattern = local if sliding else llama_like.window_pattern(None)
        return {
            "position": positions if sliding else NoPositions(),
            "mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=pattern),
        }

    return ModelConfig(
        **dimensions,
        **llama_like.by_layer(types, layer),
        context_length=context_length(config_json),
        ffn=llama_like.gated_ffn(config_json),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_eps", 1e-5), bias=False),
        residual=Parallel(),
        multipliers=Multipliers(logits=float(config_json.get("logit_scale", 0.0625))),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(attention="attention_dropout"),
    )


def _check_older_keys(config_json: ConfigJson, period: int, head_dim: int) -> None:
    """Refuses keys of early files unless they have the only value that these models use."""
    config_json.require("head_dim", head_dim)
    config_json.require("layer_switch", period)
    config_json.require("order_of_interleaved_layers", "local_attn_first")
    config_json.require("position_embedding_type", "rope_gptj")
    config_json.require("rotary_pct", 1.0)
    config_json.require("use_embedding_sharing", True)
    config_json.require("use_gated_activation", True)
    config_json.require("use_parallel_block", True)
    config_json.require("use_qk_norm", False)
    config_json.ignore("use_parallel_embedding")  # how Cohere's code divides the embedding among devices


FAMILY = Family(
    name="cohere2",
    model_types=("cohere2",),
    architecture="Cohere2ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
