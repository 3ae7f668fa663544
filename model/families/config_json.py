"""Reading a published config.json so that no value in it is silently ignored.

Every value that a family reads is marked as read. A value that the family did not read is refused at the end, unless it
is null or is known to change no number (`IRRELEVANT`).
"""

from collections.abc import Mapping
from typing import Any

from model.dropout import Dropout
from model.errors import UserError
from model.feedforward.mlp import Activation
from model.options.words import nearest

REQUIRED: Any = object()

# Keys about how a model was made, stored, run or sampled from, not about its computation.
_IRRELEVANT_KEYS = """
_name_or_path architectures auto_map dtype gradient_checkpointing initializer_range model_type pretraining_tp
torch_dtype torchscript transformers_version use_bfloat16
_attn_implementation_autoset attn_implementation cache_implementation chunk_size_feed_forward output_attentions
output_hidden_states output_past output_router_logits return_dict use_cache
bos_token_id eos_token_id forced_bos_token_id forced_eos_token_id pad_token_id prefix sep_token_id task_specific_params
tokenizer_class
_num_labels finetuning_task id2label is_decoder is_encoder_decoder label2id num_labels problem_type
"""
IRRELEVANT = frozenset(_IRRELEVANT_KEYS.split())

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


class ConfigJson:
    """The values of a config.json, or of an object in it."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        """Args: the values, and the path of the object that holds them."""
        self._values, self._path = values, path
        self._read: set[str] = set()
        self.last_key = ""  # the key that was read last, for messages

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Returns a value, or the default where it is missing or null. Raises UserError if there is no default."""
        self._read.add(key)
        self.last_key = key
        value = self._values.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UserError(f"config.json has no value for {self._path}{key}")
        return default

    def get_or_null(self, key: str, default: Any) -> Any:
        """Returns a value, None where it is null, or the default where it is missing."""
        self._read.add(key)
        self.last_key = key
        return self._values.get(key, default)

    def ignore(self, *keys: str) -> None:
        """Marks values as read that follow from others, or matter only in training, which has its own options."""
        self._read.update(keys)

    def require(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """Refuses a value that is not one of `allowed`; a missing value counts as the default, or else as the first."""
        value = self.get(key, allowed[0] if default is REQUIRED else default)
        if value not in allowed:
            raise self.refusal(key, f"expected {' or '.join(map(repr, allowed))}")

    def lookup(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """Returns the choice that a word stands for. Raises UserError for an unknown word."""
        word = self.get(key, default)
        if word not in choices:
            raise self.refusal(key, nearest(str(word), choices))
        return choices[word]

    def activation(self, key: str, default: str) -> Activation:
        """Returns the activation that a name stands for."""
        name: Activation = self.lookup(key, ACTIVATIONS, default)
        return name

    def dropout(self, default: float = 0.0, **keys: str) -> Dropout:
        """Returns the dropout rates: `keys` maps each field of `Dropout` to its key; a missing rate is the default."""
        return Dropout(**{name: float(self.get(key, default)) for name, key in keys.items()})

    def sub_object(self, key: str) -> "ConfigJson":
        """Returns the values of an object inside this one; no values where it is missing."""
        return ConfigJson(self.get(key, {}), f"{self._path}{key}.")

    def refusal(self, key: str, why: str) -> UserError:
        """Returns the error for a value that cannot be mapped."""
        return UserError(f"config.json: {self._path}{key}={self._values.get(key)!r} cannot be mapped: {why}")

    def refuse_unread(self) -> None:
        """Refuses every value that the family did not read."""
        unread = [
            f"{self._path}{key}={value!r}"
            for key, value in self._values.items()
            if value is not None and key not in self._read and key not in IRRELEVANT
        ]
        if unread:
            listed = "\n  ".join(unread)
            raise UserError(f"config.json has values that this family does not know:\n  {listed}")
