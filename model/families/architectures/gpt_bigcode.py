"""SantaCoder, StarCoder and StarCoderBase (GPT-BigCode): GPT-2 with one key head for all query heads.

Ben Allal et al. 2023, "SantaCoder: don't reach for the stars!", section 4; Li et al. 2023, "StarCoder: may the source
be with you!", section 5.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import gpt2
from model.families.architectures.gpt2 import LAYER
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned

# How the publishers' code was to run; `multi_query` gives the number of key heads.
IGNORED_KEYS = (
    "attention_softmax_in_fp32",
    "inference_runner",
    "max_batch_size",
    "max_sequence_length",
    "num_key_value_heads",
    "pad_key_length",
    "pre_allocate_kv_cache",
    "runner_max_sequence_length",
    "scale_attention_softmax_in_fp32",
    "validate_runner_input",
)


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("add_cross_attention", False)
    config_json.ignore(*IGNORED_KEYS, *llama_like.SUMMARY_KEYS)
    width, heads = config_json.get("n_embd", 768), config_json.get("n_head", 12)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 50257),
        context_length=config_json.get("n_positions", 1024),
        num_layers=config_json.get("n_layer", 12),
        width=width,
        position=Learned(),
        mixer=GroupedQuery(
            num_heads=heads,
            num_kv_heads=1 if config_json.get("multi_query", True) else heads,
            qkv_bias=True,
            output_bias=True,
            scale=None if config_json.get("scale_attn_weights", True) else 1.0,
        ),
        ffn=MLP(
            width=config_json.get("n_inner", 4 * width),
            activation=config_json.activation("activation_function", "gelu_pytorch_tanh"),
            bias=True,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(0.1, embedding="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop"),
    )


FAMILY = Family(
    name="gpt_bigcode",
    model_types=("gpt_bigcode",),
    architecture="GPTBigCodeForCausalLM",
    read_config=read_config,
    weights=(
        *gpt2.EMBEDDING,
        *gpt2.UNEMBEDDING,
        *gpt2.MIXER_NORM,
        # With one key head: all queries, the key, the value. With one for every query head: head by head.
        Weight("blocks.mixer.query", LAYER + "attn.c_attn.weight", "(n +h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attn.c_attn.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "attn.c_attn.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.query_bias", LAYER + "attn.c_attn.bias", "(n +h) -> n h"),
        Weight("blocks.mixer.key_bias", LAYER + "attn.c_attn.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.value_bias", LAYER + "attn.c_attn.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.output", LAYER + "attn.c_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", LAYER + "attn.c_proj.bias"),
        *gpt2.FFN_NORM,
        *gpt2.LINEAR_FEED_FORWARD,
    ),
    prefix="transformer.",
    aliases=gpt2.ALIASES,
)
