"""OLMo 2: norms on the outputs of sublayers, and on all queries and all keys of a layer as one vector each.

OLMo et al. 2025, "2 OLMo 2 Furious".
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary
from model.residual import Reordered


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base, bias = llama_like.base(published, epsilon=1e-5), published.get("attention_bias", False)
    return ModelConfig(
        **base,
        residual=Reordered(),
        position=rotary(published),
        mixer=GroupedQuery(
            **llama_like.heads(published),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"], over="projection"),
        ),
        ffn=llama_like.gated(published),
    )


FAMILY = Family(
    name="olmo2",
    model_types=("olmo2",),
    architecture="Olmo2ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.OUTPUT_NORMS,
        *llama_like.ATTENTION,
        *llama_like.PROJECTION_NORMS,
        *llama_like.FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
