"""GLM-4 (0414): sandwich norms, rotary positions on half of each head, interleaved pairs, few key heads with biases.

GLM Team 2024, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools", section 2; the norms
after sublayers are those of the GLM-4-0414 models.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import rotary
from model.families.weights import Weight
from model.residual import Sandwich


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    return ModelConfig(
        **llama_like.base(published, epsilon=1.5625e-7),
        position=rotary(published, fraction=0.5, interleaved=True),
        mixer=GroupedQuery(
            **llama_like.heads(published, num_kv_heads=2, head_dim=128),
            qkv_bias=published.get("attention_bias", True),
        ),
        ffn=llama_like.gated(published),
        residual=Sandwich(),
    )


FAMILY = Family(
    name="glm4",
    model_types=("glm4",),
    architecture="Glm4ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        Weight("blocks.residual.mixer_output_norm.scale", LAYER + "post_self_attn_layernorm.weight"),
        Weight("blocks.residual.ffn_output_norm.scale", LAYER + "post_mlp_layernorm.weight"),
        *llama_like.ATTENTION,
        *llama_like.FUSED_FEED_FORWARD,
    ),
    buffers=llama_like.BUFFERS,
)
