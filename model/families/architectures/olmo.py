"""OLMo 1: LLaMA with norms that have no weights; some sizes limit the entries of queries, keys and values.

Groeneveld et al. 2024, "OLMo: Accelerating the Science of Language Models", section 2.1.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import context_length, rotary
from model.norms import LayerNorm


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    bias = config_json.get("attention_bias", False)
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json, 2048),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            qkv_clip=config_json.get("clip_qkv", None),
        ),
        ffn=llama_like.gated_ffn(config_json),
        norm=LayerNorm(epsilon=1e-5, scale=False, bias=False),
        unembedding=llama_like.unembedding(config_json),
        dropout=config_json.dropout(attention="attention_dropout"),
    )


FAMILY = Family(
    name="olmo",
    model_types=("olmo",),
    architecture="OlmoForCausalLM",
    read_config=read_config,
    weights=(*llama_like.EMBEDDING, *llama_like.ATTENTION, *llama_like.FEED_FORWARD),
    buffers=llama_like.BUFFERS,
)
