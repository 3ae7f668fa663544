"""T5: an encoder and a decoder with shared relative position biases, RMSNorm and no biases.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1.
Version 1.1 (Shazeer 2020, "GLU Variants Improve Transformer") has a gated feed-forward and logits of a matrix of their
own, which the first version scales by D^-1/2 and takes from the token table. `transformers` 5 writes the second
difference as scale_decoder_outputs.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.dropout import Dropout
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP, Gated
from model.norms import RMSNorm
from model.positions.relative import RelativeBias
from model.residual import Multipliers
from model.vocabulary.embedding import Tied, Untied

LENGTH = 512  # the context of training; positions have no bound


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.ignore("classifier_dropout", "initializer_factor", "is_encoder_decoder")
    config_json.ignore("dense_act_fn", "is_gated_act")  # they follow from feed_forward_proj
    width, layers = config_json.get("d_model", 512), config_json.get("num_layers", 6)
    decoder_layers = config_json.get("num_decoder_layers", layers)
    heads = {"num_heads": config_json.get("num_heads", 8), "head_dim": config_json.get("d_kv", 64), "scale": 1.0}
    tied = config_json.get("tie_word_embeddings", True)
    scaled = config_json.get("scale_decoder_outputs", tied)
    length, rate = config_json.get("n_positions", LENGTH), config_json.get("dropout_rate", 0.1)
    ffn = _feed_forward(config_json)

    def position(num_layers: int, bidirectional: bool) -> RelativeBias:
        return RelativeBias(
            buckets=config_json.get("relative_attention_num_buckets", 32),
            max_distance=config_json.get("relative_attention_max_distance", 128),
            bidirectional=bidirectional,
            shared=num_layers > 1,
        )

    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 32128),
        context_length=length,
        num_layers=decoder_layers,
        width=width,
        mixer=GroupedQuery(**heads),
        ffn=ffn,
        position=position(decoder_layers, False),
        norm=RMSNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-6)),
        encoder=Encoder(
            num_layers=layers,
            context_length=length,
            mixer=GroupedQuery(**heads),
            ffn=ffn,
            position=position(layers, True),
            cross=CrossAttention(**heads),
            start_token=config_json.get("decoder_start_token_id", config_json.get("pad_token_id", 0)),
        ),
        multipliers=Multipliers(logits=width**-0.5 if scaled else 1.0),
        unembedding=Tied() if scaled else Untied(),
        dropout=Dropout(embedding=rate, attention=rate, residual=rate),
    )


def _feed_forward(config_json: ConfigJson) -> MLP | Gated:
    """Returns the feed-forward of "relu" or "gated-gelu", whose GELU is the approximation by tanh."""
    width = config_json.get("d_ff", 2048)
    kinds: dict[str, MLP | Gated] = {
        "relu": MLP(width=width, activation="relu"),
        "gelu": MLP(width=width, activation="gelu"),
        "gated-gelu": Gated(width=width, activation="gelu_tanh"),
        "gated-silu": Gated(width=width, activation="silu"),
        "gated-relu": Gated(width=width, activation="relu"),
    }
    return config_json.lookup("feed_forward_proj", kinds, "relu")


def _side(name: str, layer: str, feed_forward: str) -> tuple[Weight, ...]:
    """Returns the rows of the encoder or of the decoder; `name` is the prefix of its parameters."""
    attention, ffn = layer + "layer.0.", layer + feed_forward
    kind = layer.partition(".")[0]
    first = f"{kind}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return (
        Weight(f"{name}position_bias", first),
        Weight(f"{name}final_norm.scale", f"{kind}.final_layer_norm.weight"),
        Weight(f"{name}blocks.mixer.position_bias", attention + "SelfAttention.relative_attention_bias.weight"),
        Weight(f"{name}blocks.residual.mixer_norm.scale", attention + "layer_norm.weight"),
        *_heads(f"{name}blocks.mixer.", attention + "SelfAttention."),
        Weight(f"{name}blocks.residual.ffn_norm.scale", ffn + "layer_norm.weight"),
        Weight(f"{name}blocks.ffn.gate", ffn + "DenseReluDense.wi_0.weight", "f d -> d f"),
        Weight(
            f"{name}blocks.ffn.up", ffn + "DenseReluDense.wi_1.weight", "f d -> d f", condition=f"{name}blocks.ffn.gate"
        ),
        Weight(
            f"{name}blocks.ffn.up", ffn + "DenseReluDense.wi.weight", "f d -> d f", condition=f"-{name}blocks.ffn.gate"
        ),
        Weight(f"{name}blocks.ffn.down", ffn + "DenseReluDense.wo.weight", "d f -> f d"),
    )


def _heads(parameters: str, tensors: str) -> tuple[Weight, ...]:
    return (
        Weight(parameters + "query", tensors + "q.weight", "(n h) d -> d n h"),
        Weight(parameters + "key", tensors + "k.weight", "(n h) d -> d n h"),
        Weight(parameters + "value", tensors + "v.weight", "(n h) d -> d n h"),
        Weight(parameters + "output", tensors + "o.weight", "d (n h) -> n h d"),
    )


CROSS = "decoder.block.{layer}.layer.1."
FAMILY = Family(
    name="t5",
    model_types=("t5",),
    architecture="T5ForConditionalGeneration",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "shared.weight"),
        Weight("embedding.table", "encoder.embed_tokens.weight", copy=True),
        Weight("embedding.table", "decoder.embed_tokens.weight", copy=True),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.table", "lm_head.weight", copy=True),
        *_side("encoder.", "encoder.block.{layer}.", "layer.1."),
        *_side("", "decoder.block.{layer}.", "layer.2."),
        Weight("blocks.residual.cross_norm.scale", CROSS + "layer_norm.weight"),
        *_heads("blocks.cross.", CROSS + "EncDecAttention."),
    ),
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    # Read by no code: early files have a table for the attention to the source.
    buffers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)
