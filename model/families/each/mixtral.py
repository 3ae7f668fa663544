"""Mixtral: Mistral with eight experts in every layer.

Jiang et al. 2024, "Mixtral of Experts".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    published.unused("router_aux_loss_coef", "router_jitter_noise")
    window = llama_like.window(published.get("sliding_window", None))
    return ModelConfig(
        **llama_like.base(published, epsilon=1e-5),
        position=rotary(published, theta=1e6),
        mixer=GroupedQuery(**llama_like.heads(published, num_kv_heads=8), pattern=window),
        ffn=Experts(
            num_experts=published.get("num_local_experts", 8),
            top_k=published.get("num_experts_per_tok", 2),
            expert=llama_like.gated(published),
        ),
    )


FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    architecture="MixtralForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        Weight("blocks.ffn.router", LAYER + "block_sparse_moe.gate.weight", "e d -> d e"),
        Weight("blocks.ffn.gate", LAYER + "block_sparse_moe.experts.{expert}.w1.weight", "f d -> d f"),
        Weight("blocks.ffn.up", LAYER + "block_sparse_moe.experts.{expert}.w3.weight", "f d -> d f"),
        Weight("blocks.ffn.down", LAYER + "block_sparse_moe.experts.{expert}.w2.weight", "d f -> f d"),
    ),
    buffers=llama_like.BUFFERS,
)
