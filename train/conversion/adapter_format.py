"""The format of the library peft for adapters: adapter_config.json, and the names and shapes in its safetensors file.

A module M of the published model has M.lora_A.weight (R, inputs), M.lora_B.weight (outputs, R) and, for DoRA,
M.lora_magnitude_vector (outputs). Inputs and outputs have the order of the published tensor M.weight, which the weight
table of the family says.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.families.family import Family
from model.families.weights import Part
from model.options.json import to_json
from model.parameters.adapters import MAGNITUDE, ROLES, A, Adapters, B, DoRA, LoRA
from model.parameters.specs import Spec, specs_by_name
from model.transformer import specs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
SUFFIXES = {A: ".lora_A.weight", B: ".lora_B.weight", MAGNITUDE: ".lora_magnitude_vector"}
# Keys that change nothing in what an adapter computes.
INERT = {
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode"),
    *("lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision", "target_modules", "task_type"),
}
READ = {"alpha", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "use_dora", "use_rslora"}
# Ways to draw an adapter that leave the published matrices as they are.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """The published module of one matrix.

    Attributes:
      module: its name.
      parameter: the dotted name of the parameter.
      index: the layer in its stack, where it has one.
      shape: of the matrix.
      input_axes: how many of its axes are inputs.
      inputs, outputs: for each input and output of the module, its number among those of the matrix.
      turned: whether the module's weight is (inputs, outputs).
    """

    module: str
    parameter: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    input_axes: int
    inputs: np.ndarray
    outputs: np.ndarray
    turned: bool

    def shape_of(self, factor: str, rank: int) -> tuple[int, ...]:
        """The shape of a tensor of the module's adapter."""
        return {A: (rank, len(self.inputs)), B: (len(self.outputs), rank), MAGNITUDE: (len(self.outputs),)}[factor]

    def to_published(self, factor: str, x: np.ndarray) -> np.ndarray:
        """The tensor of a factor."""
        if factor == A:
            return x.reshape(len(self.inputs), -1)[self.inputs].T
        flat = x.reshape(-1, len(self.outputs))[:, self.outputs]
        return flat[0] if factor == MAGNITUDE else flat.T

    def from_published(self, factor: str, x: np.ndarray) -> np.ndarray:
        """Inverts `to_published`: (*inputs, R), (R, *outputs) or (*outputs)."""
        outputs = self.shape[self.input_axes :]
        if factor == A:
            return x.T[np.argsort(self.inputs)].reshape(*self.shape[: self.input_axes], -1)
        ordered = x[np.argsort(self.outputs)]
        return ordered.reshape(outputs) if factor == MAGNITUDE else ordered.T.reshape(-1, *outputs)


def places(family: Family, plain: ModelConfig) -> tuple[dict[str, Place], dict[str, tuple[str, ...]]]:
    """The modules of a model without adapters that may have one, by name; and those that hold several matrices.

    The second maps the name of a module to the names of its parameters.
    """
    known, found, fused = specs_by_name(specs(plain)), {}, {}
    for name, tensor in family.tensors(plain).items():
        matrices = [part for part in tensor.parts if known[part.parameter].role in ROLES]
        if tensor.copy or not name.endswith(".weight") or not matrices or not _is_single(known[matrices[0].parameter]):
            continue
        module = name.removesuffix(".weight")
        if len(tensor.parts) > 1:
            fused[module] = tuple(part.parameter for part in tensor.parts)
            continue
        (part,) = tensor.parts
        spec = known[part.parameter]
        orders = _orders(dataclasses.replace(part, parameter="", index=()), len(spec.inputs))
        if orders is None:
            fused[module] = (part.parameter,)
        else:
            found[module] = Place(module, part.parameter, part.index, part.slice_shape, len(spec.inputs), *orders)
    return found, fused


def _is_single(spec: Spec) -> bool:
    """Whether a layer has one such matrix, and not one for each expert or head."""
    others = len(spec.axes) - len(spec.inputs) - len(spec.outputs)
    return bool(spec.outputs) and others == int(spec.axes[0] == "layer")


