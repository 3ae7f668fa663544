"""dots.llm1: the attention of Qwen 3 with the experts of DeepSeek-V3.

rednote-hilab 2025, "dots.llm1 Technical Report", section 2.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import deepseek
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes; `scoring_func` may name the method of choice, as published."""
    config_json.require("scoring_func", "sigmoid", "noaux_tc")
    config_json.require("moe_layer_freq", 1)
    config_json.ignore("use_sliding_window")  # the code reads `sliding_window` alone
    base, dense, heads = llama_like.base(config_json), llama_like.gated_ffn(config_json), llama_like.heads(config_json)
    size, late = config_json.get_or_null("sliding_window", 4096), config_json.get("max_window_layers", 62)
    bias, first = config_json.get("attention_bias", False), config_json.get("first_k_dense_replace", 0)
    experts = deepseek.sigmoid_experts(config_json, groups=(1, 1), renormalize=False, scale=1.0, width=1408)
    types = llama_like.layer_types(config_json, lambda i: size is not None and i >= late)

    def layer(kind: tuple[str, bool]) -> dict[str, Any]:
        type_name, sparse = kind
        pattern = llama_like.window_pattern(size if type_name == "sliding_attention" else None)
        norm = QKNorm(norm=base["norm"])
        return {
            "mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, qk_norm=norm, pattern=pattern),
            "ffn": experts if sparse else dense,
        }

    return ModelConfig(
        **base,
        **llama_like.by_layer([(name, i >= first) for i, name in enumerate(types)], layer),
        position=rotary(config_json),
    )


FAMILY = Family(
    name="dots1",
    model_types=("dots1",),
    architecture="Dots1ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *deepseek.EXPERTS,
    ),
    buffers=llama_like.BUFFERS,
    aliases={"num_local_experts": "n_routed_experts"},
)
