"""Qwen 3: Qwen 2 with a norm on every query and key in place of biases.

Qwen Team 2025, "Qwen3 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(config_json), config_json.get("attention_bias", False)
    heads = llama_like.heads(config_json, num_kv_heads=32, head_dim=128)

    def layer(window: int | None) -> dict[str, Any]:
        return {
            "mixer": GroupedQuery(
                **heads,
                qkv_bias=bias,
                output_bias=bias,
                qk_norm=QKNorm(norm=base["norm"]),
                pattern=llama_like.window_pattern(window),
            )
        }

    return ModelConfig(
        **base,
        **llama_like.by_layer(llama_like.layer_windows(config_json), layer),
        position=rotary(config_json),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
    architecture="Qwen3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
