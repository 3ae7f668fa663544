"""GLM-4 (0414): sandwich norms, rotary positions on half of each head, interleaved pairs, few key heads with biases.

GLM Team 2024, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools", section 2; the norms
after sublayers are those of the GLM-4-0414 models.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.residual import Sandwich


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    return ModelConfig(
        **llama_like.base(config_json, epsilon=1.5625e-7),
        position=rotary(config_json, fraction=0.5, interleaved=True),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=2, head_dim=128),
            qkv_bias=config_json.get("attention_bias", True),
        ),
        ffn=llama_like.gated_ffn(config_json),
        residual=Sandwich(),
    )


FAMILY = Family(
    name="glm4",
    model_types=("glm4",),
    architecture="Glm4ForCausalLM",
    read_config=read_config,
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
