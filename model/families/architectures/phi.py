"""Phi-1, Phi-1.5 and Phi-2: parallel sublayers with one norm, rotary positions on part of each head, biases everywhere.

Gunasekar et al. 2023, "Textbooks Are All You Need"; Li et al. 2023, "Textbooks Are All You Need II", section 2.1. The
files of `phi-msft`, which Microsoft's own code reads, have other keys and other tensors.
"""

import math

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.rotary import Rotary
from model.residual import Parallel
from model.vocabulary.embedding import Untied

MSFT_LAYER = "transformer.h.{layer}."


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("tie_word_embeddings", False)  # the logits have a bias
    config_json.ignore("attention_bias", "rotary_dim")  # of early files; no code reads them
    norm = LayerNorm(epsilon=config_json.get("layer_norm_eps", 1e-5))
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json, 2048),
        position=rotary(config_json, fraction=0.5),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=True,
            output_bias=True,
            qk_norm=QKNorm(norm=norm) if config_json.get("qk_layernorm", False) else None,
        ),
        ffn=MLP(
            width=config_json.get("intermediate_size", 8192),
            activation=config_json.activation("hidden_act", "gelu_new"),
            bias=True,
        ),
        norm=norm,
        residual=Parallel(),
        unembedding=Untied(bias=True),
        dropout=config_json.dropout(embedding="embd_pdrop", attention="attention_dropout", residual="resid_pdrop"),
    )


def read_msft_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of `phi-msft` describes."""
    config_json.require("tie_word_embeddings", False)
    config_json.ignore("flash_attn", "flash_rotary", "fused_dense")  # which kernels run
    if config_json.get("num_local_experts", None) is not None:
        raise config_json.refusal("num_local_experts", "this is Phixtral, which is not read", another_model=True)
    width, heads = config_json.get("n_embd", 1024), config_json.get("n_head", 16)
    multiple = config_json.get("pad_vocab_size_multiple", 64)
    return ModelConfig(
        vocab_size=math.ceil(config_json.get("vocab_size", 50304) / multiple) * multiple,
        context_length=config_json.get("n_positions", 2048),
        num_layers=config_json.get("n_layer", 20),
        width=width,
        position=Rotary(fraction=min(1.0, config_json.get("rotary_dim", 32) * heads / width)),
        mixer=GroupedQuery(
            num_heads=heads, num_kv_heads=config_json.get("n_head_kv", None), qkv_bias=True, output_bias=True
        ),
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
    name="phi",
    model_types=("phi",),
    architecture="PhiForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "model.embed_tokens.weight"),
        Weight("final_norm.scale", "model.final_layernorm.weight"),
        Weight("final_norm.bias", "model.final_layernorm.bias"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.output_bias", "lm_head.bias"),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
        Weight("blocks.residual.mixer_norm.bias", LAYER + "input_layernorm.bias"),
        *llama_like.ATTENTION[:3],
        *llama_like.ATTENTION[4:7],
        Weight("blocks.mixer.output", LAYER + "self_attn.dense.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", LAYER + "self_attn.dense.bias"),
        Weight("blocks.mixer.query_norm.scale", LAYER + "self_attn.q_layernorm.weight"),
        Weight("blocks.mixer.query_norm.bias", LAYER + "self_attn.q_layernorm.bias"),
        Weight("blocks.mixer.key_norm.scale", LAYER + "self_attn.k_layernorm.weight"),
        Weight("blocks.mixer.key_norm.bias", LAYER + "self_attn.k_layernorm.bias"),
        Weight("blocks.ffn.up", LAYER + "mlp.fc1.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.fc1.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.fc2.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.fc2.bias"),
    ),
    buffers=llama_like.BUFFERS,
)
MSFT = Family(
    name="phi_msft",
    model_types=("phi-msft",),
    architecture="PhiForCausalLM",
    read_config=read_msft_config,
    weights=(
        Weight("embedding.table", "transformer.embd.wte.weight"),
        Weight("final_norm.scale", "lm_head.ln.weight"),
        Weight("final_norm.bias", "lm_head.ln.bias"),
        Weight("embedding.output", "lm_head.linear.weight", "v d -> d v"),
        Weight("embedding.output_bias", "lm_head.linear.bias"),
        Weight("blocks.residual.mixer_norm.scale", MSFT_LAYER + "ln.weight"),
        Weight("blocks.residual.mixer_norm.bias", MSFT_LAYER + "ln.bias"),
        Weight("blocks.mixer.query", MSFT_LAYER + "mixer.Wqkv.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", MSFT_LAYER + "mixer.Wqkv.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.value", MSFT_LAYER + "mixer.Wqkv.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.query_bias", MSFT_LAYER + "mixer.Wqkv.bias", "+(n h) -> n h"),
        Weight("blocks.mixer.key_bias", MSFT_LAYER + "mixer.Wqkv.bias", "+(k h) -> k h"),
        Weight("blocks.mixer.value_bias", MSFT_LAYER + "mixer.Wqkv.bias", "+(k h) -> k h"),
        Weight("blocks.mixer.output", MSFT_LAYER + "mixer.out_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", MSFT_LAYER + "mixer.out_proj.bias"),
        Weight("blocks.ffn.up", MSFT_LAYER + "mlp.fc1.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", MSFT_LAYER + "mlp.fc1.bias"),
        Weight("blocks.ffn.down", MSFT_LAYER + "mlp.fc2.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", MSFT_LAYER + "mlp.fc2.bias"),
    ),
    buffers=llama_like.BUFFERS,
    in_transformers=False,
)
