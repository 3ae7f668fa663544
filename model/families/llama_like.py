"""Names in config.json and names of tensors that many families share with LLaMA."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import Everything, Pattern, SlidingWindow
from model.config import ModelConfig
from model.errors import UserError
from model.families.config_json import ACTIVATIONS, ConfigJson
from model.families.rotary import context_length, write_rotary
from model.families.weights import Weight
from model.feedforward.mlp import Gated
from model.layers import Except
from model.norms import RMSNorm
from model.vocabulary.embedding import Tied, Untied

Kind = TypeVar("Kind", bound=Hashable)

LAYER = "model.layers.{layer}."

EMBEDDING = (
    Weight("embedding.table", "model.embed_tokens.weight"),
    Weight("final_norm.scale", "model.norm.weight"),
    Weight("embedding.output", "lm_head.weight", "v d -> d v"),
    Weight("embedding.table", "lm_head.weight", copy=True),
)
ATTENTION = (
    Weight("blocks.mixer.query", LAYER + "self_attn.q_proj.weight", "(n h) d -> d n h"),
    Weight("blocks.mixer.key", LAYER + "self_attn.k_proj.weight", "(k h) d -> d k h"),
    Weight("blocks.mixer.value", LAYER + "self_attn.v_proj.weight", "(k h) d -> d k h"),
    Weight("blocks.mixer.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
    Weight("blocks.mixer.query_bias", LAYER + "self_attn.q_proj.bias", "(n h) -> n h"),
    Weight("blocks.mixer.key_bias", LAYER + "self_attn.k_proj.bias", "(k h) -> k h"),
    Weight("blocks.mixer.value_bias", LAYER + "self_attn.v_proj.bias", "(k h) -> k h"),
    Weight("blocks.mixer.output_bias", LAYER + "self_attn.o_proj.bias"),
)
FEED_FORWARD = (
    Weight("blocks.ffn.gate", LAYER + "mlp.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.up", LAYER + "mlp.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.down", LAYER + "mlp.down_proj.weight", "d f -> f d"),
    Weight("blocks.ffn.gate_bias", LAYER + "mlp.gate_proj.bias", "f -> f"),
    Weight("blocks.ffn.up_bias", LAYER + "mlp.up_proj.bias", "f -> f"),
    Weight("blocks.ffn.down_bias", LAYER + "mlp.down_proj.bias", "d -> d"),
)
FUSED_FEED_FORWARD = (
    Weight("blocks.ffn.gate", LAYER + "mlp.gate_up_proj.weight", "+f d -> d f"),
    Weight("blocks.ffn.up", LAYER + "mlp.gate_up_proj.weight", "+f d -> d f"),
    Weight("blocks.ffn.down", LAYER + "mlp.down_proj.weight", "d f -> f d"),
)
PRE_NORMS = (
    Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
    Weight("blocks.residual.ffn_norm.scale", LAYER + "post_attention_layernorm.weight"),
)
OUTPUT_NORMS = (
    Weight("blocks.residual.mixer_output_norm.scale", LAYER + "post_attention_layernorm.weight"),
    Weight("blocks.residual.ffn_output_norm.scale", LAYER + "post_feedforward_layernorm.weight"),
)
SANDWICH_NORMS = (
    Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
    Weight("blocks.residual.ffn_norm.scale", LAYER + "pre_feedforward_layernorm.weight"),
    *OUTPUT_NORMS,
)
PROJECTION_NORMS = (
    Weight("blocks.mixer.query_norm.scale", LAYER + "self_attn.q_norm.weight", "(n h) -> n h"),
    Weight("blocks.mixer.key_norm.scale", LAYER + "self_attn.k_norm.weight", "(k h) -> k h"),
)
QK_NORMS = (
    Weight("blocks.mixer.query_norm.scale", LAYER + "self_attn.q_norm.weight", "h -> h"),
    Weight("blocks.mixer.key_norm.scale", LAYER + "self_attn.k_norm.weight", "h -> h"),
)
# Keys of config.json about heads for other tasks.
SUMMARY_KEYS = (
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)
BUFFERS = ("*.rotary_emb.inv_freq",)


EXPERTS = (
    Weight("blocks.ffn.router", LAYER + "mlp.gate.weight", "e d -> d e"),
    Weight("blocks.ffn.gate", LAYER + "mlp.experts.{expert}.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.up", LAYER + "mlp.experts.{expert}.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.down", LAYER + "mlp.experts.{expert}.down_proj.weight", "d f -> f d"),
)


def base(
    config_json: ConfigJson, *, epsilon: float = 1e-6, tied: bool = False, length: int | None = None
) -> dict[str, Any]:
    """Returns the fields of a ModelConfig that are not about its layers' mechanisms, with the family's defaults."""
    return {
        **dimensions(config_json),
        "context_length": context_length(config_json, length),
        "norm": RMSNorm(epsilon=config_json.get("rms_norm_eps", epsilon)),
        "unembedding": unembedding(config_json, tied=tied),
        "dropout": config_json.dropout(attention="attention_dropout"),
    }


def dimensions(config_json: ConfigJson) -> dict[str, Any]:
    """Returns the fields of a ModelConfig that say how large it is, except its context length."""
    return {
        "vocab_size": config_json.get("vocab_size"),
        "num_layers": config_json.get("num_hidden_layers"),
        "width": config_json.get("hidden_size"),
    }


def heads(config_json: ConfigJson, *, num_kv_heads: int | None = None, head_dim: int | None = None) -> dict[str, Any]:
    """Returns the number of heads and their width, as fields of a GroupedQuery, with the family's defaults."""
    return {
        "num_heads": config_json.get("num_attention_heads"),
        "num_kv_heads": config_json.get("num_key_value_heads", num_kv_heads),
        "head_dim": config_json.get("head_dim", head_dim),
    }


