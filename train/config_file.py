"""Config files: Python that assigns `experiment = Experiment(...)`, read with the overrides of `--set`, and checked."""

import ast
import dataclasses
import pathlib
import re
import runpy
import sys
import sysconfig
import traceback
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import UserError
from model.options.annotations import alternatives, fields_of
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from model.options.words import nearest
from train import experiment as experiments
from train.earlier import MOVED, MOVED_MODULES, RENAMED_CLASSES, RENAMED_VALUES, current_config
from train.experiment import Experiment
from train.files.paths import expand_paths, literal_path
from train.run.added_parts import added_parts


def from_file(path: str, overrides: Sequence[str] = (), init_from: str | None = None) -> Experiment:
    """Returns the checked experiment that a config file defines, with `--set` overrides applied in order.

    With `init_from`, a run folder, the model is that run's and training starts from its parameters; parts that this
    model lacks and the file's model adds, such as adapters and a score head, stay. A config file is Python and assigns
    `experiment = Experiment(...)`; of a file that assigns an ablation it is the base. Raises UserError for a missing
    file, for a file that defines no experiment, and for every problem of the options.
    """
    assigned = assignments_of(path)
    experiment = assigned.get("experiment")
    if "ablation" in assigned:
        experiment = getattr(assigned["ablation"], "base", None)
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path} defines no `experiment = Experiment(...)`, got {type(experiment).__name__}")
    if init_from is not None:
        model = experiments.load(literal_path(init_from)).model
        own: dict[str, Any] = {name: getattr(experiment.model, name) for name in added_parts(model, experiment.model)}
        model = dataclasses.replace(model, **own)
        training = dataclasses.replace(experiment.training, init_from=init_from)
        experiment = dataclasses.replace(experiment, model=model, training=training)
    return with_overrides(experiment, overrides)


