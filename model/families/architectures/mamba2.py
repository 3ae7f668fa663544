"""Mamba-2: state-space layers alone, without attention and without feed-forward layers.

Dao, Gu 2024, "Transformers are SSMs", section 7; Mistral AI 2024, "Codestral Mamba".
"""

from model.config import ModelConfig
from model.families import llama_like
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.families.weights import Weight
from model.norms import RMSNorm
from model.positions.absolute import NoPositions
from model.recurrent.state_space import StateSpace

CONTEXT_LENGTH = 2048  # of the paper's models; config.json has no such value, because a state has no length


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model of a config.json; without `max_position_embeddings` its context is 2048 tokens."""
    width, norm = config_json.get("hidden_size", 4096), RMSNorm(epsilon=config_json.get("layer_norm_epsilon", 1e-5))
    head_dim, inner = config_json.get("head_dim", 64), int(config_json.get("expand", 2) * width)
    heads = config_json.get("num_heads", inner // head_dim)
    if heads * head_dim != inner:
        raise config_json.refusal("num_heads", f"with head_dim={head_dim} it must make expand * hidden_size = {inner}")
    refuse_other_functions(config_json)
    # Older files name these values, which no release of the library computes with.
    config_json.ignore("intermediate_size", "norm_before_gate", "rms_norm", "use_mem_eff_path")
    # These are for the start of training, for precision and for speed.
    config_json.ignore("rescale_prenorm_residual", "residual_in_fp32", "chunk_size")
    config_json.ignore("time_step_rank", "time_step_min", "time_step_max", "time_step_floor")
    config_json.ignore("time_step_init_scheme", "time_step_scale")
    return ModelConfig(
        vocab_size=config_json.get("vocab_size", 32768),
        context_length=config_json.get("max_position_embeddings", CONTEXT_LENGTH),
        num_layers=config_json.get("num_hidden_layers", 64),
        width=width,
        position=NoPositions(),
        mixer=StateSpace(
            num_heads=heads,
            num_groups=config_json.get("n_groups", 8),
            head_dim=head_dim,
            state_dim=config_json.get("state_size", 128),
            convolution=config_json.get("conv_kernel", 4),
            convolution_bias=config_json.get("use_conv_bias", True),
            bias=config_json.get("use_bias", False),
            output_norm=norm,
        ),
        ffn=None,
        norm=norm,
        unembedding=llama_like.unembedding(config_json),
    )


def refuse_other_functions(config_json: ConfigJson) -> None:
    """Refuses activations other than SiLU, and limits on the step: the library applies them only to some tokens."""
    config_json.require("hidden_act", "silu", "swish")
    low, high = (_number(limit) for limit in config_json.get("time_step_limit", (0.0, float("inf"))))
    if low > 0 or high < float("inf"):
        raise config_json.refusal("time_step_limit", "expected [0, Infinity], which limits nothing")


def _number(value: object) -> float:
    """Returns a number of a config.json; newer files write infinity as an object."""
    return float(value["__float__"] if isinstance(value, dict) else value)  # type: ignore[arg-type]


def mixer_weights(at: str) -> tuple[Weight, ...]:
    """Returns the table of a state-space mixer; `at` is the beginning of the names of its tensors."""
    inputs, taps = at + "in_proj.", at + "conv1d."
    return (
        Weight("blocks.mixer.gate", inputs + "weight", "+(n p) d -> d n p"),
        Weight("blocks.mixer.value", inputs + "weight", "+(n p) d -> d n p"),
        Weight("blocks.mixer.key", inputs + "weight", "+(g h) d -> d g h"),
        Weight("blocks.mixer.query", inputs + "weight", "+(g h) d -> d g h"),
        Weight("blocks.mixer.step", inputs + "weight", "+n d -> d n"),
        Weight("blocks.mixer.gate_projection_bias", inputs + "bias", "+(n p) -> n p"),
        Weight("blocks.mixer.value_projection_bias", inputs + "bias", "+(n p) -> n p"),
        Weight("blocks.mixer.key_projection_bias", inputs + "bias", "+(g h) -> g h"),
        Weight("blocks.mixer.query_projection_bias", inputs + "bias", "+(g h) -> g h"),
        Weight("blocks.mixer.step_projection_bias", inputs + "bias", "+n -> n"),
        Weight("blocks.mixer.value_filter", taps + "weight", "+(n p) 1 ~j -> j n p"),
        Weight("blocks.mixer.key_filter", taps + "weight", "+(g h) 1 ~j -> j g h"),
        Weight("blocks.mixer.query_filter", taps + "weight", "+(g h) 1 ~j -> j g h"),
        Weight("blocks.mixer.value_bias", taps + "bias", "+(n p) -> n p"),
        Weight("blocks.mixer.key_bias", taps + "bias", "+(g h) -> g h"),
        Weight("blocks.mixer.query_bias", taps + "bias", "+(g h) -> g h"),
        Weight("blocks.mixer.decay_rate", at + "A_log"),
        Weight("blocks.mixer.decay_bias", at + "dt_bias"),
        Weight("blocks.mixer.skip", at + "D"),
        Weight("blocks.mixer.output_norm.scale", at + "norm.weight", "(g r p) -> g r p"),
        Weight("blocks.mixer.output", at + "out_proj.weight", "d (n p) -> n p d"),
        Weight("blocks.mixer.output_bias", at + "out_proj.bias", "d -> d"),
    )


FAMILY = Family(
    name="mamba2",
    model_types=("mamba2",),
    architecture="Mamba2ForCausalLM",
    read_config=read_config,
    weights=(
        Weight("embedding.table", "backbone.embeddings.weight"),
        Weight("blocks.residual.mixer_norm.scale", "backbone.layers.{layer}.norm.weight"),
        *mixer_weights("backbone.layers.{layer}.mixer."),
        Weight("final_norm.scale", "backbone.norm_f.weight"),
        Weight("embedding.output", "lm_head.weight", "v d -> d v"),
        Weight("embedding.table", "lm_head.weight", copy=True),
    ),
    prefix="backbone.",
)
