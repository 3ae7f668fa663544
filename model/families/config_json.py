"""Reading a published config.json so that no value that could change a number is silently ignored.

Every key that a family's config function reads is marked as read. What happens to the other keys:

- A key that changes no number in any model (`IRRELEVANT`), and a value that switches nothing on (null, false, 0, an
  empty list), are ignored.
- A key that the code of all models in `transformers` reads (`SHARED`) is refused, unless its value is the inert one.
- Any other key is read by no released class of that model: it is ignored, and the reading names it. The test
  tests/model/families/test_keys.py proves this: it compares the keys that a family reads with the keys that its class
  reads. The code of a model that has no class in `transformers`, and modelling code that belongs to the file
  (`auto_map`), may read any key, so there these keys are refused.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from model.dropout import Dropout
from model.errors import UserError
from model.feedforward.mlp import Activation
from model.options.words import cut, format_value

REQUIRED: Any = object()
MEND = "correct it or download the file again"

# Keys about how a model was made, stored, run or sampled from, not about its computation.
_IRRELEVANT_KEYS = """
_name_or_path architectures auto_map dtype gradient_checkpointing initializer_range model_type pretraining_tp
torch_dtype torchscript transformers_version use_bfloat16
_attn_implementation _attn_implementation_autoset attn_implementation cache_implementation chunk_size_feed_forward
output_attentions output_hidden_states output_past output_router_logits return_dict use_cache
bos_token_id eos_token_id forced_bos_token_id forced_eos_token_id pad_token_id prefix sep_token_id task_specific_params
tokenizer_class
bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
exponential_decay_length_penalty length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
return_dict_in_generate
suppress_tokens temperature top_k top_p typical_p
_num_labels finetuning_task id2label is_decoder is_encoder_decoder label2id num_labels problem_type
"""
IRRELEVANT = frozenset(_IRRELEVANT_KEYS.split())

# Keys that the code of all models reads, and their values that change no number. A family may read them itself.
SHARED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (),
    "attention_chunk_size": (),
    "cross_attention_hidden_size": (),
    "is_causal": (True,),
    "is_encoder_decoder": (),
    "kv_sharing_modes": (),
    "layer_types": ("full_attention",),
    "num_kv_shared_layers": (),
    "per_layer_config": (),
    "pruned_heads": (),
    "sliding_window": (),
    "tie_encoder_decoder": (),
}

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "linear": "identity",
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


class Log:
    """What happened to the keys of a config.json, by their paths.

    Attributes:
      read: the keys that the family read.
      ignored: the keys among them that it named without reading; what is in their objects is ignored too.
      refused: the value of a refused key, and why it is refused, in the order of reading.
      objects: the objects in the file that the family read, by the path of their keys.
      last: the key that was read last with its value, for messages.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.read: set[str] = set()
        self.ignored: set[str] = set()
        self.refused: dict[str, tuple[Any, str]] = {}
        self.objects: dict[str, Mapping[str, Any]] = {}
        self.last: tuple[str, Any] = ("", None)


