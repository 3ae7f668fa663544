"""OLMoE: 64 small experts in every layer, weights of chosen experts not renormalised, norms on queries and keys.

Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models".
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.families import llama_like
from model.families.family import Family
from model.families.published import Published
from model.families.rotary import rotary
from model.feedforward.experts import Experts
from model.feedforward.routing import SoftmaxRouter


def config(published: Published) -> ModelConfig:
    """Returns the model that a config.json describes."""
    published.only("clip_qkv", None)
    published.unused("router_aux_loss_coef")
    base, bias = llama_like.base(published, epsilon=1e-5), published.get("attention_bias", False)
    return ModelConfig(
        **base,
        position=rotary(published),
        mixer=GroupedQuery(
            **llama_like.heads(published),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=QKNorm(norm=base["norm"], over="projection"),
        ),
        ffn=Experts(
            num_experts=published.get("num_experts", 64),
            top_k=published.get("num_experts_per_tok", 8),
            expert=llama_like.gated(published),
            router=SoftmaxRouter(renormalize=published.get("norm_topk_prob", False)),
        ),
    )


FAMILY = Family(
    name="olmoe",
    model_types=("olmoe",),
    architecture="OlmoeForCausalLM",
    config=config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        *llama_like.PROJECTION_NORMS,
        *llama_like.EXPERTS,
    ),
    buffers=llama_like.BUFFERS,
)
