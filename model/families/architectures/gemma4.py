"""Gemma 4, its text models: Gemma 3 with wider global heads, normalised values, and a factor after each layer.

Gemma Team 2026, by the code released in `transformers`. In global layers the fastest pairs of dimensions rotate alone,
and in the larger models values are the keys before their norm. In the smaller models late layers see the keys and
values of the last earlier layer of their type, and may have a feed-forward layer of twice the width; each layer reads a
vector of each token from a table of its own. The model with experts has a feed-forward layer beside them, and norms of
both. The factor on the stream after each layer is a buffer there, which no optimizer updates; here it is trained like
any other parameter unless a run freezes it.
"""

import dataclasses
from typing import Any, NamedTuple

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import fastest_pairs, rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import Activation, Gated
from model.feedforward.routing import SoftmaxRouter
from model.norms import RMSNorm
from model.positions.absolute import LayerPosition
from model.residual import Multipliers, Sandwich
from model.vocabulary.per_layer import PerLayerEmbedding

LOCAL, GLOBAL = "sliding_attention", "full_attention"


class Kind(NamedTuple):
    """The values in which layers differ."""

    type: str
    num_kv_heads: int
    head_dim: int
    kv_from_layer: int | None


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("use_bidirectional_attention", False, "vision")  # text is causal in both
    kinds = _kinds(config_json)
    config_json.sub_object("rope_parameters").ignore(*{LOCAL, GLOBAL} - {kind.type for kind in kinds})
    base, bias = llama_like.base(config_json, tied=True), config_json.get("attention_bias", False)
    norm: RMSNorm = base["norm"]
    window = config_json.get("sliding_window", 512)
    shared = {
        "num_heads": config_json.get("num_attention_heads"),
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": QKNorm(norm=norm),
        "scale": 1.0,
    }
    ffn = Gated(
        width=config_json.get("intermediate_size"),
        activation=config_json.activation("hidden_activation", "gelu_pytorch_tanh"),
    )
    vectors = _per_layer_embedding(config_json, base["vocab_size"], ffn.activation)
    experts = _experts(config_json, norm, base["width"], ffn.activation)
    wide_ffn = dataclasses.replace(ffn, width=ffn.width * (2 if config_json.get("use_double_wide_mlp", False) else 1))

    def layer(kind: Kind) -> dict[str, Any]:
        own = kind.kv_from_layer is None
        mixer = GroupedQuery(
            **shared,
            kv_from_layer=kind.kv_from_layer,
            value_norm=dataclasses.replace(norm, scale="none") if own else None,
            num_kv_heads=kind.num_kv_heads,
            head_dim=kind.head_dim,
            values_from_keys=own and kind.type == GLOBAL and config_json.get("attention_k_eq_v", False),
            pattern=llama_like.window_pattern(window if kind.type == LOCAL else None),
        )
        dense = ffn if own else wide_ffn
        both = dense if experts is None else dataclasses.replace(experts, shared=Shared(ffn=dense))
        return {"mixer": mixer, "ffn": both, "position": _position(config_json, kind)}

    return ModelConfig(
        **base,
        **llama_like.by_layer(kinds, layer),
        residual=Sandwich(ffn_input_norm=experts is None),
        multipliers=Multipliers(embedding=base["width"] ** 0.5),
        stream_scale=1.0,
        per_layer_embedding=vectors,
        final_logit_softcap=config_json.get("final_logit_softcapping", None),
    )


def _per_layer_embedding(config_json: ConfigJson, vocab_size: int, activation: Activation) -> PerLayerEmbedding | None:
    width = config_json.get("hidden_size_per_layer_input", 256)
    rows = config_json.get("vocab_size_per_layer_input", 262_144)
    if width and rows != vocab_size:
        raise config_json.refusal("vocab_size_per_layer_input", f"expected vocab_size={vocab_size}")
    return PerLayerEmbedding(width=width, activation=activation) if width else None


def _experts(config_json: ConfigJson, norm: RMSNorm, width: int, activation: Activation) -> Experts | None:
    """Returns the experts that every layer has beside its feed-forward layer, which is the shared expert; or None."""
    keys = ("num_experts", "top_k_experts", "moe_intermediate_size")
    if not config_json.get("enable_moe_block", False):
        config_json.ignore(*keys)
        return None
    num_experts, top_k, expert_width = map(config_json.get, keys)
    return Experts(
        num_experts=num_experts,
        top_k=top_k,
        expert=Gated(width=expert_width, activation=activation),
        router=SoftmaxRouter(norm=norm, logit_scale=width**-0.5, expert_scale=True),
        branch_norms=norm,
    )