class ConfigJson:
    """The values of a config.json, or of an object in it."""

    def __init__(self, values: Mapping[str, Any], path: str = "", log: Log | None = None) -> None:
        """Args: the values, the path of the object that holds them, and the log of the whole file."""
        self._values, self._path = values, path
        self.log = Log() if log is None else log
        if path.removesuffix(".") not in self.log.ignored:
            self.log.objects[path] = values

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Returns a value, or the default where it is missing or null; a value without a default is a number.

        Raises UserError where there is no value and no default, and for a value of another kind than the default.
        """
        value = self.get_or_null(key, None)
        if value is None and default is REQUIRED:
            raise self._missing(key)
        if value is not None and (kind := _expected_kind(value, default)) is not None:
            raise self._of_another_kind(key, kind)
        return default if value is None else value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of numbers. Raises UserError where it is missing or anything else."""
        values = self.get_or_null(key, None)
        if values is None:
            raise self._missing(key)
        if not isinstance(values, list | tuple) or not all(_is_number(value) for value in values):
            raise self._of_another_kind(key, "a list of numbers")
        return tuple(map(float, values))

    def get_or_null(self, key: str, default: Any) -> Any:
        """Returns a value, None where it is null, or the default where it is missing."""
        self.log.read.add(self._path + key)
        value = self._values.get(key, default)
        self.log.last = self._path + key, value
        return value

    def ignore(self, *keys: str) -> None:
        """Marks values as read that follow from others, or matter only in training, which has its own options."""
        paths = {self._path + key for key in keys}
        self.log.read |= paths
        self.log.ignored |= paths
        for path in paths:
            self.log.objects.pop(path + ".", None)

    def require(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """Refuses a value that is not one of `allowed`; a missing value counts as the default, or else as the first."""
        value = self.get_or_null(key, None)
        if value is None:
            value = allowed[0] if default is REQUIRED else default
        if value not in allowed:
            self._refuse(key, f"expected {' or '.join(map(as_json, allowed))}")

    def lookup(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """Returns the choice that a word stands for. Raises UserError for an unknown word."""
        word = self.get(key, default)
        if word not in choices:
            raise self.refusal(key, f"expected one of {', '.join(choices)}")
        return choices[word]

    def activation(self, key: str, default: str) -> Activation:
        """Returns the activation that a name stands for."""
        name: Activation = self.lookup(key, ACTIVATIONS, default)
        return name

    def dropout(self, default: float = 0.0, **keys: str) -> Dropout:
        """Returns the dropout rates: `keys` maps each field of `Dropout` to its key; a missing rate is the default."""
        return Dropout(**{name: float(self.get(key, default)) for name, key in keys.items()})

    def sub_object(self, key: str, *, required: bool = False) -> "ConfigJson":
        """Returns the values of an object inside this one; where it is missing, no values, or UserError if required."""
        if required and self.get_or_null(key, None) is None:
            raise self._missing(key)
        return ConfigJson(self.get(key, {}), f"{self._path}{key}.", self.log)

    def refusal(self, key: str, why: str, *, another_model: bool = False) -> UserError:
        """Returns the error for a value that is not supported; a sign of another model cannot be accepted away."""
        if another_model:
            return UserError(f"config.json: {self._path}{key}={as_json(self._values.get(key))}: {why}")
        self._refuse(key, why)
        return refused(self.log)

    def _refuse(self, key: str, why: str) -> None:
        self.log.refused[self._path + key] = self._values.get(key), why

    def _missing(self, key: str) -> UserError:
        return UserError(f"config.json has no value for {self._path}{key}; add it, or download the file again")

    def _of_another_kind(self, key: str, kind: str) -> UserError:
        value = as_json(self._values[key])
        return UserError(f"config.json: {self._path}{key}={value}, expected {kind}; {MEND}")

    def finish(self, *, refuse_unknown: bool) -> dict[str, Any]:
        """Returns the ignored values that are not inert, by path. Raises UserError that names all refused values.

        `refuse_unknown` says that some code, which is not in `transformers`, may read any key.
        """
        ignored = {}
        for path, key, value in self._unread():
            if key in SHARED and not _is_inert(key, value):
                self.log.refused[path] = value, " or ".join(["expected null", *map(as_json, SHARED[key])])
            elif path != key and isinstance(value, Mapping):
                self.log.refused[path] = value, "expected no object"
            elif key not in SHARED and refuse_unknown and value:
                self.log.refused[path] = value, "unknown to this family, and the model's own code may read it"
            elif value and key not in SHARED:
                ignored[path] = value
        if self.log.refused:
            raise refused(self.log)
        return ignored

    def _unread(self) -> Iterator[tuple[str, str, Any]]:
        """Yields path, key and value of every value that nobody read and that may matter."""
        for path, values in self.log.objects.items():
            for key, value in values.items():
                if value is not None and path + key not in self.log.read and key not in IRRELEVANT:
                    yield path + key, key, value


def _is_inert(key: str, value: Any) -> bool:
    """Returns whether a value of a key of `SHARED` changes no number; a list does if all its elements do."""
    if not SHARED[key]:
        return not value
    return all(one in SHARED[key] for one in (value if isinstance(value, list) else [value]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected_kind(value: Any, default: Any) -> str | None:
    """Returns the kind of value that the default shows to be right; None where the value is of that kind."""
    if isinstance(default, bool):  # some files have 0 and 1
        return None if value in (True, False) else "true or false"
    if default is REQUIRED or _is_number(default):
        return None if _is_number(value) else "a number"
    if isinstance(default, str):  # in some families a number may stand in the place of a word
        return "text" if isinstance(value, list | Mapping) else None
    if isinstance(default, Mapping):
        return None if isinstance(value, Mapping) else "an object"
    if isinstance(default, Collection):
        return None if isinstance(value, list | tuple) else "a list"
    return None


def as_json(value: Any) -> str:
    """Formats a value as config.json writes it, shortened if it is long."""
    try:
        return cut(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):  # Python writes no whole number of more than 4,300 digits
        return format_value(value)


def refused(log: Log) -> UserError:
    """Returns the error that names all values that were refused so far."""
    found = [(f"{path}={as_json(value)}", why) for path, (value, why) in log.refused.items()]
    flags = " ".join(f"--accept={path}" for path in log.refused)
    if len(found) == 1:
        ((value, why),) = found
        text, it, key = f"{value} is not supported: {why}", "it", "the key"
    else:
        text = "\n  ".join(["these values are not supported:", *(f"{value}: {why}" for value, why in found)])
        it, key = "them", "these keys"
    mend = f"{flags} reads the file as if it did not have {key}; right only if the model computes the same without {it}"
    return UserError(f"config.json: {text}\n{mend}")
