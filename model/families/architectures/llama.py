"""LLaMA 1, 2, 3, 3.1, 3.2 and the many models with the same architecture.

Touvron et al. 2023, "LLaMA" and "Llama 2"; Llama Team 2024, "The Llama 3 Herd of Models".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    bias = config_json.get("attention_bias", False)
    return ModelConfig(
        **llama_like.base(config_json),
        position=rotary(config_json),
        mixer=GroupedQuery(**llama_like.heads(config_json), qkv_bias=bias, output_bias=bias),
        ffn=llama_like.gated_ffn(config_json, bias=config_json.get("mlp_bias", False)),
    )


FAMILY = Family(
    name="llama",
    model_types=("llama",),
    architecture="LlamaForCausalLM",
    read_config=read_config,
    write_config=llama_like.write_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
