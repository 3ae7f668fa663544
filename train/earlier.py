"""Runs of an earlier version: the earlier names of config fields and checkpoint arrays.

Until November 2026 `no_decay`, a list of name patterns, decided weight decay. Load biases were among the trained
parameters (format 1 of checkpoints), so the optimizer had moments of them too. Norms and gains of a layer lay beside
its sublayers, not under `residual`, and in `Except` None meant "same". The sharding table had one set of axis names for
parameters and activations. The z-loss was an option of training, not of the objective.

Every mixer was called `attention` (format 2 of checkpoints), recurrent mixers too: the field, its parameters, those of
the residual stream around it, and two taps. `init_from` was called `start_from`.

The dynamic weights of hyper-connections were called `follow` (format 3 of checkpoints), and their role `follower`.
The tables below have the options, their fields and their values that had other names.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from model.taps.meanings import EARLIER

CHECKPOINT_FORMAT = 4
# Earlier names of option classes, and their names now.
RENAMED_CLASSES = {"WholeFiles": "HeldOutDocuments"}
# Earlier modules of option classes, which configs import, and the modules that have these classes now.
MOVED_MODULES = {
    "model.alibi": ("model.positions.alibi",),
    "model.balance": ("model.feedforward.balance",),
    "model.delta_rule": ("model.recurrent.delta",),
    "model.dispatch": ("model.feedforward.dispatch",),
    "model.embedding": ("model.vocabulary.embedding",),
    "model.experts": ("model.feedforward.experts",),
    "model.gru": ("model.recurrent.gru",),
    "model.initialization": ("model.parameters.maker",),
    "model.latent_attention": ("model.attention.latent",),
    "model.linear_attention": ("model.recurrent.linear",),
    "model.lstm": ("model.recurrent.lstm",),
    "model.masks": ("model.attention.patterns",),
    "model.multi_token": ("model.vocabulary.multi_token",),
    "model.precision": ("model.parameters.precision",),
    "model.rotary": ("model.positions.rotary",),
    "model.rotary_scaling": ("model.positions.scaling",),
    "model.routing": ("model.feedforward.routing",),
    "model.temperature": ("model.positions.query_scale",),
    "train.evaluation.named": ("train.evaluation.named_evaluations",),
    "train.guard": ("train.optimizers.guard",),
    "train.optimizers.schedules": ("train.schedules",),
    "train.parallel.sharding": ("train.parallel.mesh", "train.parallel.table"),
    "train.sharding": ("train.parallel.mesh", "train.parallel.table"),
}
# Fields of every optimizer.
_DECAY = {"decayed": "decay_also", "spared": "decay_never"}
_OPTIMIZERS = ("AdamW", "Adafactor", "Lion", "Muon", "SGD", "ScheduleFreeAdamW")
# Earlier names of fields, by the class of their option, and their names now.
RENAMED_FIELDS = {
    **dict.fromkeys(_OPTIMIZERS, _DECAY),
    "ALiBi": {"rounded": "round_to_bfloat16"},
    "Concatenate": {"shift": "random_offset"},
    "Experts": {"weigh": "apply_weights_to"},
    "Groups": {"kept": "top_k"},
    "LogTemperature": {"floor": "step_length"},
    "RelativeBias": {"distance": "max_distance"},
}
# Earlier values of fields, by the class of their option and the name of the field now.
RENAMED_VALUES = {("Groups", "score"): {"two_best": "top2_sum"}}
# Fields that are gone, by the class of their option; None meant that they changed nothing.
REMOVED_FIELDS = {"Rollouts": ("top_k", "top_p", "min_p")}
# Where the options of an experiment are that are in one place only.
_PATHS = {"Concatenate": "data.packing."} | dict.fromkeys(_OPTIMIZERS, "optimizer.")
# Earlier fields of options, and their paths now.
MOVED = {
    "ModelConfig.attention": "model.mixer",
    "Except.attention": "mixer",
    "Training.start_from": "training.init_from",
    "Training.z_loss": "objective.z_loss",
    **{
        f"{option}.{old}": _PATHS.get(option, "") + new
        for option, names in RENAMED_FIELDS.items()
        for old, new in names.items()
    },
}
# The parameters of a layer that are under `residual` now and were beside its sublayers.
_OF_RESIDUAL = r"((?:attention|ffn)_(?:norm|output_norm|gain)\b)"
_OF_HYPER_CONNECTIONS = ((r"\.residual\.(mixer|ffn)_dynamic(_norm)?\b", r".residual.\1_follow\2"),)
_OF_MIXERS = ((r"\.mixer\.", ".attention."), (r"\.residual\.mixer_", ".residual.attention_"))
# For each format of checkpoints: patterns of the present array names, and their earlier replacements.
EARLIER_NAMES: dict[int, tuple[tuple[str, str], ...]] = {
    1: ((r"^untrained\.", "params."), *_OF_HYPER_CONNECTIONS, *_OF_MIXERS, (rf"\.residual\.{_OF_RESIDUAL}", r".\1")),
    2: (*_OF_HYPER_CONNECTIONS, *_OF_MIXERS),
    3: _OF_HYPER_CONNECTIONS,
    CHECKPOINT_FORMAT: (),
}
# The default patterns of `no_decay`, and the roles of the parameters that they matched.
NO_DECAY = {"*.scale": ("scale",), "*bias": ("bias", "router_bias", "decay_bias")}
# Earlier roles of parameters, and their present names.
ROLES = {"follower": "dynamic_mixing"}
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
    stored = _with_renamed_fields(stored)
    current = dict(stored)
    if isinstance(stored.get("optimizer"), Mapping):
        current["optimizer"] = _current_optimizer(stored["optimizer"])
        # Only in a config with this field does None surely mean "same". Later it means "no such sublayer".
        model = stored.get("model")
        exceptions = model.get("exceptions") if isinstance(model, Mapping) else None
        if "no_decay" in stored["optimizer"] and isinstance(model, Mapping) and isinstance(exceptions, list | tuple):
            current["model"] = {**model, "exceptions": [_same_for_none(one) for one in exceptions]}
        current["optimizer"] = _with_roles(current["optimizer"], _DECAY.values())
    training = stored.get("training")
    if isinstance(training, Mapping) and "z_loss" in training:
        training = {name: value for name, value in training.items() if name != "z_loss"}
        current.setdefault("objective", {"type": "NextToken", "z_loss": stored["training"]["z_loss"]})
    if isinstance(training, Mapping):
        current["training"] = _renamed(training, {"start_from": "init_from"})
        if isinstance(frozen := training.get("frozen"), Mapping):
            current["training"]["frozen"] = _with_roles(frozen, ["roles"])
    if isinstance(current.get("model"), Mapping) and "attention" in current["model"]:
        current = _rename_attention(current)
    if isinstance(optimizer := current.get("optimizer"), Mapping):
        current["optimizer"] = _renamed_in_patterns(optimizer, "_follow", "_dynamic")
    if isinstance(stored.get("sharding"), Mapping):
        current["sharding"] = current_sharding(stored["sharding"])
    return current


def _with_renamed_fields(stored: Any) -> Any:
    """The JSON of options with today's names of classes and fields, and today's values, at all depths."""
    if isinstance(stored, list | tuple):
        return [_with_renamed_fields(item) for item in stored]
    if not isinstance(stored, Mapping):
        return stored
    stored = current_class(stored)
    option = str(stored.get("type"))
    gone = REMOVED_FIELDS.get(option, ())
    stored = {name: x for name, x in stored.items() if x is not None or name not in gone}
    renamed = _renamed(stored, RENAMED_FIELDS.get(option, {}))
    return {name: _current_value(option, name, _with_renamed_fields(x)) for name, x in renamed.items()}


def current_class(option: Any) -> Any:
    """The JSON of an option with today's name of its class."""
    name = option.get("type") if isinstance(option, Mapping) else None
    return {**option, "type": RENAMED_CLASSES[name]} if isinstance(name, str) and name in RENAMED_CLASSES else option


