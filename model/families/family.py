"""What there is to say of a family of published models."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.config import MOST_LAYERS, ModelConfig, differences_of_models
from model.errors import UserError
from model.families.published import Published
from model.families.weights import Tensor, Weight, tensors
from model.options import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published models.

    Attributes:
      name: what `--family` calls it.
      model_types: the values of `model_type` in config.json that it takes.
      architecture: the class that `transformers` has for its language models.
      config: the model that the values of a config.json describe; what it asks for is what is mapped.
      weights: the table of its weights, or a function that gives it for a model, where names hang on the model.
      prefix: what files may leave out in front of the names of tensors.
      buffers: tensors that hold no weights, and that files may have: shell patterns.
      publish: the values of a config.json from a model; None where they have to be given.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    config: Callable[[Published], ModelConfig]
    weights: tuple[Weight, ...] | Callable[[ModelConfig], tuple[Weight, ...]]
    prefix: str = ""
    buffers: tuple[str, ...] = ()
    publish: Callable[[ModelConfig], dict[str, Any]] | None = None

    def config_of(self, values: Mapping[str, Any]) -> ModelConfig:
        """The model that a config.json describes. Raises UserError for what cannot be mapped."""
        published = Published(values)
        if published.get("architectures", []) not in ([], [self.architecture]):
            raise published.refusal("architectures", f"expected {self.architecture}, a language model")
        for key, value in values.items():
            if "layers" in key and isinstance(value, int) and value > MOST_LAYERS:
                raise published.refusal(key, f"expected at most {MOST_LAYERS:,}")
        try:
            config = self.config(published)
        except UserError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # text for a number, ...
            raise UserError(
                f"config.json holds a value of another kind than its family {self.name} has, {published.last!r} or one "
                f"beside it ({error}); get it again"
            ) from error
        published.finish()
        check(config, "model")
        return config

    def tensors(self, config: ModelConfig) -> dict[str, Tensor]:
        """The tensors of a model by name. Raises UserError where a parameter has none in this family."""
        return tensors(self.weights(config) if callable(self.weights) else self.weights, config)

    def names(self, config: ModelConfig, held: Collection[str]) -> dict[str, str]:
        """What files that hold these tensors call every tensor of a model: they may leave out the prefix."""
        bare = self.prefix and not any(name.startswith(self.prefix) for name in held)
        return {name: name.removeprefix(self.prefix) if bare else name for name in self.tensors(config)}

    def published(self, config: ModelConfig) -> dict[str, Any]:
        """A config.json that describes a model. Raises UserError, naming what differs, for one that none describes."""
        if self.publish is None:
            raise UserError(
                f"no config.json is made from a model of the family {self.name}; give one that describes it"
            )
        values = {"architectures": [self.architecture], "model_type": self.model_types[0], **self.publish(config)}
        if lost := differences_of_models(config, self.config_of(values)):
            listed = "\n  ".join(lost)
            raise UserError(f"the family {self.name} has no such model (this one -> what it can have):\n  {listed}")
        return values
