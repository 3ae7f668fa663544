"""GPT-OSS: attention sinks, windows in every other layer, experts with clamped SwiGLU and biases everywhere.

OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card". Its published files hold the experts in MXFP4
(train/conversion/quantized.py).
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
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.feedforward.routing import SoftmaxRouter


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("hidden_act", "silu")
    config_json.require("swiglu_alpha", 1.702)
    config_json.ignore("experts_per_token", "initial_context_length", "router_aux_loss_coef")
    heads, bias = llama_like.heads(config_json, num_kv_heads=8, head_dim=64), config_json.get("attention_bias", True)
    window_size = config_json.get("sliding_window", 128)
    if config_json.get("rope_scaling", None) is None:
        config_json.sub_object("rope_parameters", required=True)  # without both keys, the scaling is unknown

    def layer(kind: str) -> dict[str, Any]:
        window = llama_like.window_pattern(window_size if kind == "sliding_attention" else None)
        return {"mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, sinks=True, pattern=window)}

    return ModelConfig(
        **llama_like.base(config_json, epsilon=1e-5),
        **llama_like.by_layer(llama_like.layer_types(config_json, lambda i: i % 2 == 0), layer),
        position=rotary(config_json, theta=150_000.0),
        ffn=Experts(
            num_experts=config_json.get("num_local_experts", 128),
            top_k=config_json.get("num_experts_per_tok", 4),
            expert=Gated(
                width=config_json.get("intermediate_size"),
                activation="quick_gelu",
                bias=True,
                clamp=config_json.get("swiglu_limit", 7.0),
                up_offset=1.0,
            ),
            router=SoftmaxRouter(bias=True),
        ),
    )


FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    architecture="GptOssForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        Weight("blocks.mixer.sink", LAYER + "self_attn.sinks"),
        Weight("blocks.ffn.router", LAYER + "mlp.router.weight", "e d -> d e"),
        Weight("blocks.ffn.router_bias", LAYER + "mlp.router.bias"),
        Weight("blocks.ffn.gate", LAYER + "mlp.experts.gate_up_proj", "e d (f +1) -> e d f"),
        Weight("blocks.ffn.up", LAYER + "mlp.experts.gate_up_proj", "e d (f +1) -> e d f"),
        Weight("blocks.ffn.gate_bias", LAYER + "mlp.experts.gate_up_proj_bias", "e (f +1) -> e f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.experts.gate_up_proj_bias", "e (f +1) -> e f"),
        Weight("blocks.ffn.down", LAYER + "mlp.experts.down_proj"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.experts.down_proj_bias"),
    ),
    buffers=llama_like.BUFFERS,
    aliases={"num_experts": "num_local_experts"},
)
