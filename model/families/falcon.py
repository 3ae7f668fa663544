"""Falcon with rotary positions (7B, 40B, 180B): attention and feed-forward side by side, queries beside their key.

Almazrouei et al. 2023, "The Falcon Series of Open Language Models". A group of queries, their key and their value lie
together. The small models with ALiBi (rw-1b, rw-7b) are not taken.
"""

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward import MLP
from model.norms import LayerNorm
from model.residual import Parallel

LAYER = "transformer.h.{layer}."


def config(published: Published) -> ModelConfig:
    """The model of a config.json."""
    published.only("alibi", False)
    published.only("parallel_attn", True)
    published.only("apply_residual_connection_post_layernorm", False)
    size, bias = llama_like.size(published), published.get("bias", False)
    heads, newer = published.get("num_attention_heads"), published.get("new_decoder_architecture", False)
    groups = published.get("num_kv_heads", heads)  # counts in the newer kind alone
    kv_heads = groups if newer else 1 if published.get("multi_query", True) else heads
    norms = published.get("num_ln_in_parallel_attn", 2 if newer else 1) if newer else 1
    published.unused("num_ln_in_parallel_attn", "multi_query")
    return ModelConfig(
        **size,
        context_length=context_length(published, length=2048),
        position=rotary(published),
        attention=GroupedQuery(num_heads=heads, num_kv_heads=kv_heads, qkv_bias=bias, output_bias=bias),
        ffn=MLP(
            width=published.get("ffn_hidden_size", 4 * size["width"]),
            activation=published.activation("activation", "gelu"),
            bias=bias,
        ),
        norm=LayerNorm(epsilon=published.get("layer_norm_epsilon", 1e-5)),
        residual=Parallel(shared_norm=norms == 1),
        unembedding=llama_like.unembedding(published, tied=True),
        dropout=published.dropout(attention="attention_dropout", residual="hidden_dropout"),
    )


QKV, TWO_NORMS = LAYER + "self_attention.query_key_value.", "blocks.ffn_norm.scale"

FAMILY = Family(
    name="falcon",
    model_types=("falcon",),
    architecture="FalconForCausalLM",
    config=config,
    weights=(
        Weight("embedding.table", "transformer.word_embeddings.weight"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.table", "lm_head.weight", copy=True),
        Weight("final_norm.scale", "transformer.ln_f.weight"),
        Weight("final_norm.bias", "transformer.ln_f.bias"),
        Weight("blocks.attention_norm.scale", LAYER + "input_layernorm.weight", where="-" + TWO_NORMS),
        Weight("blocks.attention_norm.bias", LAYER + "input_layernorm.bias", where="-" + TWO_NORMS),
        Weight("blocks.attention_norm.scale", LAYER + "ln_attn.weight", where=TWO_NORMS),
        Weight("blocks.attention_norm.bias", LAYER + "ln_attn.bias", where=TWO_NORMS),
        Weight("blocks.ffn_norm.scale", LAYER + "ln_mlp.weight"),
        Weight("blocks.ffn_norm.bias", LAYER + "ln_mlp.bias"),
        Weight("blocks.attention.query", QKV + "weight", "(k +g h) d -> d (k g) h"),
        Weight("blocks.attention.key", QKV + "weight", "(k +1 h) d -> d k h"),
        Weight("blocks.attention.value", QKV + "weight", "(k +1 h) d -> d k h"),
        Weight("blocks.attention.query_bias", QKV + "bias", "(k +g h) -> (k g) h"),
        Weight("blocks.attention.key_bias", QKV + "bias", "(k +1 h) -> k h"),
        Weight("blocks.attention.value_bias", QKV + "bias", "(k +1 h) -> k h"),
        Weight("blocks.attention.output", LAYER + "self_attention.dense.weight", "d (n h) -> n h d"),
        Weight("blocks.attention.output_bias", LAYER + "self_attention.dense.bias"),
        Weight("blocks.ffn.up", LAYER + "mlp.dense_h_to_4h.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.dense_h_to_4h.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.dense_4h_to_h.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.dense_4h_to_h.bias"),
    ),
    buffers=("*.rotary_emb.inv_freq",),
)
