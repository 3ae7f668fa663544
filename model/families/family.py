"""A family of published models: how its config.json and its weights map to Cairn's."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.config import MAX_LAYERS, ModelConfig, model_differences
from model.errors import UserError
from model.families.config_json import MEND, ConfigJson, as_json
from model.families.quantization import quantization_of, without_quantization
from model.families.weights import Tensor, Weight, tensors
from model.options.tree import find_problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A model as read from a config.json.

    Attributes:
      config: the model.
      ignored: the values of keys that no class of this model in `transformers` reads, except inert values, by path.
      accepted: the values of refused keys that the user accepted, by path.
      read: the paths of all keys that the family read.
    """

    config: ModelConfig
    ignored: Mapping[str, Any]
    accepted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read: frozenset[str] = frozenset()


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
      old_names: ends of the names of tensors, and what early files have in their place.
      parts_of_files: names of tensors that some files have, and the fields of the model that it has with them.
      buffers: shell patterns of tensors that files may have and that hold no weights of the model; {num_layers} in them
        stands for the number of layers, and so for the first layer that the model does not have.
      write_config: returns the values of a config.json from a model; None where the user has to give a config.json.
      aliases: other names of keys in config.json (the `attribute_map` of the class in `transformers`).
      experts_apart: whether quantised files hold the projections of single experts, (outputs, inputs), where the table
        has all experts of a layer in one tensor, inputs first.
      in_transformers: whether `transformers` has a class for it; see model/families/config_json.py.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    read_config: Callable[[ConfigJson], ModelConfig]
    weights: tuple[Weight, ...] | Callable[[ModelConfig], tuple[Weight, ...]]
    prefix: str = ""
    old_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts_of_files: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    write_config: Callable[[ModelConfig], dict[str, Any]] | None = None
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    experts_apart: bool = False
    in_transformers: bool = True

    def model_config(self, values: Mapping[str, Any]) -> ModelConfig:
        """Returns the model that a config.json describes. Raises UserError for a value that cannot be mapped."""
        return self.read(values).config

    def read(self, values: Mapping[str, Any], accepted: Collection[str] = ()) -> Reading:
        """Returns the model that a config.json describes, and what happened to the keys.

        Args:
          values: the values of the config.json.
          accepted: refused keys that are read as if the file did not have them, as paths (rope_scaling.factor).

        Raises:
          UserError: for values that cannot be mapped, and for an accepted key that the file does not have or that is
            not refused.
        """
        kept = _without(values, accepted)
        for path in accepted:
            try:
                self._read(_without(values, [other for other in accepted if other != path]))
            except UserError:
                continue
            raise UserError(f"--accept={path}: this key is not refused, so leave the flag out")
        reading = self._read(kept)
        return dataclasses.replace(reading, accepted={path: _value(values, path) for path in accepted})

    def _read(self, values: Mapping[str, Any]) -> Reading:
        quantization_of(values)  # the quantisation of the weights is no part of the model; some are refused
        values = without_quantization(values)
        config_json = ConfigJson(self._canonical(values))
        names = config_json.get("architectures", [])
        if [str(name).lower() for name in names] not in ([], [self.architecture.lower()]):  # early: LLaMAForCausalLM
            expected = f"expected {self.architecture}, the language model of {self.name}"
            raise config_json.refusal("architectures", expected)
        for key, value in values.items():
            if "layers" in key and isinstance(value, int) and value > MAX_LAYERS:
                raise config_json.refusal(key, f"expected at most {MAX_LAYERS:,}")
        try:
            config = self.read_config(config_json)
        except UserError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # text for a number, ...
            key, value = config_json.log.last
            which = f"{key}={as_json(value)} or one that goes with it"
            raise UserError(f"config.json: the family {self.name} cannot read a value, {which}; {MEND}") from error
        ignored = config_json.finish(refuse_unknown=not self.in_transformers or _has_own_code(values))
        if problems := find_problems(config, "model"):
            listed = "\n  ".join([f"config.json describes no model of the family {self.name}; {MEND}:", *problems])
            raise UserError(listed)
        return Reading(config=config, ignored=ignored, read=frozenset(config_json.log.read))

    def _canonical(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values with every key under its first name."""
        renamed = dict(values)
        for other, key in self.aliases.items():
            value = renamed.pop(other, None)
            if value is not None and renamed.get(key) not in (None, value):
                raise UserError(
                    f"config.json: {other}={as_json(value)} and {key}={as_json(renamed[key])} are two names of one "
                    "value; delete the wrong one"
                )
            renamed |= {} if value is None else {key: value}
        return renamed

    def with_parts(self, config: ModelConfig, present: Collection[str]) -> ModelConfig:
        """Returns the model of a config.json with the parts that files have beside it, by the names `present`."""
        for name, fields in self.parts_of_files.items():
            config = dataclasses.replace(config, **fields) if name in present else config
        return config

    def tensors(self, config: ModelConfig) -> dict[str, Tensor]:
        """Returns the tensors of a model by name. Raises UserError where a parameter has none in this family."""
        return tensors(self.weights(config) if callable(self.weights) else self.weights, config)

    def file_names(self, config: ModelConfig, present: Collection[str]) -> dict[str, str]:
        """Maps each tensor's name to its name in files that have the names `present`.

        These may lack the prefix, and have old names.
        """
        bare = self.prefix and not any(name.startswith(self.prefix) for name in present)

        def stored(name: str) -> str:
            for end, old in self.old_names.items():
                if name not in present and name.endswith(end) and name.removesuffix(end) + old in present:
                    return name.removesuffix(end) + old
            return name.removeprefix(self.prefix) if bare else name

        return {name: stored(name) for name in self.tensors(config)}

    def buffer_patterns(self, config: ModelConfig) -> tuple[str, ...]:
        """Returns the patterns of `buffers` for a model."""
        return tuple(pattern.replace("{num_layers}", str(config.num_layers)) for pattern in self.buffers)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """Returns a config.json that describes a model. Raises UserError, with the differences, where none can."""
        if self.write_config is None:
            raise UserError(
                f"Cairn cannot make a config.json from a model of the family {self.name}; give one with --like"
            )
        values = {"architectures": [self.architecture], "model_type": self.model_types[0], **self.write_config(config)}
        if differences := model_differences(config, self.model_config(values)):
            listed = "\n  ".join(differences)
            raise UserError(
                f"the family {self.name} has no such model (this model -> the family's):\n  {listed}\n"
                "Give a config.json that describes this model with --like"
            )
        return values


def _has_own_code(values: Mapping[str, Any]) -> bool:
    """Returns whether a config.json names modelling code of its own, which may read any key."""
    own = values.get("auto_map")
    return isinstance(own, Mapping) and not own.keys().isdisjoint({"AutoModel", "AutoModelForCausalLM"})


def _value(values: Mapping[str, Any], path: str) -> Any:
    """Returns the value of a path. Raises UserError where there is none."""
    value: Any = values
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UserError(f"--accept={path}: config.json has no such key; correct the flag or leave it out")
        value = value[key]
    return value


def _without(values: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Returns the values without those of some paths. Raises UserError where a path has no value."""
    kept = dict(values)
    for path in paths:
        _value(kept, path)
        key, dot, rest = path.partition(".")
        if dot:
            kept[key] = _without(kept[key], [rest])
        else:
            del kept[key]
    return kept