@functools.lru_cache(maxsize=256)
def _orders(part: Part, inputs: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """The orders of inputs and outputs in a tensor, and whether inputs come first; None if it mixes the two."""
    rows, columns = math.prod(part.slice_shape[:inputs]), math.prod(part.slice_shape[inputs:])
    numbers = part.to_tensor(np.arange(rows * columns, dtype=np.int64).reshape(part.slice_shape))
    for turned in (False, True):
        matrix = numbers.T if turned else numbers
        if matrix.shape == (columns, rows):
            of_inputs, of_outputs = matrix[0] // columns, matrix[:, 0] % columns
            if np.array_equal(matrix, of_outputs[:, None] + columns * of_inputs):
                return of_inputs, of_outputs, turned
    return None


def read_option(values: Mapping[str, Any], where: str, roles: tuple[str, ...]) -> Adapters:
    """The option of an adapter_config.json. Raises UserError for a value that no option has."""

    def refused(key: str, expected: str) -> UserError:
        return UserError(f"{where}: {key}={values[key]!r}, expected {expected}; such an adapter is not read")

    if values.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type={values.get('peft_type')!r}, expected LORA; other adapters are not read")
    if values.get("bias", "none") != "none":
        raise refused("bias", "none: biases of the model stay as they are")
    if values.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise refused("init_lora_weights", "a start that leaves the model's own matrices as they are")
    for key, value in values.items():
        if key not in INERT | READ and value not in (None, False, "", [], {}):
            raise refused(key, "nothing")
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or alpha <= 0:
        raise UserError(f"{where}: r={rank!r} and lora_alpha={alpha!r}, expected numbers above 0; get the file again")
    return (DoRA if values.get("use_dora") else LoRA)(
        rank=rank, alpha=float(alpha), scaling="sqrt_rank" if values.get("use_rslora") else "rank", roles=roles
    )


def config_of(option: Adapters, chosen: Collection[Place], others: Collection[str], base: str | None) -> dict[str, Any]:
    """The values of an adapter_config.json.

    Args:
      option: the model's adapters.
      chosen: the adapted modules.
      others: the names of all other modules of the model.
      base: the name of the published model, or None.
    """
    last = sorted({place.module.rpartition(".")[2] for place in chosen})
    unclear = any(module.rpartition(".")[2] in last for module in others)
    alpha = int(option.alpha) if option.alpha == int(option.alpha) else option.alpha
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": any(place.turned for place in chosen),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": option.rank,
        "target_modules": sorted(place.module for place in chosen) if unclear else last,
        "task_type": "CAUSAL_LM",
        "use_dora": isinstance(option, DoRA),
        "use_rslora": option.scaling == "sqrt_rank",
    }


def roles_of(plain: ModelConfig, chosen: Collection[str]) -> tuple[str, ...]:
    """The `roles` of an option that adapts exactly these parameters of a model; empty if none does."""
    known = {
        name: spec for name, spec in specs_by_name(specs(plain)).items() if spec.role in ROLES and _is_single(spec)
    }
    found: list[str] = []
    for role in ROLES:
        wanted = {name for name in chosen if known[name].role == role}
        by_entry = {role: {name for name, spec in known.items() if spec.role == role}}
        for spec in (known[name] for name in sorted(wanted)):
            for axis in (spec.axes[i] for i in (*spec.outputs, *spec.inputs)):
                by_entry[f"{role}:{axis}"] = {name for name in by_entry[role] if axis in known[name].axes}
        covered: set[str] = set()
        for entry, names in sorted(by_entry.items(), key=lambda each: -len(each[1])):
            if names <= wanted and not names <= covered:
                found.append(entry)
                covered |= names
        if covered != wanted:
            return ()
    return tuple(found)


def same_option(one: Adapters, other: Adapters) -> bool:
    """Whether two options are written as the same adapter_config.json, but for the modules."""
    same = [to_json(dataclasses.replace(option, roles=ROLES)) for option in (one, other)]
    return type(one) is type(other) and same[0] == same[1]
