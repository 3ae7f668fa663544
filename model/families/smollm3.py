"""SmolLM3: LLaMA with no positions in every fourth layer.

Bakouch et al. 2025, "SmolLM3: smol, multilingual, long-context reasoner".
"""

from typing import Any

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary
from model.positions import NoPositions


def config(published: Published) -> ModelConfig:
    """The model of a config.json."""
    heads, bias = llama_like.heads(published, num_kv_heads=4), published.get("attention_bias", False)
    size = published.get("sliding_window", None) if published.get("use_sliding_window", False) else None
    published.unused("max_window_layers")
    every, layers = published.get("no_rope_layer_interval", 4), published.get("num_hidden_layers")
    turned = published.get("no_rope_layers", [int((i + 1) % every != 0) for i in range(layers)])
    types = llama_like.layer_types(published, lambda i: size is not None and not turned[i])
    position = rotary(published, theta=2e6)

    def layer(kind: tuple[bool, str]) -> dict[str, Any]:
        has_positions, its = kind
        window = llama_like.window(size if its == "sliding_attention" else None)
        attention = GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=window)
        return {"attention": attention, "position": position if has_positions else NoPositions()}

    return ModelConfig(
        **llama_like.base(published, tied=True),
        **llama_like.by_layer(list(zip(map(bool, turned), types, strict=True)), layer),
        ffn=llama_like.gated(published, bias=published.get("mlp_bias", False)),
    )


FAMILY = Family(
    name="smollm3",
    model_types=("smollm3",),
    architecture="SmolLM3ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
