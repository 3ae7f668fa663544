"""GPT-J: parallel sublayers with one norm, rotary positions on the first dimensions of each head, biased logits.

Wang, Komatsuzaki 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import gpt2
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.rotary import Rotary
from model.residual import Parallel
from model.vocabulary.embedding import Untied

LAYER = "transformer.h.{layer}."


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("rotary", True)
    config_json.require("scale_attn_weights", True)
    config_json.require("tie_word_embeddings", False)
    config_json.ignore(*llama_like.SUMMARY_KEYS)
    width, heads = config_json.get("n_embd", 4096), config_json.get("n_head", 16)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 50400),
        context_length=config_json.get("n_positions", 2048),
        num_layers=config_json.get("n_layer", 28),
        width=width,
        position=Rotary(fraction=config_json.get("rotary_dim") * heads / width, interleaved=True),
        mixer=GroupedQuery(num_heads=heads),
        ffn=MLP(
            width=config_json.get("n_inner", 4 * width),
            activation=config_json.activation("activation_function", "gelu_new"),
            bias=True,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        residual=Parallel(),
        unembedding=Untied(bias=True),
        dropout=config_json.dropout(embedding="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop"),
    )


FAMILY = Family(
    name="gptj",
    model_types=("gptj",),
    architecture="GPTJForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "transformer.wte.weight"),
        Weight("final_norm.scale", "transformer.ln_f.weight"),
        Weight("final_norm.bias", "transformer.ln_f.bias"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.output_bias", "lm_head.bias"),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "ln_1.weight"),
        Weight("blocks.residual.mixer_norm.bias", LAYER + "ln_1.bias"),
        Weight("blocks.mixer.query", LAYER + "attn.q_proj.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attn.k_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "attn.v_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "attn.out_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.ffn.up", LAYER + "mlp.fc_in.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.fc_in.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.fc_out.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.fc_out.bias"),
    ),
    prefix="transformer.",
    aliases=gpt2.ALIASES,
    buffers=("*h.*.attn.bias", "*h.*.attn.masked_bias"),
)
