"""Qwen 3 MoE: Qwen 3 with experts, none of them shared.

Qwen Team 2025, "Qwen3 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary
from model.feedforward.experts import Experts
from model.feedforward.routing import SoftmaxRouter


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(published), published.get("attention_bias", False)
    window = llama_like.used_window(published)
    dense = llama_like.gated(published)
    experts = Experts(
        num_experts=published.get("num_experts", published.get("num_local_experts", 128)),
        top_k=published.get("num_experts_per_tok", 8),
        expert=llama_like.gated(published, width="moe_intermediate_size"),
        router=SoftmaxRouter(renormalize=published.get("norm_topk_prob", False)),
    )

    def layer(sparse: bool) -> dict[str, Any]:
        return {"ffn": experts if sparse else dense}

    published.unused("router_aux_loss_coef", "max_window_layers")
    return ModelConfig(
        **base,
        **llama_like.by_layer(llama_like.sparse_layers(published), layer),
        position=rotary(published),
        mixer=GroupedQuery(
            **llama_like.heads(published, num_kv_heads=4),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"]),
            pattern=llama_like.window(window),
        ),
    )


FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    architecture="Qwen3MoeForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
        *llama_like.EXPERTS,
    ),
    buffers=llama_like.BUFFERS,
)