def assignments_of(path: str) -> dict[str, Any]:
    """Runs a config file, and returns all names that it assigns. Raises UserError for a missing file, and as Python."""
    if not pathlib.Path(path).is_file():
        known = [str(p) for p in sorted(pathlib.Path(path).parent.glob("*.py")) if p.name != "__init__.py"]
        raise UserError(f"no config file at {path}; {nearest(path, known)}")
    if pathlib.Path(path).suffix != ".py":
        raise UserError(f"--config={path}: a config is a Python file, such as configs/quickstart.py")
    try:
        return runpy.run_path(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise UserError(
            f"{_position(error, path)}: the config exits Python ({error!r}); a config only assigns `experiment`"
        ) from error
    except BaseException as error:  # a mistake in a user's Python can raise anything
        raise UserError(f"{_position(error, path)}: {_describe_exception(error)}{_hint(error)}") from error


def with_overrides(experiment: Experiment, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment with `--set` overrides applied in order, checked, and resolved as a run reads it.

    Raises UserError for every problem of the overrides and of the options.
    """
    for assignment in overrides:
        experiment = _apply_override(experiment, assignment)
    experiment = expand_paths(experiment)
    check(experiment)
    resolved: Experiment = from_json(Experiment, to_json(experiment))  # as a run reads it from its config.json
    return resolved


def from_stored(stored: Mapping[str, Any]) -> Experiment:
    """The experiment of a JSON that this or an earlier version wrote; fields that came since have their defaults.

    Raises UserError for a JSON that no longer fits the code.
    """
    experiment: Experiment = expand_paths(from_json(Experiment, current_config(stored)))
    return experiment


def _apply_override(experiment: Experiment, assignment: str) -> Experiment:
    """Applies `override`; for a renamed field, class or value the error gives the new name."""
    try:
        return override(experiment, assignment)
    except UserError as error:
        found = re.search(r": (\w+) has no field '(\w+)'", str(error))
        earlier = f"{found[1]}.{found[2]}" if found else ""
        if (renamed := re.search(r": no option '(\w+)' fits here", str(error))) is not None:
            earlier = renamed[1]
        now = MOVED.get(earlier) or RENAMED_CLASSES.get(earlier)
        if now is None:
            raise UserError(f"{error}{_earlier_value_hint(str(error))}") from None
        raise UserError(f"--set {assignment}: {earlier} is {now} now") from None


def _earlier_value_hint(error: str) -> str:
    """The end of a message about a word that is no choice of a field: the present word, if it is an earlier one."""
    found = re.search(r"\.(\w+): expected .*, got '(\w+)' \(str\)$", error)
    for (_, field), values in RENAMED_VALUES.items():
        if found and found[1] == field and found[2] in values:
            return f"; {found[2]!r} is {values[found[2]]!r} now"
    return ""


def _position(error: BaseException, path: str) -> str:
    """The file and line at which a config file raised an error."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}, line {error.lineno}"
    frame = _last_frame(error)
    return f"{frame.filename}, line {frame.lineno}" if frame else path


def _last_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The last call of a config file's error that is neither in Python nor in an installed package."""
    called = traceback.extract_tb(error.__traceback__)[1:]  # without the first frame, that of `assignments_of`
    not_ours = ("<", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    frames = [f for f in called if not f.filename.startswith(not_ours)]
    return frames[-1] if frames else None


def _describe_exception(error: BaseException) -> str:
    """The class and the message of an exception; the message may be missing, or reading it may fail."""
    # A SyntaxError gives its place first, so its last line is the message. Other exceptions have notes after it.
    lines = traceback.format_exception_only(error)
    return lines[-1 if isinstance(error, SyntaxError) else 0].strip().removeprefix(f"{type(error).__module__}.")


def _hint(error: BaseException) -> str:
    """For an argument that an option does not have: the closest name. For an import: the file that hides the module.

    For an earlier name of a class or a module: its name now.
    """
    missing = re.search(r"(?:cannot import name|has no attribute) '(\w+)'", _describe_exception(error))
    if missing and missing[1] in RENAMED_CLASSES:
        return f"; it is {RENAMED_CLASSES[missing[1]]} now"
    if isinstance(error, ImportError):
        return _shadowing_hint(error.name or "") or _moved_module_hint(error)
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", _describe_exception(error))
    if not found or (cls := all_option_classes(Experiment).get(found[1])) is None:
        return ""
    now = MOVED.get(f"{found[1]}.{found[2]}")
    return f"; it is {now} now" if now else f"; {nearest(found[2], fields_of(cls))}"


def _moved_module_hint(error: ImportError) -> str:
    """The end of a message: the present modules of an earlier module, and the import to write; empty for others."""
    modules = MOVED_MODULES.get(error.name or "")
    if modules is None:
        return ""
    hint = f"; it is {' and '.join(modules)} now"
    frame = _last_frame(error)
    lines = [ast.unparse(one) for one in _present_imports(frame, modules)] if frame else []
    return f"{hint}; write: {'; '.join(lines)}" if lines else hint


def _present_imports(frame: traceback.FrameSummary, modules: Sequence[str]) -> list[ast.ImportFrom]:
    """The imports that replace `from earlier.module import A, B` at the line of a frame; `modules` have its classes."""
    tree = ast.parse(pathlib.Path(frame.filename).read_bytes())
    known, found = all_option_classes(Experiment), dict[str, ast.ImportFrom]()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.lineno != frame.lineno:
            continue
        for alias in node.names:
            name = RENAMED_CLASSES.get(alias.name, alias.name)
            option = known.get(name)
            module = option.__module__ if option is not None and option.__module__ in modules else modules[0]
            found.setdefault(module, ast.ImportFrom(module, [], 0)).names.append(ast.alias(name, alias.asname))
    return list(found.values())


def _shadowing_hint(module: str) -> str:
    """The end of a message: the file that hides the Cairn package of a module; empty if none does."""
    name = module.partition(".")[0]
    own, found = pathlib.Path(__file__).parents[1] / name, sys.modules.get(name)
    paths = [found.__file__] if found and found.__file__ else list(getattr(found, "__path__", ()))
    if not paths or not own.is_dir() or own in (path := pathlib.Path(paths[0]).absolute(), path.parent):
        return ""
    return f"; {paths[0]} hides Cairn's own package {own}: rename it, or start the command in another folder"


def all_option_classes(cls: type) -> dict[str, type]:
    """The class and all option classes that its fields allow, by name."""
    known, pending = {}, [cls]
    while pending:
        option = pending.pop()
        if option.__name__ not in known:
            known[option.__name__] = option
            for annotation in fields_of(option).values():
                items = [b for a in alternatives(annotation) for arg in typing.get_args(a) for b in alternatives(arg)]
                pending += [
                    item
                    for item in (*alternatives(annotation), *items)
                    if dataclasses.is_dataclass(item) and isinstance(item, type)
                ]
    return known
