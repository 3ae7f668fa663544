"""Qwen 1.5 MoE and 2 MoE: Qwen 2 with many small experts and a gated shared expert, which every token uses.

Qwen Team 2024, "Qwen1.5-MoE" and "Qwen2 Technical Report", section 2.2.2.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.routing import SoftmaxRouter


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    heads, bias = llama_like.heads(published), published.get("qkv_bias", True)
    size = llama_like.used_window(published)
    early = published.get("max_window_layers", 28)
    types = llama_like.layer_types(published, lambda i: size is not None and i % 2 == 0 and i < early)
    windows = [size if kind == "sliding_attention" else None for kind in types]
    dense = llama_like.gated(published)
    experts = Experts(
        num_experts=published.get("num_experts", 60),
        top_k=published.get("num_experts_per_tok", 4),
        expert=llama_like.gated(published, width="moe_intermediate_size"),
        router=SoftmaxRouter(renormalize=published.get("norm_topk_prob", False)),
        shared=Shared(ffn=llama_like.gated(published, width="shared_expert_intermediate_size"), gate=True),
    )

    def layer(kind: tuple[int | None, bool]) -> dict[str, Any]:
        window, sparse = kind
        return {
            "mixer": GroupedQuery(**heads, qkv_bias=bias, pattern=llama_like.window(window)),
            "ffn": experts if sparse else dense,
        }

    published.unused("router_aux_loss_coef")
    return ModelConfig(
        **llama_like.base(published),
        **llama_like.by_layer(list(zip(windows, llama_like.sparse_layers(published), strict=True)), layer),
        position=rotary(published),
    )


FAMILY = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    architecture="Qwen2MoeForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
        *llama_like.EXPERTS,
        Weight("blocks.ffn.shared.gate", LAYER + "mlp.shared_expert.gate_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.shared.up", LAYER + "mlp.shared_expert.up_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.shared.down", LAYER + "mlp.shared_expert.down_proj.weight", "d f -> f d"),
        Weight("blocks.ffn.shared_gate", LAYER + "mlp.shared_expert_gate.weight", "1 d -> d"),
    ),
    buffers=llama_like.BUFFERS,
)
