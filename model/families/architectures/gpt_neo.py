"""GPT-Neo and TinyStories: GPT-2 with windows in every second layer and attention scores without a scale.

Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow"; Eldan, Li 2023,
"TinyStories".
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families import llama_like
from model.families.architectures import gpt2
from model.families.architectures.gpt2 import LAYER
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.positions.absolute import Learned


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    if config_json.get("rotary", False):  # the class of GPT-Neo in `transformers` would ignore it
        why = "this is GPT-J as of early 2021; download its present files, of model_type gptj"
        raise config_json.refusal("rotary", why, another_model=True)
    config_json.ignore("classifier_dropout", *llama_like.SUMMARY_KEYS)
    width, heads = config_json.get("hidden_size", 2048), config_json.get("num_heads", 16)
    window = config_json.get("window_size", 256)

    def layer(kind: str) -> dict[str, Any]:
        pattern = llama_like.window_pattern(window if kind == "local" else None)
        return {"mixer": GroupedQuery(num_heads=heads, output_bias=True, scale=1.0, pattern=pattern)}

    return ModelConfig(
        **llama_like.by_layer(_kinds(config_json), layer),
        vocab_size=config_json.get("vocab_size", 50257),
        context_length=config_json.get("max_position_embeddings", 2048),
        num_layers=config_json.get("num_layers", 24),
        width=width,
        position=Learned(),
        ffn=MLP(
            width=config_json.get("intermediate_size", 4 * width),
            activation=config_json.activation("activation_function", "gelu_new"),
            bias=True,
        ),
        norm=LayerNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5)),
        unembedding=llama_like.unembedding(config_json, tied=True),
        dropout=config_json.dropout(embedding="embed_dropout", attention="attention_dropout", residual="resid_dropout"),
    )


def _kinds(config_json: ConfigJson) -> list[str]:
    """Returns "global" or "local" for every layer, from `attention_layers` where a file has it, else from the types."""
    types = config_json.get("attention_types", [[["global", "local"], 12]])
    kinds: list[str] = config_json.get("attention_layers", [kind for kinds, times in types for kind in times * kinds])
    layers, key = config_json.get("num_layers", 24), "attention_layers"
    if config_json.get(key, None) is None:
        key = "attention_types"
    if len(kinds) != layers:
        raise config_json.refusal(key, f"it names {len(kinds)} layers, and the model has {layers}")
    if set(kinds) - {"global", "local"}:
        raise config_json.refusal(key, "expected global or local for each layer")
    return kinds


FAMILY = Family(
    name="gpt_neo",
    model_types=("gpt_neo",),
    architecture="GPTNeoForCausalLM",
    read_config=read_config,
    weights=(
        *gpt2.EMBEDDING,
        *gpt2.UNEMBEDDING,
        *gpt2.MIXER_NORM,
        Weight("blocks.mixer.query", LAYER + "attn.attention.q_proj.weight", "(n h) d -> d n h"),
        Weight("blocks.mixer.key", LAYER + "attn.attention.k_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.value", LAYER + "attn.attention.v_proj.weight", "(k h) d -> d k h"),
        Weight("blocks.mixer.output", LAYER + "attn.attention.out_proj.weight", "d (n h) -> n h d"),
        Weight("blocks.mixer.output_bias", LAYER + "attn.attention.out_proj.bias"),
        *gpt2.FFN_NORM,
        *gpt2.LINEAR_FEED_FORWARD,
    ),
    prefix="transformer.",
    buffers=("*h.*.attn.attention.bias", "*h.*.attn.attention.masked_bias"),
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)
