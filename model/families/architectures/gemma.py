"""Gemma: LLaMA with wide heads, GeGLU, scaled embeddings, and norms whose weights are added to 1.

Gemma Team 2024, "Gemma: Open Models Based on Gemini Research and Technology".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.residual import Multipliers


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("use_bidirectional_attention", False)
    # Both keys mean the tanh approximation, also where the older key says "gelu".
    config_json.require("hidden_act", "gelu_pytorch_tanh", "gelu")
    config_json.require("hidden_activation", "gelu_pytorch_tanh")
    base, bias = llama_like.base(config_json, tied=True), config_json.get("attention_bias", False)
    return ModelConfig(
        **base | {"norm": RMSNorm(epsilon=base["norm"].epsilon, scale="zero")},
        multipliers=Multipliers(embedding=base["width"] ** 0.5),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=16, head_dim=256), qkv_bias=bias, output_bias=bias
        ),
        ffn=Gated(width=config_json.get("intermediate_size"), activation="gelu_tanh"),
    )


FAMILY = Family(
    name="gemma",
    model_types=("gemma",),
    architecture="GemmaForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
