"""Runs of an earlier version: the earlier names of config fields and checkpoint arrays.

Until November 2026 `no_decay`, a list of name patterns, decided weight decay. Load biases were among the trained
parameters (format 1 of checkpoints), so the optimizer had moments of them too. Norms and gains of a layer lay beside
its sublayers, not under `residual`, and in `Except` None meant "same". The sharding table had one set of axis names for
parameters and activations. The z-loss was an option of training, not of the objective.

Every mixer was called `attention` (format 2 of checkpoints), recurrent mixers too: the field, its parameters, those of
the residual stream around it, and two taps. `init_from` was called `start_from`. The optimizers' `decay_also` and
`decay_never` were called `decayed` and `spared`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from model.taps.meanings import EARLIER

CHECKPOINT_FORMAT = 3
# Earlier fields of options, and their paths now.
MOVED = {
    "ModelConfig.attention": "model.mixer",
    "Except.attention": "mixer",
    "Training.start_from": "training.init_from",
    "Training.z_loss": "objective.z_loss",
}
# Fields of every optimizer.
_DECAY = {"decayed": "decay_also", "spared": "decay_never"}
_OPTIMIZERS = ("AdamW", "Adafactor", "Lion", "Muon", "SGD", "ScheduleFreeAdamW")
MOVED |= {f"{name}.{old}": f"optimizer.{now}" for name in _OPTIMIZERS for old, now in _DECAY.items()}
# The parameters of a layer that are under `residual` now and were beside its sublayers.
_OF_RESIDUAL = r"((?:attention|ffn)_(?:norm|output_norm|gain)\b)"
_OF_MIXERS = ((r"\.mixer\.", ".attention."), (r"\.residual\.mixer_", ".residual.attention_"))
# For each format of checkpoints: patterns of the present array names, and their earlier replacements.
EARLIER_NAMES: dict[int, tuple[tuple[str, str], ...]] = {
    1: ((r"^untrained\.", "params."), *_OF_MIXERS, (rf"\.residual\.{_OF_RESIDUAL}", r".\1")),
    2: _OF_MIXERS,
    CHECKPOINT_FORMAT: (),
}
# The default patterns of `no_decay`, and the roles of the parameters that they matched.
NO_DECAY = {"*.scale": ("scale",), "*bias": ("bias", "router_bias", "decay_bias")}
# The present fields of each axis name of the earlier sharding table: in parameters, in activations, or in both.
SHARDING = {
    "batch": ("activations.batch",),
    "sequence": tuple(f"activations.{part}sequence" for part in ("", "query_", "ffn_", "vocab_")),
    "position": ("parameters.position",),
    "embed": ("parameters.embed", "activations.embed"),
    "heads": ("parameters.heads", "activations.heads"),
    "kv_heads": ("parameters.kv_heads", "activations.kv_heads"),
    "head_dim": ("parameters.head_dim", "activations.head_dim"),
    "rank": ("parameters.rank",),
    "ffn": ("parameters.ffn", "activations.ffn"),
    "expert": ("parameters.expert", "activations.expert"),
    "vocab": ("parameters.vocab", "activations.vocab"),
    "layer": ("parameters.layer", "activations.layer"),
}


def current_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of an experiment with today's fields."""
    current = dict(stored)
    if isinstance(stored.get("optimizer"), Mapping):
        current["optimizer"] = _current_optimizer(stored["optimizer"])
        # Only in a config with this field does None surely mean "same". Later it means "no such sublayer".
        model = stored.get("model")
        exceptions = model.get("exceptions") if isinstance(model, Mapping) else None
        if "no_decay" in stored["optimizer"] and isinstance(model, Mapping) and isinstance(exceptions, list | tuple):
            current["model"] = {**model, "exceptions": [_same_for_none(one) for one in exceptions]}
    training = stored.get("training")
    if isinstance(training, Mapping) and "z_loss" in training:
        training = {name: value for name, value in training.items() if name != "z_loss"}
        current.setdefault("objective", {"type": "NextToken", "z_loss": stored["training"]["z_loss"]})
    if isinstance(training, Mapping):
        current["training"] = _renamed(training, {"start_from": "init_from"})
    if isinstance(current.get("model"), Mapping) and "attention" in current["model"]:
        current = _rename_attention(current)
    if isinstance(stored.get("sharding"), Mapping):
        current["sharding"] = current_sharding(stored["sharding"])
    return current


