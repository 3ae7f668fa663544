"""Phi-3, 3.5 and 4: LLaMA with queries, keys and values in one matrix, gate and up in another, and LongRoPE.

Abdin et al. 2024, "Phi-3 Technical Report".
"""

import dataclasses

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight


def config(published: Published) -> ModelConfig:
    """The model of a config.json."""
    published.unused("original_max_position_embeddings")  # where no scaling asks for it
    published.only("attention_bias", False)
    window = llama_like.window(published.get("sliding_window", None))
    base = llama_like.base(published, epsilon=1e-5)
    added = published.dropout(embedding="embd_pdrop", residual="resid_pdrop")
    return ModelConfig(
        **base | {"dropout": dataclasses.replace(added, attention=base["dropout"].attention)},
        position=rotary(published),
        attention=GroupedQuery(**llama_like.heads(published), pattern=window),
        ffn=llama_like.gated(published),
    )


FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    architecture="Phi3ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        Weight("blocks.attention.query", LAYER + "self_attn.qkv_proj.weight", "+(n h) d -> d n h"),
        Weight("blocks.attention.key", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.attention.value", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.attention.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
        *llama_like.FUSED_FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
