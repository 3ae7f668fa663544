"""ModernBERT: an encoder with rotary positions, gated feed-forward layers, norms before sublayers and local layers.

Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and
Long Context Finetuning and Inference". Every third layer is global; the others see `local_attention` / 2 tokens on each
side. The first layer's attention reads the embeddings, which have a norm, without another one.
"""

from typing import Any

from model.attention.directions import Bidirectional
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.mlp import Gated
from model.norms import LayerNorm
from model.parameters.maker import Normal
from model.residual import PreNorm
from model.vocabulary.embedding import Tied, Untied
from model.vocabulary.prediction_head import PredictionHead

LAYER = "model.layers.{layer}."


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("sparse_prediction", False)
    config_json.require("mlp_dropout", 0.0)
    config_json.ignore(
        "classifier_pooling", "classifier_dropout", "deterministic_flash_attn", "initializer_cutoff_factor",
        "sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad", "cls_token_id",
    )  # fmt: skip
    norm = LayerNorm(epsilon=config_json.get("norm_eps", 1e-5), bias=config_json.get("norm_bias", False))
    period, window = config_json.get("global_attn_every_n_layers", 3), config_json.get("local_attention", 128) // 2
    thetas = {
        "full_attention": config_json.get("global_rope_theta", 160_000.0),
        "sliding_attention": config_json.get("local_rope_theta", 10_000.0),
    }
    heads = {"num_heads": config_json.get("num_attention_heads", 12)}
    config_json.require("head_dim", config_json.get("hidden_size", 768) // heads["num_heads"])
    bias = config_json.get("attention_bias", False)

    def layer(kind: str) -> dict[str, Any]:
        pattern = llama_like.window_pattern(window + 1 if kind == "sliding_attention" else None)
        position = rotary(config_json, theta=thetas[kind], layer_type=kind)
        return {"mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=pattern), "position": position}

    tied, logit_bias = config_json.get("tie_word_embeddings", True), config_json.get("decoder_bias", True)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 50368),
        context_length=config_json.get("max_position_embeddings", 8192),
        num_layers=config_json.get("num_hidden_layers", 22),
        width=config_json.get("hidden_size", 768),
        visibility=Bidirectional(),
        embedding_norm=norm,
        **llama_like.by_layer(llama_like.layer_types(config_json, lambda i: i % period != 0), layer),
        ffn=Gated(
            width=config_json.get("intermediate_size", 1152),
            activation=config_json.activation("hidden_activation", "gelu"),
            bias=config_json.get("mlp_bias", False),
        ),
        norm=norm,
        residual=PreNorm(first_norm=False),
        prediction_head=PredictionHead(
            activation=config_json.activation("classifier_activation", "gelu"),
            bias=config_json.get("classifier_bias", False),
        ),
        unembedding=Tied(bias=logit_bias) if tied else Untied(bias=logit_bias),
        dropout=config_json.dropout(embedding="embedding_dropout", attention="attention_dropout"),
        initialization=Normal(),
    )


FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    architecture="ModernBertForMaskedLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "model.embeddings.tok_embeddings.weight"),
        Weight("embedding.norm.scale", "model.embeddings.norm.weight"),
        Weight("embedding.norm.bias", "model.embeddings.norm.bias"),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "attn_norm.weight"),
        Weight("blocks.residual.mixer_norm.bias", LAYER + "attn_norm.bias"),
        Weight("blocks.mixer.query", LAYER + "attn.Wqkv.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attn.Wqkv.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.value", LAYER + "attn.Wqkv.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.query_bias", LAYER + "attn.Wqkv.bias", "+(n h) -> n h"),
        Weight("blocks.mixer.key_bias", LAYER + "attn.Wqkv.bias", "+(n h) -> n h"),
        Weight("blocks.mixer.value_bias", LAYER + "attn.Wqkv.bias", "+(n h) -> n h"),
        Weight("blocks.mixer.output", LAYER + "attn.Wo.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", LAYER + "attn.Wo.bias"),
        Weight("blocks.residual.ffn_norm.scale", LAYER + "mlp_norm.weight"),
        Weight("blocks.residual.ffn_norm.bias", LAYER + "mlp_norm.bias"),
        Weight("blocks.ffn.gate", LAYER + "mlp.Wi.weight", "+f d -> d f"),
        Weight("blocks.ffn.up", LAYER + "mlp.Wi.weight", "+f d -> d f"),
        Weight("blocks.ffn.gate_bias", LAYER + "mlp.Wi.bias", "+f -> f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.Wi.bias", "+f -> f"),
        Weight("blocks.ffn.down", LAYER + "mlp.Wo.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.Wo.bias"),
        Weight("final_norm.scale", "model.final_norm.weight"),
        Weight("final_norm.bias", "model.final_norm.bias"),
        Weight("head.dense", "head.dense.weight", "e d -> d e"),
        Weight("head.dense_bias", "head.dense.bias"),
        Weight("head.norm.scale", "head.norm.weight"),
        Weight("head.norm.bias", "head.norm.bias"),
        Weight("embedding.output", "decoder.weight", "v d -> d v"),
        Weight("embedding.table", "decoder.weight", copy=True),
        Weight("embedding.output_bias", "decoder.bias"),
    ),
)