def unembedding(config_json: ConfigJson, *, tied: bool = False) -> Tied | Untied:
    """Returns the unembedding; `tied` is the default where config.json does not say."""
    return Tied() if config_json.get("tie_word_embeddings", tied) else Untied()


def gated_ffn(config_json: ConfigJson, *, width: str = "intermediate_size", bias: bool = False) -> Gated:
    """Returns the gated feed-forward layer; `width` is the key of its width."""
    return Gated(width=config_json.get(width), activation=config_json.activation("hidden_act", "silu"), bias=bias)


def window_pattern(size: int | None) -> Pattern:
    """Returns the pattern of the last `size` keys, or of all keys where `size` is None."""
    return Everything() if size is None else SlidingWindow(size=size)


def layer_types(config_json: ConfigJson, sliding: Callable[[int], bool]) -> list[str]:
    """Returns "sliding_attention" or "full_attention" for every layer; `sliding` decides where config.json does not."""
    layers = config_json.get("num_hidden_layers")
    kinds: list[str] = config_json.get("layer_types", []) or [
        "sliding_attention" if sliding(i) else "full_attention" for i in range(layers)
    ]
    if set(kinds) - {"sliding_attention", "full_attention"} or len(kinds) != layers:
        expected = f"expected sliding_attention or full_attention for each of {layers} layers"
        raise config_json.refusal("layer_types", expected)
    return kinds


def active_window(config_json: ConfigJson) -> int | None:
    """Returns the size of the window, or None where `use_sliding_window` is false."""
    size: int | None = config_json.get_or_null("sliding_window", 4096)
    return size if config_json.get("use_sliding_window", False) else None


def layer_windows(config_json: ConfigJson) -> list[int | None]:
    """Returns Qwen's window of every layer: None (no window) in the first `max_window_layers`."""
    size = active_window(config_json)
    first = config_json.get("max_window_layers", 28)
    types = layer_types(config_json, lambda i: size is not None and i >= first)
    return [size if kind == "sliding_attention" else None for kind in types]


def sparse_layers(config_json: ConfigJson) -> list[bool]:
    """Returns whether each layer has experts: Qwen's every `decoder_sparse_step`-th, without `mlp_only_layers`.

    With `num_experts` 0 no layer has any.
    """
    step, dense = config_json.get("decoder_sparse_step", 1), config_json.get("mlp_only_layers", [])
    some, layers = config_json.get("num_experts", 1) > 0, config_json.get("num_hidden_layers")
    return [some and i not in dense and (i + 1) % step == 0 for i in range(layers)]


def by_layer(kinds: Sequence[Kind], fields: Callable[[Kind], dict[str, Any]]) -> dict[str, Any]:
    """Returns the fields of a ModelConfig for the commonest kind of layer, and `exceptions` for the other kinds.

    Args:
      kinds: the kind of every layer.
      fields: returns the fields of an `Except` for a kind of layer, with the same names for all kinds.
    """
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    exceptions = tuple(
        Except(layers=layers, **fields(kind))
        for kind in dict.fromkeys(kinds)
        if kind != usual
        for layers in _slices([number for number, other in enumerate(kinds) if other == kind], len(kinds))
    )
    return {**fields(usual), "exceptions": exceptions}


def _slices(numbers: Sequence[int], total: int) -> list[str]:
    """Returns slices of `total` layers that together select the layers `numbers`: one slice where that is possible."""
    first, last = numbers[0], numbers[-1]
    if first == last:
        return [str(first)]
    step = numbers[1] - first
    if list(numbers) == list(range(first, last + 1, step)):
        start, stop = str(first or ""), "" if last + step >= total else str(last + 1)
        return [f"{start}:{stop}" + (f":{step}" if step > 1 else "")]
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n + 1 for n in numbers if n + 1 not in numbers]
    return [f"{a}:{b}" if b - a > 1 else str(a) for a, b in zip(starts, ends, strict=True)]


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Returns the values of a config.json for a model; `Family.config_json` checks that they describe it."""
    attention, ffn, norm = model.mixer, model.ffn, model.norm
    if not isinstance(attention, GroupedQuery) or not isinstance(ffn, Gated) or not isinstance(norm, RMSNorm):
        found = ", ".join(type(option).__name__ for option in (attention, ffn, norm))
        raise UserError(
            f"models of this family have GroupedQuery, Gated and RMSNorm, got {found}; give a config.json with --like"
        )
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "num_hidden_layers": model.num_layers,
        "intermediate_size": ffn.width,
        "hidden_act": {activation: name for name, activation in reversed(ACTIVATIONS.items())}[ffn.activation],
        "mlp_bias": ffn.bias,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.qkv_bias,
        "attention_dropout": model.dropout.attention,
        "rms_norm_eps": norm.epsilon,
        "tie_word_embeddings": isinstance(model.unembedding, Tied),
        "max_position_embeddings": model.context_length,
        **write_rotary(model.position),
    }
