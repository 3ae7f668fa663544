"""OPT: learned positions that start at row 2, ReLU, biases; norms before sublayers, or after them in one size.

Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models", section 2.1. The 350M model is refused: its
token embeddings are narrower than its layers, and no option here does that.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.dropout import Dropout
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned
from model.residual import PostNorm, PreNorm

MODEL = "model.decoder."
LAYER = MODEL + "layers.{layer}."


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    dimensions = llama_like.dimensions(config_json)
    config_json.require("word_embed_proj_dim", dimensions["width"])
    config_json.require("_remove_final_layer_norm", False)
    config_json.require("activation_dropout", 0.0)
    config_json.require("layerdrop", 0.0)
    config_json.ignore("init_std")
    bias, affine = config_json.get("enable_bias", True), config_json.get("layer_norm_elementwise_affine", True)
    return ModelConfig(
        **dimensions,
        context_length=config_json.get("max_position_embeddings", 2048),
        position=Learned(offset=2),
        mixer=GroupedQuery(num_heads=config_json.get("num_attention_heads"), qkv_bias=bias, output_bias=bias),
        ffn=MLP(
            width=config_json.get("ffn_dim"),
            activation=config_json.activation("activation_function", "relu"),
            bias=bias,
        ),
        norm=LayerNorm(scale=affine, bias=affine),
        residual=PreNorm() if config_json.get("do_layer_norm_before", True) else PostNorm(),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=Dropout(attention=config_json.get("attention_dropout", 0.0), residual=config_json.get("dropout", 0.1)),
    )


FAMILY = Family(
    name="opt",
    model_types=("opt",),
    architecture="OPTForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", MODEL + "embed_tokens.weight"),
        Weight("position.table", MODEL + "embed_positions.weight"),
        Weight("final_norm.scale", MODEL + "final_layer_norm.weight"),
        Weight("final_norm.bias", MODEL + "final_layer_norm.bias"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.table", "lm_head.weight", copy=True),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "self_attn_layer_norm.weight"),
        Weight("blocks.residual.mixer_norm.bias", LAYER + "self_attn_layer_norm.bias"),
        Weight("blocks.residual.ffn_norm.scale", LAYER + "final_layer_norm.weight"),
        Weight("blocks.residual.ffn_norm.bias", LAYER + "final_layer_norm.bias"),
        Weight("blocks.mixer.query", LAYER + "self_attn.q_proj.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "self_attn.k_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "self_attn.v_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "self_attn.out_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.query_bias", LAYER + "self_attn.q_proj.bias", "(n h) -> n h"),
        Weight("blocks.mixer.key_bias", LAYER + "self_attn.k_proj.bias", "(k h) -> k h"),
        Weight("blocks.mixer.value_bias", LAYER + "self_attn.v_proj.bias", "(k h) -> k h"),
        Weight("blocks.mixer.output_bias", LAYER + "self_attn.out_proj.bias"),
        Weight("blocks.ffn.up", LAYER + "fc1.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "fc1.bias"),
        Weight("blocks.ffn.down", LAYER + "fc2.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "fc2.bias"),
    ),
    prefix="model.",
)