def _rename_attention(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Renames `attention` in the JSON of an experiment to today's names of fields, parameters and taps."""
    current, model = dict(stored), dict(_renamed(stored["model"], {"attention": "mixer"}))
    if isinstance(model.get("exceptions"), list | tuple):
        model["exceptions"] = [_renamed(one, {"attention": "mixer"}) for one in model["exceptions"]]
    if isinstance(model.get("remat"), Mapping) and isinstance(taps := model["remat"].get("taps"), list | tuple):
        model["remat"] = {**model["remat"], "taps": [EARLIER.get(name, name) for name in taps]}
    current["model"] = model
    if isinstance(optimizer := stored.get("optimizer"), Mapping):
        patterns = {name: _rename_attention_in(optimizer[name]) for name in _DECAY.values() if name in optimizer}
        current["optimizer"] = {**optimizer, **patterns}
    return current


def _renamed(option: Any, names: Mapping[str, str]) -> Any:
    """The JSON of an option with its fields renamed, in the same order."""
    return {names.get(name, name): x for name, x in option.items()} if isinstance(option, Mapping) else option


def _rename_attention_in(patterns: Any) -> Any:
    """Patterns of parameter names with `attention` renamed; only the names of mixers contained it."""
    if not isinstance(patterns, list | tuple):
        return patterns
    return [one.replace("attention", "mixer") if isinstance(one, str) else one for one in patterns]


def current_sharding(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a sharding table with today's fields. Placements stay the same, except that keys are whole now."""
    current: dict[str, Any] = {}
    for name, value in stored.items():
        if name not in SHARDING:
            current[name] = value
            continue
        for path in SHARDING[name]:
            group, field = path.split(".")
            current.setdefault(group, {})[field] = value
    return current


def _current_optimizer(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of an optimizer with weight decay by roles instead of name patterns."""
    if "no_decay" not in optimizer:
        return dict(_renamed(optimizer, _DECAY))
    patterns = optimizer["no_decay"]
    decay_also = [role for pattern, roles in NO_DECAY.items() if pattern not in patterns for role in roles]
    decay_never = [re.sub(rf"\.{_OF_RESIDUAL}", r".residual.\1", p) for p in patterns]
    decay_never = [pattern for pattern in decay_never if pattern not in NO_DECAY]
    others = {name: value for name, value in optimizer.items() if name != "no_decay"}
    return others | {"decay_also": decay_also, "decay_never": decay_never}


def _same_for_none(exception: Any) -> Any:
    """The JSON of an `Except` with "same" in place of None."""
    if not isinstance(exception, Mapping):
        return exception
    return {name: "same" if value is None else value for name, value in exception.items()}


def stored_names(of_format: int, names: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """Maps the dotted name of each array of a state to its name in a checkpoint.

    Arrays that the checkpoint does not have are left out.
    """
    found = {}
    for name in names:
        stored_name = name
        for pattern, before in EARLIER_NAMES[of_format]:
            stored_name = re.sub(pattern, before, stored_name)
        if stored_name in stored:
            found[name] = stored_name
    return found


def extra_arrays(of_format: int, names: Mapping[str, str], stored: Collection[str]) -> set[str]:
    """The arrays of a checkpoint that an earlier version used and the state (`stored_names`) does not."""
    if of_format != 1:
        return set()
    # Moments of parameters that the optimizer does not update now: they end with the parameter's name.
    suffixes = tuple(x.removeprefix("params") for name, x in names.items() if name.startswith("untrained."))
    return {name for name in stored if name.startswith("opt_state.") and name.endswith(suffixes)}
