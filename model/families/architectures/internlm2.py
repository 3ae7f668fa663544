"""InternLM 2 and 2.5: LLaMA with queries, keys and values fused key head by key head.

Cai et al. 2024, "InternLM2 Technical Report", section 2.2. `transformers` has no class for it: the equations are those
of the modelling code published with the weights.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes; heads are as wide as model width / heads."""
    bias, heads = config_json.get("bias", True), config_json.get("num_attention_heads")
    return ModelConfig(
        **llama_like.base(config_json),
        position=rotary(config_json),
        mixer=GroupedQuery(
            num_heads=heads,
            num_kv_heads=config_json.get("num_key_value_heads", heads),
            qkv_bias=bias,
            output_bias=bias,
        ),
        ffn=llama_like.gated_ffn(config_json),
    )


ATTENTION, FEED_FORWARD = LAYER + "attention.", LAYER + "feed_forward."

FAMILY = Family(
    name="internlm2",
    model_types=("internlm2",),
    architecture="InternLM2ForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "model.tok_embeddings.weight"),
        Weight("final_norm.scale", "model.norm.weight"),
        Weight("embedding.output", "output.weight", "v d -> d v"),
        Weight("embedding.table", "output.weight", copy=True),
        Weight("blocks.residual.mixer_norm.scale", LAYER + "attention_norm.weight"),
        Weight("blocks.residual.ffn_norm.scale", LAYER + "ffn_norm.weight"),
        Weight("blocks.mixer.query", ATTENTION + "wqkv.weight", "(n +h) d -> d n h"),
        Weight("blocks.mixer.key", ATTENTION + "wqkv.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.value", ATTENTION + "wqkv.weight", "(k +h) d -> d k h"),
        Weight("blocks.mixer.query_bias", ATTENTION + "wqkv.bias", "(n +h) -> n h"),
        Weight("blocks.mixer.key_bias", ATTENTION + "wqkv.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.value_bias", ATTENTION + "wqkv.bias", "(k +h) -> k h"),
        Weight("blocks.mixer.output", ATTENTION + "wo.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", ATTENTION + "wo.bias"),
        Weight("blocks.ffn.gate", FEED_FORWARD + "w1.weight", "f d -> d f"),
        Weight("blocks.ffn.up", FEED_FORWARD + "w3.weight", "f d -> d f"),
        Weight("blocks.ffn.down", FEED_FORWARD + "w2.weight", "d f -> f d"),
    ),
    buffers=llama_like.BUFFERS,
    in_transformers=False,
)
