"""Qwen3-Next: gated delta layers, every fourth layer gated attention, and many small experts beside a shared one.

Qwen Team 2025, "Qwen3-Next: Towards Ultimate Training & Inference Efficiency". The projection of queries also makes the
output gate (Qiu et al. 2025, "Gated Attention for Large Language Models"); a quarter of each head is rotated. The layer
that predicts a second token (`mtp.`) is left out.
"""

import dataclasses
from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import qwen2_moe
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.routing import SoftmaxRouter
from model.norms import RMSNorm
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta

DELTA, ATTENTION = "linear_attention", "full_attention"


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    epsilon, bias = config_json.get("rms_norm_eps", 1e-6), config_json.get("attention_bias", False)
    norm = RMSNorm(epsilon=epsilon, scale="zero")
    base = llama_like.base(config_json) | {"norm": norm}
    config_json.require("hidden_act", "silu", "swish")
    config_json.require("attn_output_gate", True)
    config_json.require("use_sliding_window", False)
    config_json.ignore("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # of tensors that are left out
    config_json.ignore("router_aux_loss_coef", "mamba_ssm_dtype")
    mixers = {
        ATTENTION: GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=2, head_dim=256),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=norm),
            output_gate="channel",
            gate_bias=bias,
        ),
        DELTA: GatedDelta(
            num_heads=config_json.get("linear_num_value_heads", 32),
            num_key_heads=config_json.get("linear_num_key_heads", 16),
            head_dim=config_json.get("linear_key_head_dim", 128),
            value_head_dim=config_json.get("linear_value_head_dim", 128),
            convolution=config_json.get("linear_conv_kernel_dim", 4),
            output_norm=RMSNorm(epsilon=epsilon),
        ),
    }
    types, sparse, positions = (
        _layer_types(config_json),
        llama_like.sparse_layers(config_json),
        rotary(config_json, fraction=0.25),
    )
    if ATTENTION not in types:
        base["dropout"] = dataclasses.replace(base["dropout"], attention=0.0)
    config_json.ignore("intermediate_size")
    experts = _experts(config_json) if any(sparse) else None
    dense = None if all(sparse) else llama_like.gated_ffn(config_json)

    def layer(kind: tuple[str, bool]) -> dict[str, Any]:
        return {"mixer": mixers[kind[0]], "ffn": experts if kind[1] else dense}

    return ModelConfig(
        **base,
        **llama_like.by_layer(list(zip(types, sparse, strict=True)), layer),
        position=positions if ATTENTION in types else NoPositions(),
    )


def _layer_types(config_json: ConfigJson) -> list[str]:
    layers, interval = config_json.get("num_hidden_layers"), config_json.get("full_attention_interval", 4)
    default = [DELTA if (i + 1) % interval else ATTENTION for i in range(layers)]
    kinds: list[str] = config_json.get("layer_types", default)
    if set(kinds) - {DELTA, ATTENTION} or len(kinds) != layers:
        raise config_json.refusal("layer_types", f"expected {DELTA} or {ATTENTION} for each of {layers} layers")
    return kinds


def _experts(config_json: ConfigJson) -> Experts:
    return Experts(
        num_experts=config_json.get("num_experts", 512),
        top_k=config_json.get("num_experts_per_tok", 10),
        expert=llama_like.gated_ffn(config_json, width="moe_intermediate_size"),
        router=SoftmaxRouter(renormalize=config_json.get("norm_topk_prob", True)),
        shared=Shared(ffn=llama_like.gated_ffn(config_json, width="shared_expert_intermediate_size"), gate=True),
    )


FUSED, AT, IS_DELTA = LAYER + "self_attn.q_proj.", LAYER + "linear_attn.", "blocks.mixer.strength"
ATTENTION_WEIGHTS = (
    Weight("blocks.mixer.query", FUSED + "weight", "(n +h) d -> d n h"),
    Weight("blocks.mixer.gate", FUSED + "weight", "(n +h) d -> d n h"),
    Weight("blocks.mixer.query_bias", FUSED + "bias", "(n +h) -> n h"),
    Weight("blocks.mixer.gate_bias", FUSED + "bias", "(n +h) -> n h"),
    *(row for row in llama_like.ATTENTION if not row.tensor.startswith(FUSED)),
    *llama_like.QK_NORMS,
)
# Queries, keys, values and gates of one key head lie together, and so do write strengths and decays.
DELTA_WEIGHTS = (
    Weight("blocks.mixer.query", AT + "in_proj_qkvz.weight", "(k +h) d -> d k h"),
    Weight("blocks.mixer.key", AT + "in_proj_qkvz.weight", "(k +h) d -> d k h"),
    Weight("blocks.mixer.value", AT + "in_proj_qkvz.weight", "(n +p) d -> d n p"),
    Weight("blocks.mixer.gate", AT + "in_proj_qkvz.weight", "(n +p) d -> d n p"),
    Weight("blocks.mixer.strength", AT + "in_proj_ba.weight", "(k +r) d -> d (k r)"),
    Weight("blocks.mixer.decay", AT + "in_proj_ba.weight", "(k +r) d -> d (k r)"),
    Weight("blocks.mixer.query_filter", AT + "conv1d.weight", "+(k h) 1 ~j -> j k h"),
    Weight("blocks.mixer.key_filter", AT + "conv1d.weight", "+(k h) 1 ~j -> j k h"),
    Weight("blocks.mixer.value_filter", AT + "conv1d.weight", "+(n p) 1 ~j -> j n p"),
    Weight("blocks.mixer.decay_rate", AT + "A_log"),
    Weight("blocks.mixer.decay_bias", AT + "dt_bias"),
    Weight("blocks.mixer.output_norm.scale", AT + "norm.weight"),
    Weight("blocks.mixer.output", AT + "out_proj.weight", "d (n p) -> n p d"),
)

FAMILY = Family(
    name="qwen3_next",
    model_types=("qwen3_next",),
    architecture="Qwen3NextForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *(dataclasses.replace(row, condition="-" + IS_DELTA) for row in ATTENTION_WEIGHTS),
        *(dataclasses.replace(row, condition=IS_DELTA) for row in DELTA_WEIGHTS),
        *llama_like.FEED_FORWARD,
        *llama_like.EXPERTS,
        *qwen2_moe.SHARED_EXPERT,
    ),
    buffers=(*llama_like.BUFFERS, "mtp.*"),
)
