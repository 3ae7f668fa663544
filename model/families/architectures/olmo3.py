"""OLMo 3: OLMo 2 with windows in three of four layers; scaling for long contexts leaves out the layers with windows.

Olmo Team 2025, "Olmo 3".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.residual import Reordered


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(config_json, epsilon=1e-5), config_json.get("attention_bias", False)
    heads, window_size = llama_like.heads(config_json), config_json.get("sliding_window", 4096)
    theta = config_json.get("rope_theta", 5e5)
    positions = {
        "full_attention": rotary(config_json, theta=theta, layer_type="full_attention"),
        "sliding_attention": rotary(config_json, theta=theta, layer_type="sliding_attention", legacy_keys=False),
    }

    def layer(kind: str) -> dict[str, Any]:
        attention = GroupedQuery(
            **heads,
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"], over="projection"),
            pattern=llama_like.window_pattern(window_size if kind == "sliding_attention" else None),
        )
        return {"mixer": attention, "position": positions[kind]}

    return ModelConfig(
        **base,
        **llama_like.by_layer(llama_like.layer_types(config_json, lambda i: (i + 1) % 4 != 0), layer),
        residual=Reordered(),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="olmo3",
    model_types=("olmo3",),
    architecture="Olmo3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.OUTPUT_NORMS,
        *llama_like.ATTENTION,
        *llama_like.PROJECTION_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
