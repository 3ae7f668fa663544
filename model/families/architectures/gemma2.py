"""Gemma 2: Gemma with norms on both sides of a sublayer, windows in every other layer, and capped scores and logits.

Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.residual import Multipliers, Sandwich


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("use_bidirectional_attention", False)
    config_json.ignore("hidden_act")  # the other key counts
    base, bias = llama_like.base(config_json, tied=True), config_json.get("attention_bias", False)
    heads = llama_like.heads(config_json, num_kv_heads=4, head_dim=256)
    window_size, softcap = (
        config_json.get("sliding_window", 4096),
        config_json.get_or_null("attn_logit_softcapping", 50.0),
    )
    scale = config_json.get("query_pre_attn_scalar", 256) ** -0.5

    def layer(kind: str) -> dict[str, Any]:
        window = llama_like.window_pattern(window_size if kind == "sliding_attention" else None)
        shared = {"qkv_bias": bias, "output_bias": bias, "scale": scale, "logit_softcap": softcap}
        return {"mixer": GroupedQuery(**heads, **shared, pattern=window)}

    return ModelConfig(
        **base | {"norm": RMSNorm(epsilon=base["norm"].epsilon, scale="zero")},
        **llama_like.by_layer(llama_like.layer_types(config_json, lambda i: i % 2 == 0), layer),
        residual=Sandwich(),
        multipliers=Multipliers(embedding=base["width"] ** 0.5),
        position=rotary(config_json),
        ffn=Gated(
            width=config_json.get("intermediate_size"),
            activation=config_json.activation("hidden_activation", "gelu_pytorch_tanh"),
        ),
        final_logit_softcap=config_json.get_or_null("final_logit_softcapping", 30.0),
    )


FAMILY = Family(
    name="gemma2",
    model_types=("gemma2",),
    architecture="Gemma2ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.SANDWICH_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
