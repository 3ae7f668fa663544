"""StarCoder2: rotary positions, LayerNorm, a plain feed-forward layer, biases everywhere, a sliding window.

Lozhkov et al. 2024, "StarCoder 2 and The Stack v2: The Next Generation", section 6.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.published import Published
from model.families.rotary import context_length, rotary
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    published.only("norm_type", "layer_norm")
    published.only("mlp_type", "default")
    published.only("scale_attn_weights", True)
    # Older names: hidden_act and norm_epsilon count in their place.
    published.unused("activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    epsilon, bias = published.get("norm_epsilon", 1e-5), published.get("use_bias", True)
    published.only("layer_norm_epsilon", epsilon)
    window = llama_like.window(published.get("sliding_window", None))
    return ModelConfig(
        **llama_like.size(published),
        context_length=context_length(published),
        position=rotary(published),
        mixer=GroupedQuery(
            **llama_like.heads(published, num_kv_heads=2), qkv_bias=bias, output_bias=bias, pattern=window
        ),
        ffn=MLP(
            width=published.get("intermediate_size"),
            activation=published.activation("hidden_act", "gelu_pytorch_tanh"),
            bias=bias,
        ),
        norm=LayerNorm(epsilon=epsilon),
        unembedding=llama_like.unembedding(published, tied=True),
        dropout=published.dropout(
            embedding="embedding_dropout", attention="attention_dropout", residual="residual_dropout"
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
