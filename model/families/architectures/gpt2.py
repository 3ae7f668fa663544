"""GPT-2: learned positions, LayerNorm, biases, and its linear layers stored as inputs by outputs.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned

LAYER = "transformer.h.{layer}."
# Rows that GPT-Neo and GPT-BigCode have too.
EMBEDDING = (
    Weight("embedding.table", "transformer.wte.weight"),
    Weight("position.table", "transformer.wpe.weight"),
    Weight("final_norm.scale", "transformer.ln_f.weight"),
    Weight("final_norm.bias", "transformer.ln_f.bias"),
)
UNEMBEDDING = (
    Weight("embedding.output", "lm_head.weight", "v d -> d v"),
    Weight("embedding.table", "lm_head.weight", copy=True),
)
MIXER_NORM = (
    Weight("blocks.residual.mixer_norm.scale", LAYER + "ln_1.weight"),
    Weight("blocks.residual.mixer_norm.bias", LAYER + "ln_1.bias"),
)
FFN_NORM = (
    Weight("blocks.residual.ffn_norm.scale", LAYER + "ln_2.weight"),
    Weight("blocks.residual.ffn_norm.bias", LAYER + "ln_2.bias"),
)
# Theirs are stored as outputs by inputs.
LINEAR_FEED_FORWARD = (
    Weight("blocks.ffn.up", LAYER + "mlp.c_fc.weight", "f d -> d f"),
    Weight("blocks.ffn.up_bias", LAYER + "mlp.c_fc.bias"),
    Weight("blocks.ffn.down", LAYER + "mlp.c_proj.weight", "d f -> f d"),
    Weight("blocks.ffn.down_bias", LAYER + "mlp.c_proj.bias"),
)
# GPT-1 has these too.
WEIGHTS = (
    *UNEMBEDDING,
    *MIXER_NORM,
    Weight("blocks.mixer.query", LAYER + "attn.c_attn.weight", "d +(n h) -> d n h"),
    Weight("blocks.mixer.key", LAYER + "attn.c_attn.weight", "d +(n h) -> d n h"),
    Weight("blocks.mixer.value", LAYER + "attn.c_attn.weight", "d +(n h) -> d n h"),
    Weight("blocks.mixer.query_bias", LAYER + "attn.c_attn.bias", "+(n h) -> n h"),
    Weight("blocks.mixer.key_bias", LAYER + "attn.c_attn.bias", "+(n h) -> n h"),
    Weight("blocks.mixer.value_bias", LAYER + "attn.c_attn.bias", "+(n h) -> n h"),
    Weight("blocks.mixer.output", LAYER + "attn.c_proj.weight", "(n h) d -> n h d"),
    Weight("blocks.mixer.output_bias", LAYER + "attn.c_proj.bias"),
    *FFN_NORM,
    Weight("blocks.ffn.up", LAYER + "mlp.c_fc.weight"),
    Weight("blocks.ffn.up_bias", LAYER + "mlp.c_fc.bias"),
    Weight("blocks.ffn.down", LAYER + "mlp.c_proj.weight"),
    Weight("blocks.ffn.down_bias", LAYER + "mlp.c_proj.bias"),
)


ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("add_cross_attention", False)
    config_json.require("n_special", 0)
    config_json.require("predict_special_tokens", True)
    config_json.ignore("n_ctx", *llama_like.SUMMARY_KEYS)
    config_json.ignore("reorder_and_upcast_attn")  # scores in float32, as here
    width = config_json.get("n_embd", 768)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 50257),
        context_length=config_json.get("n_positions", 1024),
        num_layers=config_json.get("n_layer", 12),
        width=width,
        position=Learned(),
        mixer=GroupedQuery(
            num_heads=config_json.get("n_head", 12),
            qkv_bias=True,
            output_bias=True,
            scale=None if config_json.get("scale_attn_weights", True) else 1.0,
            scale_by_layer=config_json.get("scale_attn_by_inverse_layer_idx", False),
        ),
        ffn=MLP(
            width=config_json.get("n_inner", 4 * width),
            activation=config_json.activation("activation_function", "gelu_new"),
            bias=True,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(0.1, embedding="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop"),
    )


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    architecture="GPT2LMHeadModel",
    read_config=read_config,
    weights=(
        *EMBEDDING,
        *WEIGHTS,
    ),
    prefix="transformer.",
    aliases=ALIASES,
    buffers=("*h.*.attn.bias", "*h.*.attn.masked_bias"),
)
