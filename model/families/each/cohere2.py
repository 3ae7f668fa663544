"""Command R7B and Command A (Cohere 2): parallel layers, LayerNorm without bias, no positions in global layers.

Cohere 2025, "Command A: An Enterprise-Ready Large Language Model", section 2.1.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.norms import LayerNorm
from model.positions.absolute import NoPositions
from model.residual import Multipliers, Parallel


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    size = llama_like.size(published)
    every = published.get("sliding_window_pattern", published.get("_sliding_window_pattern", 4))
    types = llama_like.layer_types(published, lambda i: (i + 1) % every != 0)
    _check_older_keys(published, every, size["width"] // published.get("num_attention_heads"))
    bias, heads = published.get("attention_bias", False), llama_like.heads(published)
    window = published.get_or_null("sliding_window", 4096)
    if window is None and "sliding_attention" in types:
        raise published.refusal("sliding_window", "layers with windows need their size")
    local, positions = llama_like.window(window), rotary(published, interleaved=True)

    def layer(kind: str) -> dict[str, Any]:
        sliding = kind == "sliding_attention"
        pattern = local if sliding else llama_like.window(None)
        return {
            "position": positions if sliding else NoPositions(),
            "mixer": GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=pattern),
        }

    return ModelConfig(
        **size,
        **llama_like.by_layer(types, layer),
        context_length=context_length(published),
        ffn=llama_like.gated(published),
        norm=LayerNorm(epsilon=published.get("layer_norm_eps", 1e-5), bias=False),
        residual=Parallel(),
        multipliers=Multipliers(logits=float(published.get("logit_scale", 0.0625))),
        unembedding=llama_like.unembedding(published, tied=True),
        dropout=published.dropout(attention="attention_dropout"),
    )


def _check_older_keys(published: Published, every: int, head_dim: int) -> None:
    """Refuses keys of early files unless they have the only value that these models use."""
    published.only("head_dim", head_dim)
    published.only("layer_switch", every)
    published.only("order_of_interleaved_layers", "local_attn_first")
    published.only("position_embedding_type", "rope_gptj")
    published.only("rotary_pct", 1.0)
    published.only("use_embedding_sharing", True)
    published.only("use_gated_activation", True)
    published.only("use_parallel_block", True)
    published.only("use_qk_norm", False)
    published.unused("use_parallel_embedding")  # how Cohere's code divides the embedding among devices


FAMILY = Family(
    name="cohere2",
    model_types=("cohere2",),
    architecture="Cohere2ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("blocks.residual.mixer_norm.scale", LAYER + "input_layernorm.weight"),
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
