"""Rotary positions as published: `rope_theta` and `rope_scaling`, or both as `rope_parameters` in newer files."""

import dataclasses
import math
from typing import Any

from model.families.config_json import REQUIRED, ConfigJson
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN


def rotary(
    config_json: ConfigJson,
    *,
    theta: float = 10_000.0,
    fraction: float = 1.0,
    interleaved: bool = False,
    layer_type: str | None = None,
    legacy_keys: bool = True,
    head_dim: int | None = None,
) -> Rotary:
    """Returns the rotary positions that a config.json describes.

    Args:
      config_json: its values.
      theta, fraction: the defaults where config.json does not give them.
      interleaved: whether the family pairs neighbouring dimensions.
      layer_type: the type of layer, in families whose types of layers have rotary parameters of their own.
      legacy_keys: whether the older keys apply to this type too.
      head_dim: the width of a head, in families that know the type "proportional", in which the fastest pairs rotate;
        the other types then rotate all pairs.
    """
    parameters = config_json.sub_object("rope_parameters")
    if layer_type is not None and parameters.get(layer_type, None) is not None:
        parameters = parameters.sub_object(layer_type)
    scaling = config_json.sub_object("rope_scaling") if legacy_keys else ConfigJson({}, "rope_scaling.")
    theta = parameters.get(
        "rope_theta", scaling.get("rope_theta", config_json.get("rope_theta", theta) if legacy_keys else theta)
    )
    fraction = parameters.get("partial_rotary_factor", config_json.get("partial_rotary_factor", fraction))
    option = Rotary(
        theta=float(theta),
        fraction=float(fraction),
        interleaved=interleaved,
        scaling=_scaling(config_json, parameters) or _scaling(config_json, scaling),
    )
    if head_dim is None:
        return option
    proportional = parameters.get("rope_type", "default") == "proportional"
    return fastest_pairs(option, float(fraction) if proportional else 1.0, head_dim)


def fastest_pairs(option: Rotary, fraction: float, head_dim: int) -> Rotary:
    """Returns positions that rotate this fraction of a head's pairs, the fastest ones, rounded down to whole pairs."""
    pairs = int(fraction * head_dim // 2)
    if pairs == head_dim // 2:
        return dataclasses.replace(option, fraction=1.0)
    return dataclasses.replace(option, fraction=2 * pairs / head_dim, rotated="fastest")


def context_length(config_json: ConfigJson, length: int | None = None) -> int:
    """Returns the context length: `max_position_embeddings`, times the factor of "dynamic" scaling if there is one.

    `length` is the default, for families whose config.json may leave the value out.
    """
    length = config_json.get("max_position_embeddings", REQUIRED if length is None else length)
    assert length is not None
    for key in ("rope_parameters", "rope_scaling"):
        parameters = config_json.sub_object(key)
        if parameters.get("rope_type", parameters.get("type", None)) == "dynamic":
            return int(length * parameters.get("factor"))
    return length


def attention_factor(config_json: ConfigJson) -> float:
    """Returns DeepSeek's factor on attention scores: (0.1 mscale_all_dim ln factor + 1)^2 under YaRN, else 1."""
    for key in ("rope_parameters", "rope_scaling"):
        parameters = config_json.sub_object(key)
        if parameters.get("rope_type", parameters.get("type", "default")) != "default":
            mscale, factor = parameters.get("mscale_all_dim", 0.0), parameters.get("factor", 1.0)
            return float(0.1 * mscale * math.log(factor) + 1) ** 2
    return 1.0


def write_rotary(position: object) -> dict[str, Any]:
    """Returns the values of a config.json for rotary positions; none for other positions and unnamed scalings."""
    if not isinstance(position, Rotary):
        return {}
    values: dict[str, Any] = {"rope_theta": position.theta}
    if position.fraction != 1:
        values["partial_rotary_factor"] = position.fraction
    match position.scaling:
        case LinearScaling(factor=factor):
            values["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            values["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
        case YaRN() as scaling:
            values["rope_scaling"] = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
            }
    return values


def _scaling(config_json: ConfigJson, parameters: ConfigJson) -> Scaling | None:
    """Returns the scaling that a `rope_parameters` or `rope_scaling` describes."""
    name, legacy_name = parameters.get("rope_type", None), parameters.get("type", "default")
    if (name or legacy_name) == "default":
        return None
    length = config_json.get("max_position_embeddings", 2048)
    match name or legacy_name:
        case "linear":
            return LinearScaling(factor=parameters.get("factor"))
        case "proportional":
            factor = parameters.get("factor", 1.0)
            return None if factor == 1 else LinearScaling(factor=factor)
        case "dynamic":
            return DynamicNTK(factor=parameters.get("factor"), original_length=length)
        case "llama3":
            return Llama3Scaling(
                factor=parameters.get("factor"),
                low_frequency_factor=parameters.get("low_freq_factor"),
                high_frequency_factor=parameters.get("high_freq_factor"),
                original_length=parameters.get("original_max_position_embeddings", length),
            )
        case "yarn":
            return _yarn(parameters, length)
        case "longrope" | "su":
            return _longrope(config_json, parameters, length)
    raise parameters.refusal("rope_type" if name else "type", "known: default, linear, dynamic, llama3, yarn, longrope")


def _yarn(parameters: ConfigJson, length: int) -> YaRN:
    original = parameters.get("original_max_position_embeddings", length)
    amplitude = parameters.get("attention_factor", None)
    mscale, mscale_all_dim = parameters.get("mscale", 0) or None, parameters.get("mscale_all_dim", 0) or None
    amplitude_fields: dict[str, Any] = {"attention_factor": amplitude}
    if amplitude is None and mscale and mscale_all_dim:
        amplitude_fields = {"mscale": mscale, "mscale_all_dim": mscale_all_dim}
    return YaRN(
        factor=parameters.get("factor", length / original),
        original_length=original,
        beta_fast=parameters.get("beta_fast", 32),
        beta_slow=parameters.get("beta_slow", 1),
        truncate=parameters.get("truncate", True),
        **amplitude_fields,
    )


def _longrope(config_json: ConfigJson, parameters: ConfigJson, length: int) -> LongRoPE:
    default = parameters.get("original_max_position_embeddings", length)
    original = config_json.get("original_max_position_embeddings", default)
    amplitude, factor = parameters.get("attention_factor", None), parameters.get("factor", length / original)
    return LongRoPE(
        short_factors=tuple(map(float, parameters.get("short_factor"))),
        long_factors=tuple(map(float, parameters.get("long_factor"))),
        original_length=original,
        attention_factor=amplitude,
        factor=None if amplitude is not None else max(1.0, float(factor)),
    )
