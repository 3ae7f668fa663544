"""OPT: learned positions that start at row 2, ReLU, biases; norms before sublayers, or after them in one size.

Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models", section 2.1. The 350M model is refused: its
token embeddings are narrower than its layers, and no option here does that.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.dropout import Dropout
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned
from model.residual import PostNorm, PreNorm

MODEL = "model.decoder."
LAYER = MODEL + "layers.{layer}."


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    size = llama_like.size(published)
    published.only("word_embed_proj_dim", size["width"])
    published.only("_remove_final_layer_norm", False)
    published.only("activation_dropout", 0.0)
    published.only("layerdrop", 0.0)
    published.unused("init_std")
    bias, weighted = published.get("enable_bias", True), published.get("layer_norm_elementwise_affine", True)
    return ModelConfig(
        **size,
        context_length=published.get("max_position_embeddings", 2048),
        position=Learned(offset=2),
        mixer=GroupedQuery(num_heads=published.get("num_attention_heads"), qkv_bias=bias, output_bias=bias),
        ffn=MLP(
            width=published.get("ffn_dim"), activation=published.activation("activation_function", "relu"), bias=bias
        ),
        norm=LayerNorm(scale=weighted, bias=weighted),
        residual=PreNorm() if published.get("do_layer_norm_before", True) else PostNorm(),
        unembedding=llama_like.unembedding(published, tied=True),
        dropout=Dropout(attention=published.get("attention_dropout", 0.0), residual=published.get("dropout", 0.1)),
    )


FAMILY = Family(
    name="opt",
    model_types=("opt",),
    architecture="OPTForCausalLM",
    config=config,
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
