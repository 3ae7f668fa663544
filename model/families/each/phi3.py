"""Phi-3, Phi-3.5 and Phi-4: LLaMA with fused projections, a window in some sizes, and LongRoPE for long contexts.

Abdin et al. 2024, "Phi-3 Technical Report"; 2025, "Phi-4-Mini Technical Report".
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    for key in ("rope_scaling", "rope_parameters"):
        given = published.inner(key)
        if given.get("rope_type", given.get("type", None)) == "yarn":
            raise published.refusal(key, "early files use this name for LongRoPE; change the type to 'longrope'")
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        published.only(key, False)
    published.only("full_attn_mod", 1)
    published.only("interpolate_factor", 1)
    published.unused("original_max_position_embeddings")
    window = llama_like.window(published.get("sliding_window", None))
    base = llama_like.base(published, epsilon=1e-5)
    dropout = published.dropout(attention="attention_dropout", residual="resid_pdrop")
    published.unused("embd_pdrop")  # Phi-3's code never applies it
    return ModelConfig(
        **(base | {"dropout": dropout}),
        position=rotary(published),
        mixer=GroupedQuery(**llama_like.heads(published), pattern=window),
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
        Weight("blocks.mixer.query", LAYER + "self_attn.qkv_proj.weight", "+(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "self_attn.qkv_proj.weight", "+(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "self_attn.o_proj.weight", "d (n h) -> n h d"),
        *llama_like.FUSED_FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
