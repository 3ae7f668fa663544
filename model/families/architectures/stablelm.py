"""StableLM 3B and StableLM 2: rotary positions on a quarter of each head, LayerNorm, in some sizes parallel sublayers.

Tow et al. 2023, "StableLM 3B 4E1T"; Bellagente et al. 2024, "Stable LM 2 1.6B Technical Report", section 2.2. The files
of `stablelm_epoch`, as first uploaded, have the same tensors and other keys.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.norms import LayerNorm
from model.residual import Parallel, PreNorm


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    epsilon = config_json.get("layer_norm_eps", 1e-5)
    config_json.require("head_dim", config_json.get("hidden_size") // config_json.get("num_attention_heads"))
    norms = QKNorm(norm=LayerNorm(epsilon=epsilon, bias=False), over="each_head")
    return ModelConfig(
        **_base(config_json, epsilon),
        position=rotary(config_json, fraction=0.25),
        mixer=GroupedQuery(
            **_heads(config_json, 32), qk_norm=norms if config_json.get("qk_layernorm", False) else None
        ),
        ffn=llama_like.gated_ffn(config_json),
        residual=Parallel() if config_json.get("use_parallel_residual", False) else PreNorm(),
        # Their code drops outputs of feed-forward layers only.
        dropout=config_json.dropout(attention="attention_dropout", residual="hidden_dropout"),
    )


def read_epoch_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of `stablelm_epoch` describes."""
    config_json.require("hidden_act", "silu")
    config_json.ignore("num_heads", "rotary_scaling_factor")  # their code reads neither
    return ModelConfig(
        **_base(config_json, config_json.get("norm_eps", 1e-5)),
        position=rotary(config_json, fraction=config_json.get("rope_pct", 0.25)),
        mixer=GroupedQuery(**_heads(config_json, None)),
        ffn=llama_like.gated_ffn(config_json),
        dropout=config_json.dropout(attention="attention_dropout"),
    )


def _base(config_json: ConfigJson, epsilon: float) -> dict[str, Any]:
    """Returns the fields of a ModelConfig that both kinds of files have under the same keys."""
    return {
        **llama_like.dimensions(config_json),
        "context_length": context_length(config_json, 4096),
        "norm": LayerNorm(epsilon=epsilon),
        "unembedding": llama_like.unembedding(config_json),
    }


def _heads(config_json: ConfigJson, num_kv_heads: int | None) -> dict[str, Any]:
    """Returns fields of a GroupedQuery; `num_kv_heads` is the default where config.json does not say."""
    return {
        "num_heads": config_json.get("num_attention_heads"),
        "num_kv_heads": config_json.get("num_key_value_heads", num_kv_heads),
        "qkv_bias": config_json.get("use_qkv_bias", False),
    }


WEIGHTS = (
    *llama_like.EMBEDDING,
    Weight("final_norm.bias", "model.norm.bias"),
    *llama_like.PRE_NORMS,
    Weight("blocks.residual.mixer_norm.bias", LAYER + "input_layernorm.bias"),
    Weight("blocks.residual.ffn_norm.bias", LAYER + "post_attention_layernorm.bias"),
    *llama_like.ATTENTION,
    # {expert} is the number of the head.
    Weight("blocks.mixer.query_norm.scale", LAYER + "self_attn.q_layernorm.norms.{expert}.weight"),
    Weight("blocks.mixer.key_norm.scale", LAYER + "self_attn.k_layernorm.norms.{expert}.weight"),
    *llama_like.FEED_FORWARD,
)
FAMILY = Family(
    name="stablelm",
    model_types=("stablelm",),
    architecture="StableLmForCausalLM",
    read_config=read_config,
    weights=WEIGHTS,
    buffers=llama_like.BUFFERS,
)
EPOCH = Family(
    name="stablelm_epoch",
    model_types=("stablelm_epoch",),
    architecture="StableLMEpochForCausalLM",
    read_config=read_epoch_config,
    weights=WEIGHTS,
    buffers=llama_like.BUFFERS,
    in_transformers=False,
)
