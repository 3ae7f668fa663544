"""Seed-OSS: LLaMA with biases on queries, keys and values.

ByteDance Seed Team 2025, "Seed-OSS Open-Source Models" (released with the weights of the 36B models).
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes; where it does not say, dropout is 0.1."""
    dropout = config_json.dropout(0.1, attention="attention_dropout", residual="residual_dropout")
    return ModelConfig(
        **(llama_like.base(config_json, length=524_288) | {"dropout": dropout}),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=8, head_dim=128),
            qkv_bias=config_json.get("attention_bias", True),
            output_bias=config_json.get("attention_out_bias", False),
        ),
        ffn=llama_like.gated_ffn(config_json, bias=config_json.get("mlp_bias", False)),
    )


FAMILY = Family(
    name="seed_oss",
    model_types=("seed_oss",),
    architecture="SeedOssForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