def _current_value(option: str, field: str, value: Any) -> Any:
    """The value of a field as it is written now."""
    values = RENAMED_VALUES.get((option, field), {})
    return values.get(value, value) if isinstance(value, str) else value


def _rename_attention(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Renames `attention` in the JSON of an experiment to today's names of fields, parameters and taps."""
    current, model = dict(stored), dict(_renamed(stored["model"], {"attention": "mixer"}))
    if isinstance(model.get("exceptions"), list | tuple):
        model["exceptions"] = [_renamed(one, {"attention": "mixer"}) for one in model["exceptions"]]
    if isinstance(remat := model.get("remat"), Mapping):
        model["remat"] = _with_words(remat, ["taps"], lambda name: EARLIER.get(name, name))
    current["model"] = model
    if isinstance(optimizer := stored.get("optimizer"), Mapping):
        current["optimizer"] = _renamed_in_patterns(optimizer, "attention", "mixer")
    return current


def _renamed(option: Any, names: Mapping[str, str]) -> Any:
    """The JSON of an option with its fields renamed, in the same order."""
    return {names.get(name, name): x for name, x in option.items()} if isinstance(option, Mapping) else option


def _renamed_in_patterns(optimizer: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """The JSON of an optimizer whose patterns of parameter names have a renamed part, which no other names contain."""
    return _with_words(optimizer, _DECAY.values(), lambda pattern: pattern.replace(old, new))


def _with_roles(option: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """The JSON of an option with today's roles in the fields that list roles."""
    return _with_words(option, fields, lambda role: ROLES.get(role, role))


def _with_words(option: Mapping[str, Any], fields: Iterable[str], change: Callable[[str], str]) -> dict[str, Any]:
    """The JSON of an option with the words of some lists changed; all else is left to the reader of options."""
    lists = {name: option[name] for name in fields if isinstance(option.get(name), list | tuple)}
    return {
        **option,
        **{name: [change(one) if isinstance(one, str) else one for one in listed] for name, listed in lists.items()},
    }


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
        return dict(optimizer)
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
