"""StarCoder2: rotary positions, LayerNorm, a plain feed-forward layer, biases everywhere, a sliding window.

Lozhkov et al. 2024, "StarCoder 2 and The Stack v2: The Next Generation", section 6.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("norm_type", "layer_norm")
    config_json.require("mlp_type", "default")
    config_json.require("scale_attn_weights", True)
    # Older names: hidden_act and norm_epsilon count in their place.
    config_json.ignore("activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    epsilon, bias = config_json.get("norm_epsilon", 1e-5), config_json.get("use_bias", True)
    config_json.require("layer_norm_epsilon", epsilon)
    window = llama_like.window_pattern(config_json.get("sliding_window", None))
    return ModelConfig(
        **llama_like.dimensions(config_json),
        context_length=context_length(config_json),
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json, num_kv_heads=2), qkv_bias=bias, output_bias=bias, pattern=window
        ),
        ffn=MLP(
            width=config_json.get("intermediate_size"),
            activation=config_json.activation("hidden_act", "gelu_pytorch_tanh"),
            bias=bias,
        ),
        norm=LayerNorm(epsilon=epsilon),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(
            embedding="embedding_dropout", attention="attention_dropout", residual="residual_dropout"
        ),
    )


FAMILY = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    architecture="Starcoder2ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("final_norm.bias", "model.norm.bias"),
        *llama_like.PRE_NORMS,
        Weight("blocks.residual.mixer_norm.bias", LAYER + "input_layernorm.bias"),
        Weight("blocks.residual.ffn_norm.bias", LAYER + "post_attention_layernorm.bias"),
        *llama_like.ATTENTION,
        Weight("blocks.ffn.up", LAYER + "mlp.c_fc.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.c_fc.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.c_proj.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.c_proj.bias"),
    ),
    buffers=llama_like.BUFFERS,
)
