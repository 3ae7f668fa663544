"""Qwen 1.5 MoE and 2 MoE: Qwen 2 with many small experts and a gated shared expert, which every token uses.

Qwen Team 2024, "Qwen1.5-MoE" and "Qwen2 Technical Report", section 2.2.2.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.routing import SoftmaxRouter


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    heads, bias = llama_like.heads(config_json), config_json.get("qkv_bias", True)
    window_size = llama_like.active_window(config_json)
    early = config_json.get("max_window_layers", 28)
    types = llama_like.layer_types(config_json, lambda i: window_size is not None and i % 2 == 0 and i < early)
    windows = [window_size if kind == "sliding_attention" else None for kind in types]
    dense = llama_like.gated_ffn(config_json)
    experts = Experts(
        num_experts=config_json.get("num_experts", 60),
        top_k=config_json.get("num_experts_per_tok", 4),
        expert=llama_like.gated_ffn(config_json, width="moe_intermediate_size"),
        router=SoftmaxRouter(renormalize=config_json.get("norm_topk_prob", False)),
        shared=Shared(ffn=llama_like.gated_ffn(config_json, width="shared_expert_intermediate_size"), gate=True),
    )

    def layer(kind: tuple[int | None, bool]) -> dict[str, Any]:
        window, sparse = kind
        return {
            "mixer": GroupedQuery(**heads, qkv_bias=bias, pattern=llama_like.window_pattern(window)),
            "ffn": experts if sparse else dense,
        }

    config_json.ignore("router_aux_loss_coef")
    return ModelConfig(
        **llama_like.base(config_json),
        **llama_like.by_layer(list(zip(windows, llama_like.sparse_layers(config_json), strict=True)), layer),
        position=rotary(config_json),
    )


SHARED_EXPERT = (
    Weight("blocks.ffn.shared.gate", LAYER + "mlp.shared_expert.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.up", LAYER + "mlp.shared_expert.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.down", LAYER + "mlp.shared_expert.down_proj.weight", "d f -> f d"),
    Weight("blocks.ffn.shared_gate", LAYER + "mlp.shared_expert_gate.weight", "1 d -> d"),
)

FAMILY = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    architecture="Qwen2MoeForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
        *llama_like.EXPERTS,
        *SHARED_EXPERT,
    ),
    buffers=llama_like.BUFFERS,
)
