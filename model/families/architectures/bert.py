"""BERT: an encoder with learned positions, types of tokens, norms after sublayers and a head before the unembedding.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding". Files that have
the layer for pooled texts give a model with a pooler. The layer for next sentences is kept beside a run and written
back; the model does not have it.
"""

from typing import Any

from model.attention.directions import Bidirectional
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.parameters.maker import Normal
from model.positions.absolute import Learned
from model.residual import PostNorm
from model.vocabulary.embedding import Tied
from model.vocabulary.pooling import Pooler
from model.vocabulary.prediction_head import PredictionHead

# Early files have these names of the weights of norms.
OLD_NORMS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


def fields(config_json: ConfigJson) -> dict[str, Any]:
    """Returns the fields of a ModelConfig that BERT and RoBERTa have in common, all but positions and the head."""
    for key in ("is_decoder", "add_cross_attention"):
        config_json.require(key, False)
    config_json.require("position_embedding_type", "absolute")
    config_json.require("tie_word_embeddings", True)
    config_json.ignore("classifier_dropout", "embedding_size")  # the latter lets heads not divide the width
    norm = LayerNorm(epsilon=config_json.get("layer_norm_eps", 1e-12))
    dropout = config_json.dropout(
        0.1, embedding="hidden_dropout_prob", attention="attention_probs_dropout_prob", residual="hidden_dropout_prob"
    )
    return {
        "num_layers": config_json.get("num_hidden_layers", 12),
        "width": config_json.get("hidden_size", 768),
        "visibility": Bidirectional(),
        "token_types": config_json.get("type_vocab_size", 2),
        "input_norm": norm,
        "mixer": GroupedQuery(num_heads=config_json.get("num_attention_heads", 12), qkv_bias=True, output_bias=True),
        "ffn": MLP(
            width=config_json.get("intermediate_size", 3072),
            activation=config_json.activation("hidden_act", "gelu"),
            bias=True,
        ),
        "norm": norm,
        "residual": PostNorm(),
        "unembedding": Tied(bias=True),
        "dropout": dropout,
        "initialization": Normal(scale_residual=False),
    }


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    return ModelConfig(
        **fields(config_json),
        vocab_size=config_json.get("vocab_size", 30522),
        context_length=config_json.get("max_position_embeddings", 512),
        position=Learned(),
        prediction_head=PredictionHead(activation=config_json.activation("hidden_act", "gelu")),
    )


def stack(model: str) -> tuple[Weight, ...]:
    """Returns the rows of the embedding and the layers; `model` is the prefix of their tensors."""
    embeddings, layer = f"{model}embeddings.", f"{model}encoder.layer.{{layer}}."
    return (
        Weight("embedding.table", embeddings + "word_embeddings.weight"),
        Weight("position.table", embeddings + "position_embeddings.weight"),
        Weight("token_types.table", embeddings + "token_type_embeddings.weight"),
        Weight("input_norm.scale", embeddings + "LayerNorm.weight"),
        Weight("input_norm.bias", embeddings + "LayerNorm.bias"),
        Weight("blocks.mixer.query", layer + "attention.self.query.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.key", layer + "attention.self.key.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.value", layer + "attention.self.value.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.query_bias", layer + "attention.self.query.bias", "(n h) -> n h"),
        Weight("blocks.mixer.key_bias", layer + "attention.self.key.bias", "(n h) -> n h"),
        Weight("blocks.mixer.value_bias", layer + "attention.self.value.bias", "(n h) -> n h"),
        Weight("blocks.mixer.output", layer + "attention.output.dense.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", layer + "attention.output.dense.bias"),
        Weight("blocks.residual.mixer_norm.scale", layer + "attention.output.LayerNorm.weight"),
        Weight("blocks.residual.mixer_norm.bias", layer + "attention.output.LayerNorm.bias"),
        Weight("blocks.ffn.up", layer + "intermediate.dense.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", layer + "intermediate.dense.bias"),
        Weight("blocks.ffn.down", layer + "output.dense.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", layer + "output.dense.bias"),
        Weight("blocks.residual.ffn_norm.scale", layer + "output.LayerNorm.weight"),
        Weight("blocks.residual.ffn_norm.bias", layer + "output.LayerNorm.bias"),
    )


def head(dense: str, norm: str, bias: str, decoder: str) -> tuple[Weight, ...]:
    """Returns the rows of the head and the unembedding, from the names of their modules and of the bias."""
    return (
        Weight("head.dense", dense + "weight", "e d -> d e"),
        Weight("head.dense_bias", dense + "bias"),
        Weight("head.norm.scale", norm + "weight"),
        Weight("head.norm.bias", norm + "bias"),
        Weight("embedding.output_bias", bias),
        Weight("embedding.table", decoder + "weight", copy=True),
        Weight("embedding.output_bias", decoder + "bias", copy=True),
    )


def pooler(model: str) -> tuple[Weight, ...]:
    """Returns the rows of the pooler, which some files have; `model` is the prefix of their tensors."""
    return (
        Weight("pooler.dense", model + "pooler.dense.weight", "e d -> d e"),
        Weight("pooler.dense_bias", model + "pooler.dense.bias"),
    )


FAMILY = Family(
    name="bert",
    model_types=("bert",),
    architecture="BertForMaskedLM",
    read_config=read_config,
    weights=(
        *stack("bert."),
        *head(
            "cls.predictions.transform.dense.",
            "cls.predictions.transform.LayerNorm.",
            "cls.predictions.bias",
            "cls.predictions.decoder.",
        ),
        *pooler("bert."),
    ),
    parts_of_files={"bert.pooler.dense.weight": {"pooler": Pooler()}},
    old_names=OLD_NORMS,
    buffers=("*embeddings.position_ids", "cls.seq_relationship.*"),
)
