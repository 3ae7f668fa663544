"""Command R and Aya (Cohere 1): parallel layers, LayerNorm without bias, scaled logits, in some sizes norms of queries.

Cohere For AI 2024, "c4ai-command-r-v01" and "c4ai-command-r-plus" (model cards); Dang et al. 2024, "Aya Expanse".
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.norms import LayerNorm
from model.residual import Multipliers, Parallel


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.ignore("model_max_length")  # for how long texts the publishers say that the model is good
    bias = config_json.get("attention_bias", False)
    norm = LayerNorm(epsilon=config_json.get("layer_norm_eps", 1e-5), bias=False)
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json, 8192),
        position=rotary(config_json, theta=500_000.0, interleaved=True),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=norm, over="each_head") if config_json.get("use_qk_norm", False) else None,
        ),
        ffn=llama_like.gated_ffn(config_json),
        norm=norm,
        residual=Parallel(),
        multipliers=Multipliers(logits=float(config_json.get("logit_scale", 0.0625))),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(attention="attention_dropout"),
    )


FAMILY = Family(
    name="cohere",
    model_types=("cohere",),
    architecture="CohereForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
        *llama_like.ATTENTION,
        Weight("blocks.mixer.query_norm.scale", LAYER + "self_attn.q_norm.weight"),
        Weight("blocks.mixer.key_norm.scale", LAYER + "self_attn.k_norm.weight"),
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
