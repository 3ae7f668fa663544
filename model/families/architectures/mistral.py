"""Mistral 7B and models with the same architecture: LLaMA with a sliding window in every layer.

Jiang et al. 2023, "Mistral 7B".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    window = llama_like.window_pattern(config_json.get_or_null("sliding_window", 4096))
    return ModelConfig(
        **llama_like.base(config_json),
        position=rotary(config_json),
        mixer=GroupedQuery(**llama_like.heads(config_json, num_kv_heads=8), pattern=window),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="mistral",
    model_types=("mistral",),
    architecture="MistralForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
