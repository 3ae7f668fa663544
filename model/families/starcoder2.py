"""StarCoder 2: a plain MLP, LayerNorm and biases, with rotary positions, few key heads and a window.

Lozhkov et al. 2024, "StarCoder 2 and The Stack v2: The Next Generation".
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
from model.feedforward import MLP
from model.norms import LayerNorm


def config(published: Published) -> ModelConfig:
    """The model of a config.json."""
    published.only("norm_type", "layer_norm")
    published.only("mlp_type", "default")
    bias, window = published.get("use_bias", True), llama_like.window(published.get("sliding_window", None))
    base = llama_like.base(published, tied=True)
    added = published.dropout(embedding="embedding_dropout", residual="residual_dropout")
    return ModelConfig(
        **base
        | {
            "norm": LayerNorm(epsilon=published.get("norm_epsilon", 1e-5)),
            "dropout": dataclasses.replace(added, attention=base["dropout"].attention),
        },
        position=rotary(published),
        attention=GroupedQuery(
            **llama_like.heads(published, num_kv_heads=2), qkv_bias=bias, output_bias=bias, pattern=window
        ),
        ffn=MLP(
            width=published.get("intermediate_size"),
            activation=published.activation("hidden_act", "gelu_pytorch_tanh"),
            bias=bias,
        ),
    )


FAMILY = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    architecture="Starcoder2ForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        Weight("final_norm.bias", "model.norm.bias"),
        *llama_like.PRE_NORMS,
        Weight("blocks.attention_norm.bias", LAYER + "input_layernorm.bias"),
        Weight("blocks.ffn_norm.bias", LAYER + "post_attention_layernorm.bias"),
        *llama_like.ATTENTION,
        Weight("blocks.ffn.up", LAYER + "mlp.c_fc.weight", "f d -> d f"),
        Weight("blocks.ffn.up_bias", LAYER + "mlp.c_fc.bias"),
        Weight("blocks.ffn.down", LAYER + "mlp.c_proj.weight", "d f -> f d"),
        Weight("blocks.ffn.down_bias", LAYER + "mlp.c_proj.bias"),
    ),
    buffers=llama_like.BUFFERS,
)
