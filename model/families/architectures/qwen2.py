"""Qwen 1.5, 2 and 2.5: LLaMA with biases on queries, keys and values, and windows in the later layers.

Qwen Team 2024, "Qwen2 Technical Report"; 2024, "Qwen2.5 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    heads = llama_like.heads(config_json)

    def layer(window: int | None) -> dict[str, Any]:
        return {"mixer": GroupedQuery(**heads, qkv_bias=True, pattern=llama_like.window_pattern(window))}

    return ModelConfig(
        **llama_like.base(config_json),
        **llama_like.by_layer(llama_like.layer_windows(config_json), layer),
        position=rotary(config_json),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="qwen2",
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
