"""GLM-4.5, 4.6 and 4.7 (GLM-4 MoE): few key heads, rotary positions on half of each head, the experts of DeepSeek-V3.

GLM-4.5 Team 2025, "GLM-4.5: Agentic, Reasoning, and Coding (ARC) Foundation Models", section 2.1. The files also hold
a layer for multi-token prediction, after the last one: it is ignored, as `transformers` ignores it.
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
    """Returns the model that a config.json describes."""
    config_json.require("scoring_func", "sigmoid")
    base, dense = llama_like.base(config_json, epsilon=1e-5), llama_like.gated_ffn(config_json)
    first = config_json.get("first_k_dense_replace", 1)
    experts = deepseek.sigmoid_experts(
        config_json, groups=(1, 1), renormalize=True, scale=1.0, count=128, top_k=8, width=1408, shared=1
    )

    def layer(sparse: bool) -> dict[str, Any]:
        return {"ffn": experts if sparse else dense}

    return ModelConfig(
        **base,
        **llama_like.by_layer([i >= first for i in range(config_json.get("num_hidden_layers"))], layer),
        position=rotary(config_json, fraction=0.5),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=8),
            qkv_bias=config_json.get("attention_bias", False),
            qk_norm=QKNorm(norm=base["norm"]) if config_json.get("use_qk_norm", False) else None,
        ),
    )


FAMILY = Family(
    name="glm4_moe",
    model_types=("glm4_moe",),
    architecture="Glm4MoeForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *deepseek.EXPERTS,
    ),
    buffers=(*llama_like.BUFFERS, "model.layers.{num_layers}.*"),
    aliases={"num_local_experts": "n_routed_experts"},
)
