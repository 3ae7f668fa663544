"""Rotary positions as published: `rope_theta` and `rope_scaling`, or both as `rope_parameters` in newer files."""

import math
from typing import Any

from model.families.published import REQUIRED, Published
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN


def rotary(
    published: Published,
    *,
    theta: float = 10_000.0,
    fraction: float = 1.0,
    interleaved: bool = False,
    kind: str | None = None,
    older: bool = True,
) -> Rotary:
    """Returns the rotary positions that a config.json describes.

    Args:
      published: its values.
      theta, fraction: the defaults where config.json does not give them.
      interleaved: whether the family pairs neighbouring dimensions.
      kind: the kind of layer, in families whose kinds of layers have rotary parameters of their own.
      older: whether the older keys apply to this kind too.
    """
    given = published.inner("rope_parameters")
    if kind is not None and given.get(kind, None) is not None:
        given = given.inner(kind)
    scaling = published.inner("rope_scaling") if older else Published({})
    theta = given.get("rope_theta", scaling.get("rope_theta", published.get("rope_theta", theta) if older else theta))
    fraction = given.get("partial_rotary_factor", published.get("partial_rotary_factor", fraction))
    option = Rotary(
        theta=float(theta),
        fraction=float(fraction),
        interleaved=interleaved,
        scaling=_scaling(published, given) or _scaling(published, scaling),
    )
    given.finish()
    scaling.finish()
    return option


def context_length(published: Published, length: int | None = None) -> int:
    """Returns the context length: `max_position_embeddings`, times the factor of "dynamic" scaling if there is one.

    `length` is the default, for families whose config.json may leave the value out.
    """
    length = published.get("max_position_embeddings", REQUIRED if length is None else length)
    assert length is not None
    for key in ("rope_parameters", "rope_scaling"):
        given = published.inner(key)
        if given.get("rope_type", given.get("type", None)) == "dynamic":
            return int(length * given.get("factor"))
    return length


def attention_factor(published: Published) -> float:
    """Returns DeepSeek's factor on attention scores: (0.1 mscale_all_dim ln factor + 1)^2 under YaRN, else 1."""
    for key in ("rope_parameters", "rope_scaling"):
        given = published.inner(key)
        if given.get("rope_type", given.get("type", "default")) != "default":
            everywhere, factor = given.get("mscale_all_dim", 0.0), given.get("factor", 1.0)
            return float(0.1 * everywhere * math.log(factor) + 1) ** 2
    return 1.0


def publish_rotary(position: object) -> dict[str, Any]:
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


def _scaling(published: Published, given: Published) -> Scaling | None:
    """Returns the scaling that a `rope_parameters` or `rope_scaling` describes."""
    name, older = given.get("rope_type", None), given.get("type", "default")
    if (name or older) == "default":
        return None
    length = published.get("max_position_embeddings", 2048)
    match name or older:
        case "linear":
            return LinearScaling(factor=given.get("factor"))
        case "dynamic":
            return DynamicNTK(factor=given.get("factor"), original_length=length)
        case "llama3":
            return Llama3Scaling(
                factor=given.get("factor"),
                low_frequency_factor=given.get("low_freq_factor"),
                high_frequency_factor=given.get("high_freq_factor"),
                original_length=given.get("original_max_position_embeddings", length),
            )
        case "yarn":
            return _yarn(given, length)
        case "longrope" | "su":
            return _longrope(published, given, length)
    raise given.refusal("rope_type" if name else "type", "known: default, linear, dynamic, llama3, yarn, longrope")


def _yarn(given: Published, length: int) -> YaRN:
    original = given.get("original_max_position_embeddings", length)
    amplitude = given.get("attention_factor", None)
    mscale, everywhere = given.get("mscale", 0) or None, given.get("mscale_all_dim", 0) or None
    chosen: dict[str, Any] = {"attention_factor": amplitude}
    if amplitude is None and mscale and everywhere:
        chosen = {"mscale": mscale, "mscale_all_dim": everywhere}
    return YaRN(
        factor=given.get("factor", length / original),
        original_length=original,
        beta_fast=given.get("beta_fast", 32),
        beta_slow=given.get("beta_slow", 1),
        truncate=given.get("truncate", True),
        **chosen,
    )


def _longrope(published: Published, given: Published, length: int) -> LongRoPE:
    inside = given.get("original_max_position_embeddings", length)
    original = published.get("original_max_position_embeddings", inside)
    amplitude, factor = given.get("attention_factor", None), given.get("factor", length / original)
    return LongRoPE(
        short_factors=tuple(map(float, given.get("short_factor"))),
        long_factors=tuple(map(float, given.get("long_factor"))),
        original_length=original,
        attention_factor=amplitude,
        factor=None if amplitude is not None else max(1.0, float(factor)),
    )
