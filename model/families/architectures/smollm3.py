"""SmolLM3: LLaMA without positions in every fourth layer; these layers may have windows.

Bakouch et al. 2025, "SmolLM3: smol, multilingual, long-context reasoner". No positions in some layers: Yang et al.
2025, "RoPE to NoPE and Back Again".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.positions.absolute import NoPositions


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, heads = llama_like.base(config_json, tied=True), llama_like.heads(config_json, num_kv_heads=4)
    bias, layers = config_json.get("attention_bias", False), base["num_layers"]
    interval = config_json.get("no_rope_layer_interval", 4)
    has_rope = config_json.get("no_rope_layers", [(i + 1) % interval != 0 for i in range(layers)])
    window_size = config_json.get("sliding_window", None) if config_json.get("use_sliding_window", False) else None
    types = llama_like.layer_types(config_json, lambda i: window_size is not None and not has_rope[i])
    if window_size is None and "sliding_attention" in types:
        raise config_json.refusal("layer_types", "a sliding layer needs use_sliding_window=true and a sliding_window")
    # max_window_layers has no effect in any file, sliding_window none where use_sliding_window is false.
    config_json.ignore("sliding_window", "max_window_layers")
    local, positions = llama_like.window_pattern(window_size), rotary(config_json, theta=2e6)

    def layer(kind: tuple[bool, str]) -> dict[str, Any]:
        pattern = local if kind[1] == "sliding_attention" else llama_like.window_pattern(None)
        return {
            "position": positions if kind[0] else NoPositions(),
            "mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=pattern),
        }

    return ModelConfig(
        **base,
        **llama_like.by_layer([(bool(has_rope[i]), types[i]) for i in range(layers)], layer),
        ffn=llama_like.gated_ffn(config_json, bias=config_json.get("mlp_bias", False)),
    )


FAMILY = Family(
    name="smollm3",
    model_types=("smollm3",),
    architecture="SmolLM3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
