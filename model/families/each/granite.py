"""Granite 3: LLaMA with constant factors on embeddings, sublayers, attention scores and logits.

Granite Team, IBM 2024, "Granite 3.0 Language Models", section 2.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary
from model.residual import Multipliers


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    bias = published.get("attention_bias", False)
    return ModelConfig(
        **llama_like.base(published),
        position=rotary(published),
        mixer=GroupedQuery(
            **llama_like.heads(published),
            qkv_bias=bias,
            output_bias=bias,
            scale=float(published.get("attention_multiplier", 1.0)),
        ),
        ffn=llama_like.gated(published, bias=published.get("mlp_bias", False)),
        multipliers=Multipliers(
            embedding=float(published.get("embedding_multiplier", 1.0)),
            residual=float(published.get("residual_multiplier", 1.0)),
            logits=1 / published.get("logits_scaling", 1.0),
        ),
    )


FAMILY = Family(
    name="granite",
    model_types=("granite",),
    architecture="GraniteForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
