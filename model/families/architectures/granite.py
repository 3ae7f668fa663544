"""Granite 3 and PowerLM: LLaMA with constant factors on embeddings, sublayers, attention scores and logits.

Granite Team, IBM 2024, "Granite 3.0 Language Models", section 2.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.residual import Multipliers


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    return with_multipliers(config_json, llama_like.gated_ffn(config_json, bias=config_json.get("mlp_bias", False)))


def with_multipliers(config_json: ConfigJson, ffn: Gated | Experts) -> ModelConfig:
    """Returns the model that a config.json describes, with this feed-forward layer."""
    bias = config_json.get("attention_bias", False)
    return ModelConfig(
        **llama_like.base(config_json),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            scale=float(config_json.get("attention_multiplier", 1.0)),
        ),
        ffn=ffn,
        multipliers=Multipliers(
            embedding=float(config_json.get("embedding_multiplier", 1.0)),
            residual=float(config_json.get("residual_multiplier", 1.0)),
            logits=1 / config_json.get("logits_scaling", 1.0),
        ),
    )


FAMILY = Family(
    name="granite",
    model_types=("granite",),
    architecture="GraniteForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
