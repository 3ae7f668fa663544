"""OLMo 1: LLaMA with norms that have no weights; some sizes limit the entries of queries, keys and values.

Groeneveld et al. 2024, "OLMo: Accelerating the Science of Language Models", section 2.1. The files of `hf_olmo`, which
the publishers' own code reads, have other keys and other tensors; so has DataDecide (Magnusson et al. 2025), with
RMSNorm.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import Gated
from model.norms import LayerNorm, RMSNorm
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Tied, Untied

HF_LAYER = "model.transformer.blocks.{layer}."
# Their code has other mechanisms, which no published model of this form has.
HF_REQUIRED = {
    "activation_type": "swiglu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "sequential",
    "embedding_layer_norm": False,
    "norm_after": False,
    "scale_logits": False,
}
# How they train and run.
HF_IGNORED = (
    "alibi_bias_max",
    "attention_layer_norm_with_affine",
    "block_group_size",
    "emb_init_std",
    "flash_attention",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "precision",
    "rope_full_precision",
)


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    if config_json.get("d_model", None) is not None:  # the first uploads have the model_type of later ones
        why = "the file has the keys of hf_olmo; change its model_type to hf_olmo"
        raise config_json.refusal("d_model", why, another_model=True)
    bias = config_json.get("attention_bias", False)
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json, 2048),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            qkv_clip=config_json.get("clip_qkv", None),
        ),
        ffn=llama_like.gated_ffn(config_json),
        norm=LayerNorm(epsilon=1e-5, scale=False, bias=False),
        unembedding=llama_like.unembedding(config_json),
        dropout=config_json.dropout(attention="attention_dropout"),
    )


def read_hf_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json of `hf_olmo` describes."""
    for key, value in HF_REQUIRED.items():
        config_json.require(key, value)
    config_json.require("include_bias", False, default=True)
    config_json.require("rope", True, default=False)
    config_json.ignore(*HF_IGNORED)
    width, heads = config_json.get("d_model", 768), config_json.get("n_heads", 12)
    fused = config_json.get("mlp_hidden_size", config_json.get("mlp_ratio", 4) * width)
    vocab_size = config_json.get("vocab_size", 50257)
    key_heads = 1 if config_json.get("multi_query_attention", False) else heads
    return ModelConfig(
        vocab_size=config_json.get("embedding_size", vocab_size),
        context_length=config_json.get("max_sequence_length", 1024),
        num_layers=config_json.get("n_layers", 12),
        width=width,
        position=Rotary(theta=float(config_json.get("rope_theta", 10_000.0))),
        mixer=GroupedQuery(
            num_heads=heads,
            num_kv_heads=config_json.get("n_kv_heads", key_heads),
            qkv_clip=config_json.get("clip_qkv", None),
        ),
        ffn=Gated(width=fused // 2, activation="silu"),
        norm=_hf_norm(config_json),
        unembedding=Tied() if config_json.get("weight_tying", True) else Untied(),
        dropout=config_json.dropout(
            0.1, embedding="embedding_dropout", attention="attention_dropout", residual="residual_dropout"
        ),
    )


def _hf_norm(config_json: ConfigJson) -> LayerNorm | RMSNorm:
    """Returns the kind of norms; "low_precision" is LayerNorm in the dtype of activations."""
    epsilon, affine = config_json.get("layer_norm_eps", 1e-5), config_json.get("layer_norm_with_affine", True)
    kinds = {"default": LayerNorm, "low_precision": LayerNorm, "rms": RMSNorm}
    if config_json.lookup("layer_norm_type", kinds, "default") is RMSNorm:
        return RMSNorm(epsilon=epsilon, scale="one" if affine else "none")
    return LayerNorm(epsilon=epsilon, scale=affine, bias=False)


FAMILY = Family(
    name="olmo",
    model_types=("olmo",),
    architecture="OlmoForCausalLM",
    read_config=read_config,
    weights=(*llama_like.EMBEDDING, *llama_like.ATTENTION, *llama_like.FEED_FORWARD),
    buffers=llama_like.BUFFERS,
)
HF = Family(
    name="hf_olmo",
    model_types=("hf_olmo",),
    architecture="OLMoForCausalLM",
    read_config=read_hf_config,
    weights=(
        Weight("embedding.table", "model.transformer.wte.weight"),
        Weight("embedding.output", "model.transformer.ff_out.weight", "v d -> d v"),
        Weight("embedding.table", "model.transformer.ff_out.weight", copy=True),
        Weight("final_norm.scale", "model.transformer.ln_f.weight"),
        Weight("blocks.residual.mixer_norm.scale", HF_LAYER + "attn_norm.weight"),
        Weight("blocks.mixer.query", HF_LAYER + "att_proj.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", HF_LAYER + "att_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.value", HF_LAYER + "att_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.output", HF_LAYER + "attn_out.weight", "d (n h) -> n h d"),
        Weight("blocks.residual.ffn_norm.scale", HF_LAYER + "ff_norm.weight"),
        Weight("blocks.ffn.up", HF_LAYER + "ff_proj.weight", "+f d -> d f"),
        Weight("blocks.ffn.gate", HF_LAYER + "ff_proj.weight", "+f d -> d f"),
        Weight("blocks.ffn.down", HF_LAYER + "ff_out.weight", "d f -> f d"),
    ),
    in_transformers=False,
)
