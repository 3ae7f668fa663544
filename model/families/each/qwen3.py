"""Qwen 3: Qwen 2 with a norm on every query and key in place of biases.

Qwen Team 2025, "Qwen3 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(published), published.get("attention_bias", False)
    heads = llama_like.heads(published, num_kv_heads=32, head_dim=128)

    def layer(window: int | None) -> dict[str, Any]:
        return {
            "mixer": GroupedQuery(
                **heads,
                qkv_bias=bias,
                output_bias=bias,
                qk_norm=QKNorm(norm=base["norm"]),
                pattern=llama_like.window(window),
            )
        }

    return ModelConfig(
        **base,
        **llama_like.by_layer(llama_like.later_windows(published), layer),
        position=rotary(published),
        ffn=llama_like.gated(published),
    )


FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
    architecture="Qwen3ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.QK_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
