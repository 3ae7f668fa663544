"""Llama 4, the language model: chunked attention with rotary positions, global layers without positions, experts.

Meta AI 2025, "The Llama 4 herd" and the code released with it. Queries and keys are normalised after the rotation; in
layers without positions, a factor on the queries grows with the position.
"""

from typing import Any

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.patterns import Chunked, Everything
from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.llama_like import LAYER
from model.families.rotary import rotary
from model.families.weights import Weight
from model.feedforward.experts import Experts, Shared
from model.feedforward.routing import SigmoidRouter
from model.norms import RMSNorm
from model.positions.absolute import NoPositions
from model.positions.query_scale import LogTemperature

Kind = tuple[bool, bool, bool]  # whether a layer has rotary positions, chunked attention, experts


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    base = llama_like.base(config_json, epsilon=1e-5)
    heads, bias = llama_like.heads(config_json, num_kv_heads=8, head_dim=128), config_json.get("attention_bias", False)
    use_norm = config_json.get("use_qk_norm", True)
    norm = QKNorm(norm=RMSNorm(epsilon=base["norm"].epsilon, scale="none"), after_positions=True) if use_norm else None
    chunk = config_json.get_or_null("attention_chunk_size", 8192)
    local = Everything() if chunk is None else Chunked(size=chunk)
    positions, temperature = rotary(config_json, theta=5e5, interleaved=True), _temperature(config_json)
    dense, expert = llama_like.gated_ffn(config_json, width="intermediate_size_mlp"), llama_like.gated_ffn(config_json)
    experts = Experts(
        num_experts=config_json.get("num_local_experts", 16),
        top_k=config_json.get("num_experts_per_tok", 1),
        expert=expert,
        router=SigmoidRouter(renormalize=False),
        apply_weights_to="input",
        shared=Shared(ffn=expert),
    )
    config_json.ignore("router_aux_loss_coef", "router_jitter_noise", "for_llm_compressor")

    def layer(kind: Kind) -> dict[str, Any]:
        has_rope, chunked, sparse = kind
        attention = GroupedQuery(
            **heads,
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=norm if has_rope else None,
            temperature=None if has_rope else temperature,
            pattern=local if chunked else Everything(),
        )
        return {
            "position": positions if has_rope else NoPositions(),
            "mixer": attention,
            "ffn": experts if sparse else dense,
        }

    return ModelConfig(**base, **llama_like.by_layer(_kinds(config_json, base["num_layers"]), layer))


def _kinds(config_json: ConfigJson, layers: int) -> list[Kind]:
    """Returns the kind of every layer."""
    interval, step = config_json.get("no_rope_layer_interval", 4), config_json.get("interleave_moe_layer_step", 1)
    has_rope = config_json.get("no_rope_layers", []) or [(i + 1) % interval != 0 for i in range(layers)]
    sparse = config_json.get("moe_layers", range(step - 1, layers, step))
    types = config_json.get("layer_types", None) or [
        "chunked_attention" if has_rope[i] else "full_attention" for i in range(layers)
    ]
    if set(types) - {"chunked_attention", "full_attention"} or len(types) != layers:
        expected = f"expected chunked_attention or full_attention for each of {layers} layers"
        raise config_json.refusal("layer_types", expected)
    return [(bool(has_rope[i]), types[i] == "chunked_attention", i in sparse) for i in range(layers)]


def _temperature(config_json: ConfigJson) -> LogTemperature | None:
    """Returns the factor on queries; None where it is off, or where no sequence is long enough for it to change."""
    floor, scale = config_json.get("floor_scale", 8192), config_json.get("attn_scale", 0.1)
    is_on = config_json.get("attn_temperature_tuning", True) and scale != 0
    return (
        LogTemperature(step_length=floor, scale=scale)
        if is_on and floor <= config_json.get("max_position_embeddings")
        else None
    )


FAMILY = Family(
    name="llama4",
    model_types=("llama4_text",),
    architecture="Llama4ForCausalLM",
    read_config=read_config,
    weights=(
        *llama_like.EMBEDDING,
        *llama_like.PRE_NORMS,
        *llama_like.ATTENTION,
        Weight("blocks.ffn.router", LAYER + "feed_forward.router.weight", "e d -> d e"),
        Weight("blocks.ffn.gate", LAYER + "feed_forward.experts.gate_up_proj", "e d +f -> e d f"),
        Weight("blocks.ffn.up", LAYER + "feed_forward.experts.gate_up_proj", "e d +f -> e d f"),
        Weight("blocks.ffn.down", LAYER + "feed_forward.experts.down_proj", "e f d -> e f d"),
        Weight("blocks.ffn.shared.gate", LAYER + "feed_forward.shared_expert.gate_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.shared.up", LAYER + "feed_forward.shared_expert.up_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.shared.down", LAYER + "feed_forward.shared_expert.down_proj.weight", "d f -> f d"),
        Weight("blocks.ffn.gate", LAYER + "feed_forward.gate_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.up", LAYER + "feed_forward.up_proj.weight", "f d -> d f"),
        Weight("blocks.ffn.down", LAYER + "feed_forward.down_proj.weight", "d f -> f d"),
    ),
    buffers=llama_like.BUFFERS,
    experts_apart=True,
)
