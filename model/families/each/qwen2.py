"""Qwen 1.5, 2 and 2.5: LLaMA with biases on queries, keys and values, and windows in the later layers.

Qwen Team 2024, "Qwen2 Technical Report"; 2024, "Qwen2.5 Technical Report".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    heads = llama_like.heads(published)

    def layer(window: int | None) -> dict[str, Any]:
        return {"mixer": GroupedQuery(**heads, qkv_bias=True, pattern=llama_like.window(window))}

    return ModelConfig(
        **llama_like.base(published),
        **llama_like.by_layer(llama_like.later_windows(published), layer),
        position=rotary(published),
        ffn=llama_like.gated(published),
    )


FAMILY = Family(
    name="qwen2",
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
