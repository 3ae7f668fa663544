"""Phi-3, Phi-3.5 and Phi-4: LLaMA with fused projections, a window in some sizes, and LongRoPE for long contexts.

Abdin et al. 2024, "Phi-3 Technical Report"; 2025, "Phi-4-Mini Technical Report".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    for key in ("rope_scaling", "rope_parameters"):
        parameters = config_json.sub_object(key)
        if parameters.get("rope_type", parameters.get("type", None)) == "yarn":
            raise config_json.refusal(key, "early files use this name for LongRoPE; change the type to longrope")
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        config_json.require(key, False)
    config_json.require("full_attn_mod", 1)
    config_json.require("interpolate_factor", 1)
    config_json.ignore("original_max_position_embeddings")
    window = llama_like.window_pattern(config_json.get("sliding_window", None))
    base = llama_like.base(config_json, epsilon=1e-5)
    dropout = config_json.dropout(attention="attention_dropout", residual="resid_pdrop")
    config_json.ignore("embd_pdrop")  # Phi-3's code never applies it
    return ModelConfig(
        **(base | {"dropout": dropout}),
        position=rotary(config_json),
        mixer=GroupedQuery(**llama_like.heads(config_json), pattern=window),
        ffn=llama_like.gated_ffn(config_json),
    )


FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    architecture="Phi3ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        Weight("blocks.mixer.query", LAYER + "self_attn.qkv_proj.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
        *llama_like.FUSED_FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
