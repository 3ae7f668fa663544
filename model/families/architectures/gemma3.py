"""Gemma 3, its text models: Gemma 2 with norms on queries and keys, five local layers for each global layer.

Gemma Team 2025, "Gemma 3 Technical Report". Local and global layers have rotary positions of their own.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.residual import Multipliers, Sandwich


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("use_bidirectional_attention", False)
    config_json.ignore("attn_logit_softcapping")  # Gemma 3's code stores it and never uses it
    base, bias = llama_like.base(config_json, tied=True), config_json.get("attention_bias", False)
    norm = RMSNorm(epsilon=base["norm"].epsilon, scale="zero")
    heads = llama_like.heads(config_json, num_kv_heads=4, head_dim=256)
    window_size = config_json.get("sliding_window", 4096)
    period = config_json.get("sliding_window_pattern", config_json.get("_sliding_window_pattern", 6))
    local = config_json.get("rope_local_base_freq", 1e4)
    positions = {
        "full_attention": rotary(config_json, theta=1e6, layer_type="full_attention"),
        "sliding_attention": rotary(config_json, theta=local, layer_type="sliding_attention", legacy_keys=False),
    }
    shared = {
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": QKNorm(norm=norm),
        "scale": config_json.get("query_pre_attn_scalar", 256) ** -0.5,
    }

    def layer(kind: str) -> dict[str, Any]:
        window = llama_like.window_pattern(window_size if kind == "sliding_attention" else None)
        return {"mixer": GroupedQuery(**heads, **shared, pattern=window), "position": positions[kind]}

    return ModelConfig(
        **base | {"norm": norm},
        **llama_like.by_layer(llama_like.layer_types(config_json, lambda i: (i + 1) % period != 0), layer),
        residual=Sandwich(),
        multipliers=Multipliers(embedding=base["width"] ** 0.5),
        ffn=Gated(
            width=config_json.get("intermediate_size"),
            activation=config_json.activation("hidden_activation", "gelu_pytorch_tanh"),
        ),
        final_logit_softcap=config_json.get("final_logit_softcapping", None),
    )


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3_text",),
    architecture="Gemma3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.SANDWICH_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
