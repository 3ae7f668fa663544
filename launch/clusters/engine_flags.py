"""The flags of engines: one for every field of their classes, which the commands share that submit to them."""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from absl import flags

from launch.clusters.job import Engine
from model.errors import UserError
from model.options.words import nearest

flags.disclaim_key_flags()  # a flag belongs to the command that calls

EngineFlags = Mapping[str, flags.FlagHolder[Any]]
_FROM_1 = ("processes", "devices_per_process", "nodes", "tasks_per_node", "cpus_per_task", "slices", "max_running")


def define_engine_flags(engines: Mapping[str, Any], without: Collection[str] = ()) -> EngineFlags:
    """Defines a flag for every field of an engine but some; engines share the flags of equal names."""
    belongs: dict[str, list[tuple[str, dataclasses.Field[Any]]]] = {}
    for name, engine in engines.items():
        for field in dataclasses.fields(engine):
            if field.name not in without:
                belongs.setdefault(field.name, []).append((name, field))
    defined: dict[str, flags.FlagHolder[Any]] = {}
    for name, fields in belongs.items():
        help = " ".join(f"{engine}: {field.metadata['help']}" for engine, field in fields)
        kind = _kind(fields[0][1])
        if kind is tuple:
            defined[name] = flags.DEFINE_multi_string(name, None, help)
        elif kind is bool:
            defined[name] = flags.DEFINE_bool(name, None, help)
        elif kind is int:
            defined[name] = flags.DEFINE_integer(name, None, help, lower_bound=0)
        else:
            defined[name] = flags.DEFINE_string(name, None, help)
    return defined


def _kind(field: dataclasses.Field[Any]) -> type:
    """The type of an engine's field, without None."""
    annotation: Any = field.type
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return typing.get_origin(annotation) or annotation


def require_engine(engines: Collection[str], to: str) -> None:
    """Raises UserError when --to names no engine."""
    if to not in engines:
        raise UserError(f"--to={to} is no engine; {nearest(to, engines)}")


def engine_from_flags(engines: Mapping[str, Any], to: str, defined: EngineFlags, **more: Any) -> Any:
    """The engine with its flags, and with further fields.

    Raises UserError for a flag of another engine, and for a 0 where 1 is the least.
    """
    chosen = engines[to]
    given = {name: flag.value for name, flag in defined.items() if flag.value is not None}
    for name, value in given.items():
        if name not in _names(chosen):
            others = " and ".join(f"--to={other}" for other, engine in engines.items() if name in _names(engine))
            raise UserError(f"--{name} has no effect with --to={to}; it belongs to {others}")
        if value == 0 and name in _FROM_1 and not isinstance(value, bool):
            raise UserError(f"--{name}=0: expected a whole number from 1")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    engine: Engine = chosen(**values, **more)
    return engine


def _names(engine: Any) -> set[str]:
    """The names of an engine's flags."""
    return {field.name for field in dataclasses.fields(engine)}
