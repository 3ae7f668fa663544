"""GPT-1: norms after sublayers and none at the end, learned positions, biases, linear layers stored as in GPT-2.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 4.1.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import gpt2
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP, Activation
from model.norms import LayerNorm
from model.parameters.maker import Normal
from model.positions.absolute import Learned
from model.residual import PostNorm

# In GPT-1's code "gelu" is the tanh approximation, which later got a name of its own.
ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.require("n_special", 0)
    config_json.require("predict_special_tokens", True)
    config_json.ignore("n_ctx", *llama_like.SUMMARY_KEYS)
    width = config_json.get("n_embd", 768)
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 40478),
        context_length=config_json.get("n_positions", 512),
        num_layers=config_json.get("n_layer", 12),
        width=width,
        position=Learned(),
        mixer=GroupedQuery(num_heads=config_json.get("n_head", 12), qkv_bias=True, output_bias=True),
        ffn=MLP(width=4 * width, activation=config_json.lookup("afn", ACTIVATIONS, "gelu"), bias=True),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        residual=PostNorm(),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(0.1, embedding="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop"),
        initialization=Normal(scale_residual=False),
    )


FAMILY = Family(
    name="gpt1",
    model_types=("openai-gpt",),
    architecture="OpenAIGPTLMHeadModel",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "transformer.tokens_embed.weight"),
        Weight("position.table", "transformer.positions_embed.weight"),
        *gpt2.WEIGHTS,
    ),
    prefix="transformer.",
    aliases=gpt2.ALIASES,
    buffers=("*h.*.attn.bias", "*position_ids"),
)
