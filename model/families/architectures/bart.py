"""BART: an encoder and a decoder with norms after sublayers, learned positions from row 2 on, and biases.

Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
Comprehension", section 2.1. Embeddings are normalised, and logits have a bias.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.dropout import Dropout
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned
from model.residual import Multipliers, PostNorm
from model.vocabulary.embedding import Tied


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("tie_word_embeddings", True)
    config_json.ignore("activation_dropout", "decoder_layerdrop", "encoder_layerdrop")  # of training
    config_json.ignore("classifier_dropout", "init_std", "is_encoder_decoder")
    width, length = config_json.get("d_model", 1024), config_json.get("max_position_embeddings", 1024)
    rate = config_json.get("dropout", 0.1)
    activation = config_json.activation("activation_function", "gelu")

    def sublayers(side: str) -> tuple[GroupedQuery, MLP]:
        heads = config_json.get(f"{side}_attention_heads", 16)
        ffn = MLP(width=config_json.get(f"{side}_ffn_dim", 4096), activation=activation, bias=True)
        return GroupedQuery(num_heads=heads, qkv_bias=True, output_bias=True), ffn

    mixer, ffn = sublayers("decoder")
    encoder_mixer, encoder_ffn = sublayers("encoder")
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 50265),
        context_length=length,
        num_layers=config_json.get("decoder_layers", 12),
        width=width,
        mixer=mixer,
        ffn=ffn,
        position=Learned(offset=2),
        norm=LayerNorm(),
        input_norm=LayerNorm(),
        residual=PostNorm(),
        encoder=Encoder(
            num_layers=config_json.get("encoder_layers", 12),
            context_length=length,
            mixer=encoder_mixer,
            ffn=encoder_ffn,
            position=Learned(offset=2),
            cross=CrossAttention(num_heads=mixer.num_heads, qkv_bias=True, output_bias=True),
            start_token=config_json.get("decoder_start_token_id", 2),
        ),
        multipliers=Multipliers(embedding=width**0.5 if config_json.get("scale_embedding", False) else 1.0),
        unembedding=Tied(bias=True),
        dropout=Dropout(embedding=rate, residual=rate, attention=config_json.get("attention_dropout", 0.0)),
    )


def _side(name: str, stack: str) -> tuple[Weight, ...]:
    """Returns the rows of the encoder or of the decoder; `name` is the prefix of its parameters."""
    layer, blocks = f"{stack}layers.{{layer}}.", f"{name}blocks."
    return (
        Weight("embedding.table", f"{stack}embed_tokens.weight", copy=True),
        Weight(f"{name}position.table", f"{stack}embed_positions.weight"),
        *_norm(f"{name}input_norm", f"{stack}layernorm_embedding"),
        *_attention(f"{blocks}mixer.", f"{layer}self_attn."),
        *_norm(f"{blocks}residual.mixer_norm", f"{layer}self_attn_layer_norm"),
        Weight(f"{blocks}ffn.up", f"{layer}fc1.weight", "f d -> d f"),
        Weight(f"{blocks}ffn.up_bias", f"{layer}fc1.bias"),
        Weight(f"{blocks}ffn.down", f"{layer}fc2.weight", "d f -> f d"),
        Weight(f"{blocks}ffn.down_bias", f"{layer}fc2.bias"),
        *_norm(f"{blocks}residual.ffn_norm", f"{layer}final_layer_norm"),
    )


def _norm(parameter: str, tensor: str) -> tuple[Weight, ...]:
    return Weight(f"{parameter}.scale", f"{tensor}.weight"), Weight(f"{parameter}.bias", f"{tensor}.bias")


def _attention(parameters: str, tensors: str) -> tuple[Weight, ...]:
    kinds = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    return (
        *(Weight(parameters + own, f"{tensors}{their}.weight", "(n h) d -> d n h") for own, their in kinds.items()),
        *(Weight(f"{parameters}{own}_bias", f"{tensors}{their}.bias", "(n h) -> n h") for own, their in kinds.items()),
        Weight(parameters + "output", tensors + "out_proj.weight", "d (n h) -> n h d"),
        Weight(parameters + "output_bias", tensors + "out_proj.bias"),
    )


CROSS = "model.decoder.layers.{layer}.encoder_attn"
FAMILY = Family(
    name="bart",
    model_types=("bart",),
    architecture="BartForConditionalGeneration",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "model.shared.weight"),
        Weight("embedding.table", "lm_head.weight", copy=True),
        Weight("embedding.output_bias", "final_logits_bias", "1 v -> v", else_zeros=True),
        *_side("encoder.", "model.encoder."),
        *_side("", "model.decoder."),
        *_attention("blocks.cross.", f"{CROSS}."),
        *_norm("blocks.residual.cross_norm", f"{CROSS}_layer_norm"),
    ),
    prefix="model.",
    aliases={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    buffers=("encoder.version", "decoder.version"),
)
