"""Grok-1: experts in every layer, sandwich norms, capped attention scores, constant factors on embeddings and logits.

It follows model.py of github.com/xai-org/grok-1 (xAI 2024, released with the weights). `transformers` has no class for
it; the keys of config.json and the names of tensors here are those of the checkpoint as it was converted for PyTorch
(model_type "grok-1"). The defaults for values that its config.json leaves out are those of the 314B model. The release
masks padding by its token; here, as in all families, segment ids tell padding from text.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.weights import Weight
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.feedforward.routing import SoftmaxRouter
from model.norms import RMSNorm
from model.positions.rotary import Rotary
from model.residual import Multipliers, Sandwich


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model of a config.json; chosen experts keep their weights of the softmax over all experts."""
    config_json.ignore("router_aux_loss_coef")
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 131072),
        context_length=config_json.get("max_position_embeddings", 8192),
        num_layers=config_json.get("num_hidden_layers", 64),
        width=config_json.get("hidden_size", 6144),
        position=Rotary(theta=float(config_json.get("rope_theta", 1e4))),
        mixer=GroupedQuery(
            num_heads=config_json.get("num_attention_heads", 48),
            num_kv_heads=config_json.get("num_key_value_heads", 8),
            head_dim=config_json.get("head_dim", None),
            scale=config_json.get("attn_output_multiplier", 0.08838834764831845),
            logit_softcap=config_json.get("max_attn_value", 30.0),
        ),
        ffn=Experts(
            num_experts=config_json.get("num_experts", 8),
            top_k=config_json.get("num_experts_per_tok", 2),
            expert=Gated(
                width=config_json.get("intermediate_size", 32768),
                activation=config_json.activation("hidden_act", "gelu_pytorch_tanh"),
            ),
            router=SoftmaxRouter(renormalize=False),
        ),
        norm=RMSNorm(epsilon=config_json.get("rms_norm_eps", 1e-5)),
        residual=Sandwich(),
        multipliers=Multipliers(
            embedding=config_json.get("embedding_multiplier_scale", 78.38367176906169),
            logits=config_json.get("output_multiplier_scale", 0.5773502691896257),
        ),
        unembedding=llama_like.unembedding(config_json, tied=True),
    )


FAMILY = Family(
    name="grok",
    model_types=("grok-1",),
    architecture="Grok1ModelForCausalLM",
    in_transformers=False,
    read_config=read_config,
    weights=(
        Weight("embedding.table", "model.embed_tokens.weight"),
        Weight("final_norm.scale", "model.norm.scale"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.table", "lm_head.weight", copy=True),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "pre_attn_norm.scale"),
        Weight("blocks.residual.mixer_output_norm.scale", LAYER + "post_attn_norm.scale"),
        Weight("blocks.residual.ffn_norm.scale", LAYER + "pre_moe_norm.scale"),
        Weight("blocks.residual.ffn_output_norm.scale", LAYER + "post_moe_norm.scale"),
        Weight("blocks.mixer.query", LAYER + "attn.q_proj.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attn.k_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "attn.v_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "attn.o_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.ffn.router", LAYER + "moe_block.gate.weight", "e d -> d e"),
        Weight("blocks.ffn.gate", LAYER + "moe_block.experts.{expert}.linear.weight", "f d -> d f"),
        Weight("blocks.ffn.up", LAYER + "moe_block.experts.{expert}.linear_v.weight", "f d -> d f"),
        Weight("blocks.ffn.down", LAYER + "moe_block.experts.{expert}.linear_1.weight", "d f -> f d"),
    ),
)
