"""BLOOM: ALiBi, a norm on embeddings, queries, keys and values fused head by head.

BigScience Workshop 2022, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model", section 3.2.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.alibi import ALiBi

LAYER = "transformer.h.{layer}."
ATTENTION = LAYER + "self_attention."

# Keys of config.json about how BigScience's training code ran the model.
IGNORED_KEYS = (
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "offset_alibi",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
    "unk_token_id",
)


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model of a config.json; its context is `seq_length`, or 2048 tokens: ALiBi itself has no limit."""
    config_json.require("apply_residual_connection_post_layernorm", False)
    config_json.ignore(*IGNORED_KEYS)
    width = config_json.get("n_embed", config_json.get("hidden_size", 64))
    config_json.require("n_inner", 4 * width)
    norm = LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5))
    heads = config_json.get("n_head", 8)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 250880),
        context_length=config_json.get("seq_length", 2048),
        num_layers=config_json.get("n_layer", 2),
        width=width,
        position=ALiBi(),
        mixer=GroupedQuery(num_heads=heads, qkv_bias=True, output_bias=True),
        ffn=MLP(width=4 * width, activation="gelu_tanh", bias=True),
        norm=norm,
        embedding_norm=norm,
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(attention="attention_dropout", residual="hidden_dropout"),
    )


WEIGHTS = (
    Weight("embedding.table", "transformer.word_embeddings.weight"),
    Weight("embedding.norm.scale", "transformer.word_embeddings_layernorm.weight"),
    Weight("embedding.norm.bias", "transformer.word_embeddings_layernorm.bias"),
    Weight("final_norm.scale", "transformer.ln_f.weight"),
    Weight("final_norm.bias", "transformer.ln_f.bias"),
    Weight("embedding.output", "lm_head.weight", "v d -> d v"),
    Weight("embedding.table", "lm_head.weight", copy=True),
    Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
    Weight("blocks.residual.mixer_norm.bias", LAYER + "input_layernorm.bias"),
    Weight("blocks.residual.ffn_norm.scale", LAYER + "post_attention_layernorm.weight"),
    Weight("blocks.residual.ffn_norm.bias", LAYER + "post_attention_layernorm.bias"),
    Weight("blocks.mixer.query", ATTENTION + "query_key_value.weight", "(n +h) d -> d n h"),
    Weight("blocks.mixer.key", ATTENTION + "query_key_value.weight", "(k +h) d -> d k h"),
    Weight("blocks.mixer.value", ATTENTION + "query_key_value.weight", "(k +h) d -> d k h"),
    Weight("blocks.mixer.query_bias", ATTENTION + "query_key_value.bias", "(n +h) -> n h"),
    Weight("blocks.mixer.key_bias", ATTENTION + "query_key_value.bias", "(k +h) -> k h"),
    Weight("blocks.mixer.value_bias", ATTENTION + "query_key_value.bias", "(k +h) -> k h"),
    Weight("blocks.mixer.output", ATTENTION + "dense.weight", "d (n h) -> n h d"),
    Weight("blocks.mixer.output_bias", ATTENTION + "dense.bias"),
    Weight("blocks.ffn.up", LAYER + "mlp.dense_h_to_4h.weight", "f d -> d f"),
    Weight("blocks.ffn.up_bias", LAYER + "mlp.dense_h_to_4h.bias"),
    Weight("blocks.ffn.down", LAYER + "mlp.dense_4h_to_h.weight", "d f -> f d"),
    Weight("blocks.ffn.down_bias", LAYER + "mlp.dense_4h_to_h.bias"),
)

FAMILY = Family(
    name="bloom",
    model_types=("bloom",),
    architecture="BloomForCausalLM",
    read_config=read_config,
    weights=WEIGHTS,
    prefix="transformer.",
    aliases={"num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
)
