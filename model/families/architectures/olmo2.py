"""OLMo 2: norms on the outputs of sublayers, and on all queries and all keys of a layer as one vector each.

OLMo et al. 2025, "2 OLMo 2 Furious".
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.residual import Reordered


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(config_json, epsilon=1e-5), config_json.get("attention_bias", False)
    return ModelConfig(
        **base,
        residual=Reordered(),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"], over="projection"),
        ),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="olmo2",
    model_types=("olmo2",),
    architecture="Olmo2ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.OUTPUT_NORMS,
        *llama_like.ATTENTION,
        *llama_like.PROJECTION_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
