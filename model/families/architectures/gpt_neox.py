"""GPT-NeoX-20B, Pythia and others of EleutherAI: rotary positions on a quarter of each head, parallel sublayers.

Black et al. 2022, "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", section 2.1; Biderman et al. 2023,
"Pythia".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.residual import Parallel, PreNorm

LAYER = "gpt_neox.layers.{layer}."


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("rope_theta", None)  # this family calls it rotary_emb_base
    config_json.require("partial_rotary_factor", None)  # and rotary_pct
    config_json.require("head_dim", None)  # it changes the rotary positions alone
    config_json.require("attention_probs_dropout_prob", 0)
    config_json.require("hidden_dropout_prob", 0)
    config_json.ignore("classifier_dropout", "rms_norm_eps")  # no class of the model has such a norm
    theta, fraction = config_json.get("rotary_emb_base", 1e4), config_json.get("rotary_pct", 0.25)
    bias = config_json.get("attention_bias", True)
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json),
        position=rotary(config_json, theta=theta, fraction=fraction),
        mixer=GroupedQuery(num_heads=config_json.get("num_attention_heads"), qkv_bias=bias, output_bias=bias),
        ffn=MLP(
            width=config_json.get("intermediate_size"),
            activation=config_json.activation("hidden_act", "gelu"),
            bias=True,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_eps", 1e-5)),
        residual=Parallel(shared_norm=False) if config_json.get("use_parallel_residual", True) else PreNorm(),
        unembedding=llama_like.unembedding(config_json),
        dropout=config_json.dropout(
            embedding="hidden_dropout", attention="attention_dropout", residual="hidden_dropout"
        ),
    )


FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    architecture="GPTNeoXForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "gpt_neox.embed_in.weight"),
        Weight("final_norm.scale", "gpt_neox.final_layer_norm.weight"),
        Weight("final_norm.bias", "gpt_neox.final_layer_norm.bias"),
        Weight("embedding.output", "embed_out.weight", "v d -> d v"),
        Weight("embedding.table", "embed_out.weight", copy=True),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
        Weight("blocks.residual.mixer_norm.bias", LAYER + "input_layernorm.bias"),
        Weight("blocks.residual.ffn_norm.scale", LAYER + "post_attention_layernorm.weight"),
        Weight("blocks.residual.ffn_norm.bias", LAYER + "post_attention_layernorm.bias"),
        Weight("blocks.mixer.query", LAYER + "attention.query_key_value.weight", "(n +h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attention.query_key_value.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "attention.query_key_value.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.query_bias", LAYER + "attention.query_key_value.bias", "(n +h) -> n h"),
        Weight("blocks.mixer.key_bias", LAYER + "attention.query_key_value.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.value_bias", LAYER + "attention.query_key_value.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.output", LAYER + "attention.dense.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", LAYER + "attention.dense.bias"),
        Weight("blocks.ffn.up", LAYER + "mlp.dense_h_to_4h.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.dense_h_to_4h.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.dense_4h_to_h.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.dense_4h_to_h.bias"),
    ),
    prefix="gpt_neox.",
    buffers=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
)
