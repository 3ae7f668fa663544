"""Ministral 3 and Devstral 2: Mistral with YaRN, and queries that grow with their position past the original length.

Mistral AI 2025, "Ministral 3" (released with the weights). The factor on queries is that of Llama 4.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.positions.query_scale import LogTemperature


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    parameters = config_json.sub_object("rope_parameters", required=True)  # without it, the scaling is unknown
    parameters.ignore("max_position_embeddings")  # transformers writes a copy here, and does not read it
    growth, temperature = parameters.get("llama_4_scaling_beta", 0.0), None
    if growth:
        length = parameters.get("original_max_position_embeddings")
        temperature = LogTemperature(step_length=length, scale=float(growth), offset=0)
    window = llama_like.window_pattern(config_json.get("sliding_window", None))
    return ModelConfig(
        **llama_like.base(config_json, epsilon=1e-5),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=8, head_dim=128), temperature=temperature, pattern=window
        ),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="ministral3",
    model_types=("ministral3",),
    architecture="Ministral3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
