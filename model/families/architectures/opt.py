"""OPT: learned positions that start at row 2, ReLU, biases; norms before sublayers, or after them in one size.

Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models", section 2.1. The token table of the 350M model
is narrower than its layers.
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
    table_width = config_json.get("word_embed_proj_dim", dimensions["width"])
    norm_before = config_json.get("do_layer_norm_before", True)
    if norm_before:  # without it no model has a final norm
        config_json.require("_remove_final_layer_norm", False)
    config_json.ignore("_remove_final_layer_norm", "init_std")
    config_json.ignore("activation_dropout", "layerdrop")  # of training
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
        residual=PreNorm() if norm_before else PostNorm(),
        embedding_width=None if table_width == dimensions["width"] else table_width,
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
        Weight("embedding.input_projection", MODEL + "project_in.weight", "d e -> e d"),
        Weight("embedding.output_projection", MODEL + "project_out.weight", "e d -> d e"),
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
