"""DeepSeek-V2 and V3 (and R1), Kimi K2: latent attention, first layers dense, the others with many small experts.

DeepSeek-AI 2024, "DeepSeek-V2"; 2024, "DeepSeek-V3 Technical Report"; Kimi Team 2025, "Kimi K2: Open Agentic
Intelligence". V2 and V3 differ in how experts are chosen. Kimi K2 is V3 with other sizes; its files name the class of
V3. The layers for multi-token prediction in V3's files are ignored, as `transformers` ignores them.
"""

import dataclasses
from typing import Any

from model.attention.latent import Latent
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import REQUIRED, ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import attention_factor, rotary
from model.families.weights import Weight
from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import Gated
from model.feedforward.routing import Groups, SigmoidRouter, SoftmaxRouter
from model.norms import RMSNorm

ATTENTION, QUERY_DOWN = LAYER + "self_attn.", "blocks.mixer.query_down"


def read_config_v2(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of V2 describes."""
    config_json.require("scoring_func", "softmax")
    config_json.require("norm_topk_prob", False)
    config_json.require("mlp_bias", False)
    grouped = config_json.lookup("topk_method", {"greedy": False, "group_limited_greedy": True}, "greedy")
    count, kept = config_json.get("n_group", 1), config_json.get("topk_group", 1)
    router = SoftmaxRouter(
        renormalize=False,
        scale=config_json.get("routed_scaling_factor", 1.0),
        groups=Groups(count=count, top_k=kept) if grouped and kept < count else None,
    )
    experts = _experts(config_json, router, count=64, top_k=6, width=1407, shared=2)
    return _model_config(config_json, experts, dense=0, interleaved=True)


def read_config_v3(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of V3, or of Kimi K2, describes."""
    config_json.require("scoring_func", "sigmoid")
    experts = sigmoid_experts(
        config_json, groups=(8, 4), renormalize=True, scale=2.5, count=256, top_k=8, width=2048, shared=1
    )
    return _model_config(config_json, experts, dense=3, interleaved=config_json.get("rope_interleave", True))


def sigmoid_experts(
    config_json: ConfigJson,
    *,
    groups: tuple[int, int],
    renormalize: bool,
    scale: float,
    count: int = REQUIRED,
    top_k: int = REQUIRED,
    width: int,
    shared: int = REQUIRED,
) -> Experts:
    """Returns the experts of V3, and of families that took them over; the arguments are the family's defaults.

    Args:
      config_json: the values.
      groups: the number of groups of experts, and how many of them a token chooses.
      renormalize, scale: whether the weights of a token's experts sum to 1, and a factor on these weights.
      count, top_k, width: the number of experts, of a token's experts, and the width of one.
      shared: the number of experts that all tokens use.
    """
    config_json.require("topk_method", "noaux_tc")
    config_json.ignore("num_nextn_predict_layers", "num_mtp_layers")
    num_groups, kept = config_json.get("n_group", groups[0]), config_json.get("topk_group", groups[1])
    router = SigmoidRouter(
        renormalize=config_json.get("norm_topk_prob", renormalize),
        scale=config_json.get("routed_scaling_factor", scale),
        groups=Groups(count=num_groups, top_k=kept, score="top2_sum") if kept < num_groups else None,
    )
    experts = _experts(config_json, router, count=count, top_k=top_k, width=width, shared=shared)
    return dataclasses.replace(experts, load_bias=LoadBias(rate=0.0))


def _experts(
    config_json: ConfigJson, router: SoftmaxRouter | SigmoidRouter, *, count: int, top_k: int, width: int, shared: int
) -> Experts:
    activation = config_json.activation("hidden_act", "silu")
    width = config_json.get("moe_intermediate_size", width)
    return Experts(
        num_experts=config_json.get("n_routed_experts", count),
        top_k=config_json.get("num_experts_per_tok", top_k),
        expert=Gated(width=width, activation=activation),
        router=router,
        shared=Shared(ffn=Gated(width=width * config_json.get("n_shared_experts", shared), activation=activation)),
    )


def _model_config(config_json: ConfigJson, experts: Experts, *, dense: int, interleaved: bool) -> ModelConfig:
    """Returns the model, the same way for V2 and V3; `dense` is the default number of dense first layers."""
    config_json.require("attention_bias", False)
    config_json.require("moe_layer_freq", 1)
    config_json.ignore("aux_loss_alpha", "ep_size", "head_dim", "num_key_value_heads", "qk_head_dim", "seq_aux")
    dense_ffn, first = llama_like.gated_ffn(config_json), config_json.get("first_k_dense_replace", dense)
    head_dim, rotary_head_dim = config_json.get("qk_nope_head_dim", 128), config_json.get("qk_rope_head_dim", 64)

    def layer(sparse: bool) -> dict[str, Any]:
        return {"ffn": experts if sparse else dense_ffn}

    return ModelConfig(
        **llama_like.base(config_json),
        **llama_like.by_layer([i >= first for i in range(config_json.get("num_hidden_layers"))], layer),
        position=rotary(config_json, interleaved=interleaved),
        mixer=Latent(
            num_heads=config_json.get("num_attention_heads"),
            kv_rank=config_json.get("kv_lora_rank", 512),
            query_rank=config_json.get_or_null("q_lora_rank", 1536),
            head_dim=head_dim,
            rotary_head_dim=rotary_head_dim,
            value_head_dim=config_json.get("v_head_dim", 128),
            norm=RMSNorm(epsilon=1e-6),  # even where the other norms have another epsilon
            scale=attention_factor(config_json) * (head_dim + rotary_head_dim) ** -0.5,
        ),
    )


EXPERTS = (
    *llama_like.FEED_FORWARD,
    *llama_like.EXPERTS,
    Weight("blocks.ffn.load_bias", LAYER + "mlp.gate.e_score_correction_bias"),
    Weight("blocks.ffn.shared.gate", LAYER + "mlp.shared_experts.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.up", LAYER + "mlp.shared_experts.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.down", LAYER + "mlp.shared_experts.down_proj.weight", "d f -> f d"),
)
WEIGHTS = (
    *llama_like.EMBEDDING,
    *llama_like.PRE_NORMS,
    Weight(QUERY_DOWN, ATTENTION + "q_a_proj.weight", "r d -> d r"),
    Weight("blocks.mixer.query_norm.scale", ATTENTION + "q_a_layernorm.weight"),
    Weight("blocks.mixer.query", ATTENTION + "q_b_proj.weight", "(n h) r -> r n h", condition=QUERY_DOWN),
    Weight("blocks.mixer.query", ATTENTION + "q_proj.weight", "(n h) d -> d n h", condition="-" + QUERY_DOWN),
    Weight("blocks.mixer.kv_down", ATTENTION + "kv_a_proj_with_mqa.weight", "+r d -> d r"),
    Weight("blocks.mixer.rotary_key", ATTENTION + "kv_a_proj_with_mqa.weight", "+h d -> d h"),
    Weight("blocks.mixer.kv_norm.scale", ATTENTION + "kv_a_layernorm.weight"),
    Weight("blocks.mixer.key_up", ATTENTION + "kv_b_proj.weight", "(n +h) r -> r n h"),
    Weight("blocks.mixer.value_up", ATTENTION + "kv_b_proj.weight", "(n +h) r -> r n h"),
    Weight("blocks.mixer.output", ATTENTION + "o_proj.weight", "d (n h) -> n h d"),
    *EXPERTS,
)
V2 = Family(
    name="deepseek_v2",
    model_types=("deepseek_v2",),
    architecture="DeepseekV2ForCausalLM",
    read_config=read_config_v2,
    weights=WEIGHTS,
    buffers=llama_like.BUFFERS,
    aliases={"num_experts": "n_routed_experts"},
)
V3 = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3",),
    architecture="DeepseekV3ForCausalLM",
    read_config=read_config_v3,
    weights=WEIGHTS,
    buffers=(*llama_like.BUFFERS, "model.layers.{num_layers}.*"),
    aliases={"num_local_experts": "n_routed_experts"},
)
KIMI_K2 = dataclasses.replace(V3, name="kimi_k2", model_types=("kimi_k2",), buffers=llama_like.BUFFERS)
