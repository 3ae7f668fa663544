"""A family of published models: how its config.json and its weights map to Cairn's."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.config import MAX_LAYERS, ModelConfig, model_differences
from model.errors import UserError
from model.families.config_json import ConfigJson
from model.families.quantization import quantization_of, without_quantization
from model.families.weights import Tensor, Weight, tensors
from model.options.tree import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published models.

    Attributes:
      name: its name for `--family`.
      model_types: the values of `model_type` in config.json that belong to it.
      architecture: the class that `transformers` has for its language models.
      read_config: returns the model that a config.json describes; values that it does not read are refused.
      weights: the table of its weights, or a function from a model to the table, where names depend on the model.
      prefix: a prefix that files may leave out of the names of tensors.
      buffers: shell patterns of tensors that files may have and that hold no weights of the model; {num_layers} in them
        stands for the number of layers, and so for the first layer that the model does not have.
      write_config: returns the values of a config.json from a model; None where the user has to give a config.json.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    read_config: Callable[[ConfigJson], ModelConfig]
    weights: tuple[Weight, ...] | Callable[[ModelConfig], tuple[Weight, ...]]
    prefix: str = ""
    buffers: tuple[str, ...] = ()
    write_config: Callable[[ModelConfig], dict[str, Any]] | None = None

    def model_config(self, values: Mapping[str, Any]) -> ModelConfig:
        """Returns the model that a config.json describes. Raises UserError for a value that cannot be mapped.

        A quantisation of the weights that is read is no part of the model; any other is refused.
        """
        quantization_of(values)
        values = without_quantization(values)
        config_json = ConfigJson(values)
        if config_json.get("architectures", []) not in ([], [self.architecture]):
            raise config_json.refusal("architectures", f"expected {self.architecture}, a language model")
        for key, value in values.items():
            if "layers" in key and isinstance(value, int) and value > MAX_LAYERS:
                raise config_json.refusal(key, f"expected at most {MAX_LAYERS:,}")
        try:
            config = self.read_config(config_json)
        except UserError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # text for a number, ...
            raise UserError(
                f"config.json holds a value of the wrong type for the family {self.name}, in {config_json.last_key!r} "
                f"or near it ({error}); correct it or download the file again"
            ) from error
        config_json.refuse_unread()
        check(config, "model")
        return config

    def tensors(self, config: ModelConfig) -> dict[str, Tensor]:
        """Returns the tensors of a model by name. Raises UserError where a parameter has none in this family."""
        return tensors(self.weights(config) if callable(self.weights) else self.weights, config)

    def file_names(self, config: ModelConfig, present: Collection[str]) -> dict[str, str]:
        """Maps each tensor's name to its name in files that have the names `present`, which may lack the prefix."""
        bare = self.prefix and not any(name.startswith(self.prefix) for name in present)
        return {name: name.removeprefix(self.prefix) if bare else name for name in self.tensors(config)}

    def buffer_patterns(self, config: ModelConfig) -> tuple[str, ...]:
        """Returns the patterns of `buffers` for a model."""
        return tuple(pattern.replace("{num_layers}", str(config.num_layers)) for pattern in self.buffers)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """Returns a config.json that describes a model. Raises UserError, with the differences, where none can."""
        if self.write_config is None:
            raise UserError(
                f"Cairn cannot make a config.json from a model of the family {self.name}; give one that describes it"
            )
        values = {"architectures": [self.architecture], "model_type": self.model_types[0], **self.write_config(config)}
        if differences := model_differences(config, self.model_config(values)):
            listed = "\n  ".join(differences)
            raise UserError(f"the family {self.name} has no such model (this model -> the family's):\n  {listed}")
        return values
