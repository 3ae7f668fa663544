"""Mixtral: Mistral with eight experts in every layer.

Jiang et al. 2024, "Mixtral of Experts".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.ignore("router_aux_loss_coef", "router_jitter_noise")
    window = llama_like.window_pattern(config_json.get("sliding_window", None))
    return ModelConfig(
        **llama_like.base(config_json, epsilon=1e-5),
        position=rotary(config_json, theta=1e6),
        mixer=GroupedQuery(**llama_like.heads(config_json, num_kv_heads=8), pattern=window),
        ffn=Experts(
            num_experts=config_json.get("num_local_experts", 8),
            top_k=config_json.get("num_experts_per_tok", 2),
            expert=llama_like.gated_ffn(config_json),
        ),
    )


FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    architecture="MixtralForCausalLM",
    read_config=read_config,
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
    aliases={"num_experts": "num_local_experts"},
)
