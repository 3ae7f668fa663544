"""Cohere 2 (Command R7B, Command A): three local layers with rotary positions to a global one without any.

Cohere 2025, "Command A". Attention and feed-forward stand side by side behind one LayerNorm without biases.
"""

from typing import Any

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight
from model.norms import LayerNorm
from model.positions import NoPositions
from model.residual import Multipliers, Parallel


def config(published: Published) -> ModelConfig:
    """The model of a config.json."""
    for key in ("use_embedding_sharing", "use_gated_activation", "use_parallel_block"):
        published.only(key, True)
    published.only("use_qk_norm", False)
    published.only("rotary_pct", 1.0)
    published.only("position_embedding_type", "rope_gptj")
    published.only("order_of_interleaved_layers", "local_attn_first")
    published.unused("use_parallel_embedding", "layer_switch")
    every = published.get("sliding_window_pattern", published.get("_sliding_window_pattern", 4))
    heads, bias = llama_like.heads(published), published.get("attention_bias", False)
    size, turned = published.get("sliding_window", 4096), rotary(published, interleaved=True)

    def layer(kind: str) -> dict[str, Any]:
        local = kind == "sliding_attention"
        window = llama_like.window(size if local else None)
        attention = GroupedQuery(**heads, qkv_bias=bias, output_bias=bias, pattern=window)
        return {"attention": attention, "position": turned if local else NoPositions()}

    return ModelConfig(
        **llama_like.base(published, tied=True)
        | {"norm": LayerNorm(epsilon=published.get("layer_norm_eps", 1e-5), bias=False)},
        **llama_like.by_layer(llama_like.layer_types(published, lambda i: (i + 1) % every != 0), layer),
        residual=Parallel(),
        multipliers=Multipliers(logits=published.get("logit_scale", 0.0625)),
        ffn=llama_like.gated(published),
    )


FAMILY = Family(
    name="cohere2",
    model_types=("cohere2",),
    architecture="Cohere2ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("blocks.attention_norm.scale", LAYER + "input_layernorm.weight"),
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
