"""Granite 3 MoE and PowerMoE: Granite with experts in every layer, in one form together with a shared expert.

Granite Team, IBM 2024, "Granite 3.0 Language Models", section 2. The form with a shared expert ("granitemoeshared") has
a `transformers` class of its own; the tensors of all experts of a layer are fused.
"""

import dataclasses

from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import granite
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    return granite.with_multipliers(config_json, _experts(config_json))


def read_config_shared(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of the form with a shared expert describes; width 0 stands for none."""
    experts = _experts(config_json)
    if config_json.get("shared_intermediate_size", 0):
        shared = Shared(ffn=llama_like.gated_ffn(config_json, width="shared_intermediate_size"))
        experts = dataclasses.replace(experts, shared=shared)
    return granite.with_multipliers(config_json, experts)


def _experts(config_json: ConfigJson) -> Experts:
    config_json.require("position_embedding_type", "rope")
    config_json.ignore("router_aux_loss_coef")
    return Experts(
        num_experts=config_json.get("num_local_experts", 8),
        top_k=config_json.get("num_experts_per_tok", 2),
        expert=llama_like.gated_ffn(config_json),
    )


MIXTURE, SHARED_EXPERT = LAYER + "block_sparse_moe.", LAYER + "shared_mlp."

PLAIN = Family(
    name="granitemoe",
    model_types=("granitemoe",),
    architecture="GraniteMoeForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        Weight("blocks.ffn.router", MIXTURE + "router.layer.weight", "e d -> d e"),
        Weight("blocks.ffn.gate", MIXTURE + "input_linear.weight", "e +f d -> e d f"),
        Weight("blocks.ffn.up", MIXTURE + "input_linear.weight", "e +f d -> e d f"),
        Weight("blocks.ffn.down", MIXTURE + "output_linear.weight", "e d f -> e f d"),
        Weight("blocks.ffn.shared.gate", SHARED_EXPERT + "input_linear.weight", "+f d -> d f"),
        Weight("blocks.ffn.shared.up", SHARED_EXPERT + "input_linear.weight", "+f d -> d f"),
        Weight("blocks.ffn.shared.down", SHARED_EXPERT + "output_linear.weight", "d f -> f d"),
    ),
    buffers=llama_like.BUFFERS,
)
SHARED = dataclasses.replace(
    PLAIN,
    name="granitemoeshared",
    model_types=("granitemoeshared",),
    architecture="GraniteMoeSharedForCausalLM",
    read_config=read_config_shared,
)
