"""Baichuan 1 and 2: LLaMA with fused projections; the 13B models have ALiBi, Baichuan 2 compares directions of tokens.

Yang et al. 2023, "Baichuan 2: Open Large-scale Language Models", section 3. `transformers` has no class for it: the
equations are those of the modelling code published with the weights. That code differs from model to model, under one
`model_type`; config.json tells them apart:

- `max_position_embeddings` is there for the 7B models, which have rotary positions, and missing for the 13B models;
- a vocabulary of 64,000 is that of Baichuan 1; the logits of Baichuan 2 are products with vectors of norm 1.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.weights import Weight
from model.norms import RMSNorm
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Untied

BAICHUAN_1_VOCABULARY = 64_000


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("tie_word_embeddings", False)
    config_json.ignore("_from_model_config", "z_loss_weight")
    heads = config_json.get("num_attention_heads")
    config_json.require("num_key_value_heads", heads)
    return ModelConfig(
        **llama_like.dimensions(config_json),
        **_positions(config_json),
        mixer=GroupedQuery(num_heads=heads),
        ffn=llama_like.gated_ffn(config_json),
        norm=RMSNorm(epsilon=config_json.get("rms_norm_eps", 1e-6)),
        unembedding=Untied(unit_norm=config_json.get("vocab_size") != BAICHUAN_1_VOCABULARY),
    )


def _positions(config_json: ConfigJson) -> dict[str, Any]:
    """Returns the positions and the context length."""
    rotary_length = config_json.get("max_position_embeddings", None)
    length = config_json.get("model_max_length", 4096)
    if rotary_length is None:
        return {"position": ALiBi(), "context_length": length}
    config_json.require("rope_theta", 10_000.0)
    return {"position": Rotary(theta=10_000.0), "context_length": rotary_length}


FAMILY = Family(
    name="baichuan",
    model_types=("baichuan",),
    architecture="BaichuanForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        Weight("blocks.mixer.query", LAYER + "self_attn.W_pack.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "self_attn.W_pack.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "self_attn.W_pack.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
    in_transformers=False,
)
