"""Granite 4: Mamba-2 and attention layers, with a gated feed-forward layer that experts may join.

Granite Team, IBM 2025, "Granite 4.0 Language Models". The constant factors are those of Granite 3; attention layers
have no positions (Kazemnejad et al. 2023, "The Impact of Positional Encoding on Length Generalization") or rotary ones.
"""

import dataclasses
from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.dropout import Dropout
from model.families import llama_like
from model.families.architectures import mamba2
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import Gated
from model.feedforward.routing import SoftmaxRouter
from model.positions.absolute import NoPositions
from model.positions.rotary import Rotary
from model.recurrent.state_space import StateSpace
from model.residual import Multipliers

# The types of layers and their older names.
RECURRENT, ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(config_json), config_json.get("attention_bias", False)
    types = _layer_types(config_json)
    attention = GroupedQuery(
        **llama_like.heads(config_json),
        qkv_bias=bias,
        output_bias=bias,
        scale=float(config_json.get("attention_multiplier", 1.0)),
    )
    state_space = _state_space(config_json, base)
    if not any(kind in ATTENTION for kind in types):
        base["dropout"] = dataclasses.replace(base["dropout"], attention=Dropout().attention)
    # They are for the start of training and for speed; the norms are RMSNorm in every release of the library.
    config_json.ignore("init_method", "mamba_chunk_size", "normalization_function", "router_aux_loss_coef")

    def layer(kind: str) -> dict[str, Any]:
        return {"mixer": state_space if kind in RECURRENT else attention}

    return ModelConfig(
        **base,
        **llama_like.by_layer(types, layer),
        position=_position(config_json, types),
        ffn=_feed_forward(config_json),
        multipliers=Multipliers(
            embedding=float(config_json.get("embedding_multiplier", 1.0)),
            residual=float(config_json.get("residual_multiplier", 1.0)),
            logits=1 / config_json.get("logits_scaling", 1.0),
        ),
    )


def _layer_types(config_json: ConfigJson) -> list[str]:
    default = [RECURRENT[0]] * config_json.get("num_hidden_layers")
    kinds: list[str] = config_json.get("layer_types", config_json.get("layers_block_type", default))
    if set(kinds) - {*RECURRENT, *ATTENTION}:
        raise config_json.refusal("layer_types", f"expected {' or '.join((*RECURRENT, *ATTENTION))}")
    if len(kinds) != len(default):
        raise config_json.refusal("layer_types", f"expected one of each of the {len(default)} layers")
    return [kind if kind in ATTENTION else RECURRENT[0] for kind in kinds]


def _position(config_json: ConfigJson, types: list[str]) -> NoPositions | Rotary:
    config_json.require("position_embedding_type", "nope", "rope")
    rotates = config_json.get("position_embedding_type", "nope") == "rope"
    if rotates and any(kind in ATTENTION for kind in types):
        return rotary(config_json)
    config_json.ignore("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
    return NoPositions()


def _state_space(config_json: ConfigJson, base: dict[str, Any]) -> StateSpace:
    mamba2.refuse_other_functions(config_json)
    heads, inner = config_json.get("mamba_n_heads", 128), int(config_json.get("mamba_expand", 2) * base["width"])
    head_dim = config_json.get("mamba_d_head", "auto")
    if heads * (inner // heads if head_dim == "auto" else head_dim) != inner:
        fix = f"with mamba_d_head={head_dim} it must make mamba_expand * hidden_size = {inner}"
        raise config_json.refusal("mamba_n_heads", fix)
    return StateSpace(
        num_heads=heads,
        num_groups=config_json.get("mamba_n_groups", 1),
        head_dim=inner // heads,
        state_dim=config_json.get("mamba_d_state", 256),
        convolution=config_json.get("mamba_d_conv", 4),
        convolution_bias=config_json.get("mamba_conv_bias", True),
        bias=config_json.get("mamba_proj_bias", False),
        output_norm=base["norm"],
    )


def _feed_forward(config_json: ConfigJson) -> Gated | Experts:
    """Returns the gated layer that all tokens use, beside experts unless there are none."""
    shared, count = llama_like.gated_ffn(config_json, width="shared_intermediate_size"), "num_local_experts"
    if not config_json.get(count, 8):
        config_json.ignore("num_experts_per_tok", "intermediate_size")
        return shared
    return Experts(
        num_experts=config_json.get(count, 8),
        top_k=config_json.get("num_experts_per_tok", 2),
        expert=llama_like.gated_ffn(config_json),
        router=SoftmaxRouter(),
        shared=Shared(ffn=shared),
    )


def _shared_weights(parameters: str, condition: str) -> tuple[Weight, ...]:
    into, out = LAYER + "shared_mlp.input_linear.weight", LAYER + "shared_mlp.output_linear.weight"
    return (
        Weight(parameters + ".gate", into, "+f d -> d f", condition=condition),
        Weight(parameters + ".up", into, "+f d -> d f", condition=condition),
        Weight(parameters + ".down", out, "d f -> f d", condition=condition),
    )


EXPERTS = LAYER + "block_sparse_moe."
ROUTER = "blocks.ffn.router"

FAMILY = Family(
    name="granitemoehybrid",
    model_types=("granitemoehybrid",),
    architecture="GraniteMoeHybridForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *(dataclasses.replace(row, condition="-blocks.mixer.step") for row in llama_like.ATTENTION),
        *(dataclasses.replace(row, condition="blocks.mixer.step") for row in mamba2.mixer_weights(LAYER + "mamba.")),
        *_shared_weights("blocks.ffn", "-" + ROUTER),
        *_shared_weights("blocks.ffn.shared", ROUTER),
        Weight(ROUTER, EXPERTS + "router.layer.weight", "e d -> d e"),
        Weight("blocks.ffn.gate", EXPERTS + "input_linear.weight", "e +f d -> e d f", condition=ROUTER),
        Weight("blocks.ffn.up", EXPERTS + "input_linear.weight", "e +f d -> e d f", condition=ROUTER),
        Weight("blocks.ffn.down", EXPERTS + "output_linear.weight", "e d f -> e f d", condition=ROUTER),
    ),
    buffers=llama_like.BUFFERS,
)
