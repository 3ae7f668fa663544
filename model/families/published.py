"""Reading a published config.json so that nothing in it goes unheard.

Every value that a family asks for is ticked off; what nobody asked for by the end is refused, unless it is known to
change no number (`IRRELEVANT`), or is null.
"""

from collections.abc import Mapping
from typing import Any

from model.dropout import Dropout
from model.errors import UserError
from model.feedforward.mlp import Activation
from model.options import nearest

REQUIRED: Any = object()

# Keys that say how a model was made, stored, run or sampled from, and not what it computes.
_WORDS = """
_name_or_path architectures auto_map dtype gradient_checkpointing initializer_range model_type pretraining_tp
torch_dtype torchscript transformers_version use_bfloat16
_attn_implementation_autoset attn_implementation cache_implementation chunk_size_feed_forward output_attentions
output_hidden_states output_past output_router_logits return_dict use_cache
bos_token_id eos_token_id forced_bos_token_id forced_eos_token_id pad_token_id prefix sep_token_id task_specific_params
tokenizer_class
_num_labels finetuning_task id2label is_decoder is_encoder_decoder label2id num_labels problem_type
"""
IRRELEVANT = frozenset(_WORDS.split())

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


class Published:
    """The values of a config.json, or of an object in it."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        """Args: the values, and the path of the object that they lie in."""
        self._values, self._path = values, path
        self._read: set[str] = set()
        self.last = ""  # the key that was read last, for messages

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """A value; the default where there is none, or null. Raises UserError where there is no default either."""
        self._read.add(key)
        self.last = key
        value = self._values.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UserError(f"config.json has no value for {self._path}{key}")
        return default

    def get_or_null(self, key: str, default: Any) -> Any:
        """A value, None where it is null, and the default where there is none."""
        self._read.add(key)
        self.last = key
        return self._values.get(key, default)

    def unused(self, *keys: str) -> None:
        """Ticks off values that follow from others, or count in training alone, where they are options of their own."""
        self._read.update(keys)

    def only(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """Refuses a value that is none of these; where there is no value, the default stands for it."""
        value = self.get(key, allowed[0] if default is REQUIRED else default)
        if value not in allowed:
            raise self.refusal(key, f"expected {' or '.join(map(repr, allowed))}")

    def choice(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """What a word stands for. Raises UserError for a word that stands for nothing."""
        word = self.get(key, default)
        if word not in choices:
            raise self.refusal(key, nearest(str(word), choices))
        return choices[word]

    def activation(self, key: str, default: str) -> Activation:
        """The activation that a name stands for."""
        name: Activation = self.choice(key, ACTIVATIONS, default)
        return name

    def dropout(self, default: float = 0.0, **keys: str) -> Dropout:
        """The rates under these keys, by the place that each is for, and what they are where there is none."""
        return Dropout(**{place: float(self.get(key, default)) for place, key in keys.items()})

    def inner(self, key: str) -> "Published":
        """The values of an object in this one; none where it is missing."""
        return Published(self.get(key, {}), f"{self._path}{key}.")

    def refusal(self, key: str, why: str) -> UserError:
        """The error for a value that cannot be mapped."""
        return UserError(f"config.json: {self._path}{key}={self._values.get(key)!r} cannot be mapped: {why}")

    def finish(self) -> None:
        """Refuses every value that nobody asked for."""
        unread = [
            f"{self._path}{key}={value!r}"
            for key, value in self._values.items()
            if value is not None and key not in self._read and key not in IRRELEVANT
        ]
        if unread:
            listed = "\n  ".join(unread)
            raise UserError(f"config.json asks for what this family is not known to have:\n  {listed}")