def _kinds(config_json: ConfigJson) -> list[Kind]:
    """Returns the kind of every layer; the last one is global, whatever the file says.

    Files of later versions of `transformers` name the heads of single layers in `per_layer_config`, earlier ones those
    of all global layers.
    """
    types = [*llama_like.layer_types(config_json, lambda i: (i + 1) % 6 != 0)[:-1], GLOBAL]
    usual = {
        "num_key_value_heads": config_json.get("num_key_value_heads", 4),
        "head_dim": config_json.get("head_dim", 256),
    }
    wide = {"head_dim": config_json.get("global_head_dim", 512)}
    heads = config_json.get("num_global_key_value_heads", None)
    if heads and config_json.get("attention_k_eq_v", False):
        wide["num_key_value_heads"] = heads
    by_number = config_json.get("per_layer_config", None)
    if by_number is None:
        by_number = {str(i): wide for i, kind in enumerate(types) if kind == GLOBAL}
    elif any(not isinstance(values, dict) or values.keys() - usual.keys() for values in by_number.values()):
        raise config_json.refusal("per_layer_config", "known: 'head_dim', 'num_key_value_heads'")
    heads_of = [usual | by_number.get(str(i), {}) for i in range(len(types))]
    layers = zip(types, heads_of, _sources(config_json, types), strict=True)
    return [Kind(t, h["num_key_value_heads"], h["head_dim"], source) for t, h, source in layers]


def _sources(config_json: ConfigJson, types: list[str]) -> list[int | None]:
    """Returns the number of the layer whose keys and values each layer sees; None for its own."""
    shared = config_json.get("num_kv_shared_layers", 0)
    own = types[: len(types) - shared]
    if shared < 0 or shared > len(types) or set(own) != set(types):
        raise config_json.refusal("num_kv_shared_layers", "each type of layer needs one with its own keys and values")
    last = {kind: max(i for i, other in enumerate(own) if other == kind) for kind in own}
    return [None if i < len(own) else last[kind] for i, kind in enumerate(types)]


def _position(config_json: ConfigJson, kind: Kind) -> LayerPosition:
    if config_json.get("rope_parameters", None) is None:
        local = rotary(config_json, legacy_keys=False)
        return (
            local if kind.type == LOCAL else fastest_pairs(dataclasses.replace(local, theta=1e6), 0.25, kind.head_dim)
        )
    return rotary(config_json, layer_type=kind.type, legacy_keys=False, head_dim=kind.head_dim)


LAYER = llama_like.LAYER
EXPERTS = (
    Weight("blocks.ffn.router_norm.scale", LAYER + "router.scale"),
    Weight("blocks.ffn.router", LAYER + "router.proj.weight", "e d -> d e"),
    Weight("blocks.ffn.expert_scale", LAYER + "router.per_expert_scale"),
    Weight("blocks.ffn.input_norm.scale", LAYER + "pre_feedforward_layernorm_2.weight"),
    Weight("blocks.ffn.gate", LAYER + "experts.gate_up_proj", "e +f d -> e d f"),
    Weight("blocks.ffn.up", LAYER + "experts.gate_up_proj", "e +f d -> e d f"),
    Weight("blocks.ffn.down", LAYER + "experts.down_proj", "e d f -> e f d"),
    Weight("blocks.ffn.output_norm.scale", LAYER + "post_feedforward_layernorm_2.weight"),
    Weight("blocks.ffn.shared_input_norm.scale", LAYER + "pre_feedforward_layernorm.weight"),
    Weight("blocks.ffn.shared.gate", LAYER + "mlp.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.up", LAYER + "mlp.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.shared.down", LAYER + "mlp.down_proj.weight", "d f -> f d"),
    Weight("blocks.ffn.shared_output_norm.scale", LAYER + "post_feedforward_layernorm_1.weight"),
)

FAMILY = Family(
    name="gemma4",
    model_types=("gemma4_text",),
    architecture="Gemma4ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.SANDWICH_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
        *EXPERTS,
        Weight("blocks.stream_scale", llama_like.LAYER + "layer_scalar"),
        Weight("per_layer.table", "model.embed_tokens_per_layer.weight", "v (l p) -> v l p"),
        Weight("per_layer.projection", "model.per_layer_model_projection.weight", "(l p) d -> d l p"),
        Weight("per_layer.norm.scale", "model.per_layer_projection_norm.weight"),
        Weight("blocks.per_layer.gate", llama_like.LAYER + "per_layer_input_gate.weight", "p d -> d p"),
        Weight("blocks.per_layer.output", llama_like.LAYER + "per_layer_projection.weight", "d p -> p d"),
        Weight("blocks.per_layer.norm.scale", llama_like.LAYER + "post_per_layer_input_norm.weight"),
    ),
    # Files have keys and values of all layers, also of those that use those of another layer.
    buffers=(*llama_like.BUFFERS, "*.self_attn.[kv]_proj.*", "*.self_attn.[kv]_norm.*"),
)
