"""What many families share with LLaMA: names in config.json, names of tensors."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.embedding import Tied, Untied
from model.errors import UserError
from model.families.published import ACTIVATIONS, Published
from model.families.rotary import publish_rotary
from model.families.weights import Weight
from model.feedforward import Gated
from model.layers import Except
from model.norms import RMSNorm

Kind = TypeVar("Kind", bound=Hashable)

LAYER = "model.layers.{layer}."

EMBEDDING = (
    Weight("embedding.table", "model.embed_tokens.weight"),
    Weight("final_norm.scale", "model.norm.weight"),
    Weight("embedding.output", "lm_head.weight", "v d -> d v"),
    Weight("embedding.table", "lm_head.weight", copy=True),
)
ATTENTION = (
    Weight("blocks.attention.query", LAYER + "self_attn.q_proj.weight", "(n h) d -> d n h"),
    Weight("blocks.attention.key", LAYER + "self_attn.k_proj.weight", "(k h) d -> d k h"),
    Weight("blocks.attention.value", LAYER + "self_attn.v_proj.weight", "(k h) d -> d k h"),
    Weight("blocks.attention.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
    Weight("blocks.attention.query_bias", LAYER + "self_attn.q_proj.bias", "(n h) -> n h"),
    Weight("blocks.attention.key_bias", LAYER + "self_attn.k_proj.bias", "(k h) -> k h"),
    Weight("blocks.attention.value_bias", LAYER + "self_attn.v_proj.bias", "(k h) -> k h"),
    Weight("blocks.attention.output_bias", LAYER + "self_attn.o_proj.bias"),
)
FEED_FORWARD = (
    Weight("blocks.ffn.gate", LAYER + "mlp.gate_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.up", LAYER + "mlp.up_proj.weight", "f d -> d f"),
    Weight("blocks.ffn.down", LAYER + "mlp.down_proj.weight", "d f -> f d"),
    Weight("blocks.ffn.gate_bias", LAYER + "mlp.gate_proj.bias", "f -> f"),
    Weight("blocks.ffn.up_bias", LAYER + "mlp.up_proj.bias", "f -> f"),
    Weight("blocks.ffn.down_bias", LAYER + "mlp.down_proj.bias", "d -> d"),
)
PRE_NORMS = (
    Weight("blocks.attention_norm.scale", LAYER + "input_layernorm.weight"),
    Weight("blocks.ffn_norm.scale", LAYER + "post_attention_layernorm.weight"),
)
QK_NORMS = (
    Weight("blocks.attention.query_norm.scale", LAYER + "self_attn.q_norm.weight", "h -> h"),
    Weight("blocks.attention.key_norm.scale", LAYER + "self_attn.k_norm.weight", "h -> h"),
)
BUFFERS = ("*.rotary_emb.inv_freq",)


def size(published: Published) -> dict[str, Any]:
    """The fields of a ModelConfig that say how large it is, but for the length of its context."""
    return {
        "vocab_size": published.get("vocab_size"),
        "num_layers": published.get("num_hidden_layers"),
        "width": published.get("hidden_size"),
    }


def heads(published: Published) -> dict[str, Any]:
    """The fields of a GroupedQuery that say how many heads there are, and how wide."""
    return {
        "num_heads": published.get("num_attention_heads"),
        "num_kv_heads": published.get("num_key_value_heads", None),
        "head_dim": published.get("head_dim", None),
    }


def unembedding(published: Published, *, tied: bool = False) -> Tied | Untied:
    """Whether the token table is the unembedding; `tied` where config.json does not say."""
    return Tied() if published.get("tie_word_embeddings", tied) else Untied()


def rms_norm(published: Published, epsilon: float = 1e-6) -> RMSNorm:
    """The norm, with the epsilon that holds where config.json says nothing."""
    return RMSNorm(epsilon=published.get("rms_norm_eps", epsilon))


def by_layer(kinds: Sequence[Kind], option: Callable[[Kind], dict[str, Any]]) -> dict[str, Any]:
    """The fields of a ModelConfig that say what each layer is made of, exceptions among them.

    Args:
      kinds: of every layer.
      option: the fields of an `Except` that a kind of layer has, all of the same names.
    """
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    exceptions = tuple(
        Except(layers=where, **option(kind))
        for kind in dict.fromkeys(kinds)
        if kind != usual
        for where in _slices([number for number, its in enumerate(kinds) if its == kind], len(kinds))
    )
    return {**option(usual), "exceptions": exceptions}


def _slices(numbers: Sequence[int], total: int) -> list[str]:
    """Slices of `total` layers that together are those of these numbers: one where that is possible."""
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


def publish(model: ModelConfig) -> dict[str, Any]:
    """The values of a config.json from a model; `Family.published` checks that they describe it."""
    attention, ffn, norm = model.attention, model.ffn, model.norm
    if not isinstance(attention, GroupedQuery) or not isinstance(ffn, Gated) or not isinstance(norm, RMSNorm):
        found = ", ".join(type(option).__name__ for option in (attention, ffn, norm))
        raise UserError(f"models of this family have GroupedQuery attention, a Gated ffn and RMSNorm, got {found}")
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "num_hidden_layers": model.num_layers,
        "intermediate_size": ffn.width,
        "hidden_act": {its: name for name, its in reversed(ACTIVATIONS.items())}[ffn.activation],
        "mlp_bias": ffn.bias,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.qkv_bias,
        "attention_dropout": model.dropout.attention,
        "rms_norm_eps": norm.epsilon,
        "tie_word_embeddings": isinstance(model.unembedding, Tied),
        "max_position_embeddings": model.context_length,
        **publish_rotary(model.position),
    }
