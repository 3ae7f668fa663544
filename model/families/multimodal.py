"""Models of text and images whose language model belongs to a family here: their config.json and their tensors.

Such a config.json holds the values of the language model in `text_config`, or, in early files, beside the others, and
leaves out the values that are the defaults of its class in `transformers`. The tensors of the language model carry a
prefix; the other tensors are left out. On text alone, rotary positions of several axes (M-RoPE) are plain rotary
positions: all axes have the same position (tests/parity/multimodal_cases.py compares them).
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from model.families import quantization

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multimodal:
    """A published kind of model, known by its `model_type`.

    Attributes:
      model_type: its `model_type` in config.json.
      architecture: its class in `transformers`.
      text_types: the `model_type` of its `text_config`, mapped to that of the family; the first where it gives none.
      defaults: the values of the text class that a config.json may leave out, by the `model_type` of `text_config`;
        tests/model/families/test_multimodal.py compares them with the class.
      not_read: keys that the family reads and this text class does not.
      tied: whether the unembedding is tied where config.json does not say and the tensors are unknown.
      stacked_experts: whether a tensor holds a projection of all experts of a layer, inputs before outputs.
    """

    model_type: str
    architecture: str
    text_types: Mapping[str, str]
    defaults: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    not_read: tuple[str, ...] = ()
    tied: bool = False
    stacked_experts: bool = False


LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
MISTRAL = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
QWEN_2_VL = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
}
QWEN_2_VL_THETA, QWEN_3_VL_THETA = {"rope_theta": 1e6}, {"rope_theta": 5e5}
WINDOWS = ("layer_types", "max_window_layers", "sliding_window", "use_sliding_window")

MULTIMODAL = (
    Multimodal(
        model_type="gemma3",
        architecture="Gemma3ForConditionalGeneration",
        text_types={"gemma3_text": "gemma3_text"},
        defaults={
            "gemma3_text": {
                "vocab_size": 262208,
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "max_position_embeddings": 131072,
            }
        },
        tied=True,
    ),
    Multimodal(
        model_type="gemma4",
        architecture="Gemma4ForConditionalGeneration",
        text_types={"gemma4_text": "gemma4_text"},
        defaults={
            "gemma4_text": {
                "vocab_size": 262144,
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 30,
                "num_attention_heads": 8,
                "max_position_embeddings": 131072,
            }
        },
        tied=True,
    ),
    Multimodal(
        model_type="llama4",
        architecture="Llama4ForConditionalGeneration",
        text_types={"llama4_text": "llama4_text"},
        defaults={
            "llama4_text": {
                "vocab_size": 202048,
                "hidden_size": 5120,
                "intermediate_size": 8192,
                "intermediate_size_mlp": 16384,
                "num_hidden_layers": 48,
                "num_attention_heads": 40,
                "max_position_embeddings": 131072,
            }
        },
    ),
    Multimodal(
        model_type="llava",
        architecture="LlavaForConditionalGeneration",
        text_types={"llama": "llama", "mistral": "mistral", "qwen2": "qwen2"},
        defaults={"llama": LLAMA, "mistral": MISTRAL},
    ),
    Multimodal(
        model_type="mistral3",
        architecture="Mistral3ForConditionalGeneration",
        text_types={"mistral": "mistral", "ministral3": "ministral3"},
        defaults={"mistral": MISTRAL},
    ),
    *(
        Multimodal(
            model_type=f"qwen2{dot}_vl",
            architecture=f"Qwen2{dot}VLForConditionalGeneration".replace("_5VL", "_5_VL"),
            text_types={f"qwen2{dot}_vl_text": "qwen2"},
            defaults={f"qwen2{dot}_vl_text": QWEN_2_VL | QWEN_2_VL_THETA},
        )
        for dot in ("", "_5")
    ),
    Multimodal(
        model_type="qwen3_vl",
        architecture="Qwen3VLForConditionalGeneration",
        text_types={"qwen3_vl_text": "qwen3"},
        defaults={
            "qwen3_vl_text": {
                "vocab_size": 151936,
                "hidden_size": 4096,
                "intermediate_size": 22016,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "max_position_embeddings": 128000,
            }
            | QWEN_3_VL_THETA
        },
        not_read=WINDOWS,
    ),
    Multimodal(
        model_type="qwen3_vl_moe",
        architecture="Qwen3VLMoeForConditionalGeneration",
        text_types={"qwen3_vl_moe_text": "qwen3_moe"},
        defaults={
            "qwen3_vl_moe_text": {
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "max_position_embeddings": 128000,
                "moe_intermediate_size": 1408,
                "num_experts_per_tok": 4,
                "num_experts": 60,
            }
            | QWEN_3_VL_THETA
            | {"norm_topk_prob": True}  # whatever config.json says
        },
        not_read=(*WINDOWS, "norm_topk_prob"),
        stacked_experts=True,
    ),
)
# Keys of the whole model that are about its language model too.
OUTER_KEYS = (
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    *quantization.KEYS,
)


def text_type_of(kind: Multimodal, values: Values) -> str | None:
    """Returns the `model_type` of the `text_config`; None where it is unknown."""
    given = values.get("text_config")
    named = given.get("model_type") if isinstance(given, Mapping) else None
    text_type = next(iter(kind.text_types)) if named is None else named
    return text_type if text_type in kind.text_types else None


def text_values(
    kind: Multimodal,
    values: Values,
    text_type: str,
    aliases: Mapping[str, str],
    tensors: Collection[str] | None = None,
) -> dict[str, Any]:
    """Returns the values of the config.json of the language model.

    Args:
      kind: the multimodal model.
      values: the values of its config.json.
      text_type: what `text_type_of` says.
      aliases: the other names of keys in the language model's family.
      tensors: the names of the tensors beside the file, where they are known: they decide whether the unembedding is
        tied if config.json does not say, or says both.
    """
    given = values.get("text_config")
    text = dict(given) if isinstance(given, Mapping) else _without_images(values)
    text = {key: value for key, value in text.items() if key not in (*kind.not_read, "architectures")}
    named = {aliases.get(key, key) for key, value in text.items() if value is not None}
    outer = {key: values[key] for key in OUTER_KEYS if text.get(key) is None and values.get(key) is not None}
    defaults = {key: value for key, value in kind.defaults.get(text_type, {}).items() if key not in named}
    result = {**text, **outer, **defaults, "model_type": kind.text_types[text_type]}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(result.get(key), Mapping):
            result[key] = _one_axis(result[key])
    return result | {"tie_word_embeddings": _tied(kind, values, text, tensors)}


def _tied(kind: Multimodal, values: Values, text: Values, tensors: Collection[str] | None) -> bool:
    """Returns whether the unembedding is tied, also where config.json is silent or contradicts itself."""
    says = [one["tie_word_embeddings"] for one in (values, text) if one.get("tie_word_embeddings") is not None]
    if len(set(says)) == 1:
        return bool(says[0])
    if tensors is not None:
        return not any(name.endswith("lm_head.weight") for name in tensors)
    return bool(says[0]) if says else kind.tied


def _without_images(values: Values) -> dict[str, Any]:
    """Returns the values of a file without `text_config` that are not about images."""
    return {key: value for key, value in values.items() if not key.startswith(("image_", "video_", "vision_"))}


def _one_axis(rope: Values) -> dict[str, Any]:
    """Returns rotary parameters without what only concerns positions of several axes."""
    kept = {key: value for key, value in rope.items() if key not in ("mrope_section", "mrope_interleaved")}
    return {key: "default" if value == "mrope" else value for key, value in kept.items()}


# The prefixes of the language model's tensors, in the layouts of several releases, and the names that they stand for.
PREFIXES = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
# Early files of Qwen have no such prefix; these are the prefixes of their other tensors.
OTHERS = ("visual.", "model.visual.")


def text_names(names: Collection[str]) -> dict[str, str]:
    """Maps the names of the language model's tensors in files to their names in a file of the language model alone."""
    prefixed = {
        name: new + name.removeprefix(prefix)
        for name in names
        for prefix, new in PREFIXES.items()
        if name.startswith(prefix)
    }
    if prefixed:
        return prefixed | {name: name for name in names if name.startswith("lm_head.")}
    return {name: name for name in names if not name.startswith(OTHERS)}


def left_out_prefix(name: str) -> str:
    """Returns the part of a tensor's name under which the tensors that are left out are counted."""
    first, second, *_ = [*name.split("."), ""]
    return f"{first}.{second}" if first == "model" else first
