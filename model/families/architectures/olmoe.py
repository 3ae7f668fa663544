"""OLMoE: 64 small experts in every layer, weights of chosen experts not renormalised, norms on queries and keys.

A variant limits the entries of queries, keys and values (`clip_qkv`). Muennighoff et al. 2024, "OLMoE: Open
Mixture-of-Experts Language Models".
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.rotary import rotary
from model.feedforward.experts import Experts
from model.feedforward.routing import SoftmaxRouter


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    config_json.ignore("router_aux_loss_coef")
    base, bias = llama_like.base(config_json, epsilon=1e-5), config_json.get("attention_bias", False)
    return ModelConfig(
        **base,
        position=rotary(config_json),
        mixer=GroupedQuery(
            **llama_like.heads(config_json),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"], over="projection"),
            qkv_clip=config_json.get("clip_qkv", None),
        ),
        ffn=Experts(
            num_experts=config_json.get("num_experts", 64),
            top_k=config_json.get("num_experts_per_tok", 8),
            expert=llama_like.gated_ffn(config_json),
            router=SoftmaxRouter(renormalize=config_json.get("norm_topk_prob", False)),
        ),
    )


FAMILY = Family(
    name="olmoe",
    model_types=("olmoe",),
    architecture="OlmoeForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.PROJECTION_NORMS,
        *llama_like.EXPERTS,
    ),
    buffers=llama_like.BUFFERS,
    aliases={"num_local_experts": "num_experts"},
)
