"""Qwen 3 MoE: Qwen 3 with experts, none of them shared.

Qwen Team 2025, "Qwen3 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.experts import Experts
from model.feedforward.routing import SoftmaxRouter


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(config_json), config_json.get("attention_bias", False)
    window = llama_like.active_window(config_json)
    dense = llama_like.gated_ffn(config_json)
    experts = Experts(
        num_experts=config_json.get("num_experts", 128),
        top_k=config_json.get("num_experts_per_tok", 8),
        expert=llama_like.gated_ffn(config_json, width="moe_intermediate_size"),
        router=SoftmaxRouter(renormalize=config_json.get("norm_topk_prob", False)),
    )

    def layer(sparse: bool) -> dict[str, Any]:
        return {"ffn": experts if sparse else dense}

    config_json.ignore("router_aux_loss_coef", "max_window_layers")
    return ModelConfig(
        **base,
        **llama_like.by_layer(llama_like.sparse_layers(config_json), layer),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=4),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"]),
            pattern=llama_like.window_pattern(window),
        ),
    )


FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    architecture="Qwen3MoeForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
        *llama_like.EXPERTS,
    ),
    buffers=llama_like.BUFFERS,
    aliases={"num_local_experts": "num_experts"},
)
