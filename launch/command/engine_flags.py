"""The flags of commands that have an engine: --set engine.FIELD=VALUE, and --draft for a model that guesses tokens."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from launch.command import cli
from model.errors import UserError

if TYPE_CHECKING:
    from model.inference.engine.draft import DraftModel
    from model.inference.engine.options import EngineOptions
    from train.run.loading import LoadedRun


flags.disclaim_key_flags()  # the flags belong to the command that calls `define_engine`


class EngineFlags(NamedTuple):
    """The flags; see `define_engine`."""

    set: flags.FlagHolder[Any]
    draft: flags.FlagHolder[Any]


def define_engine() -> EngineFlags:
    """The flags --set and --draft."""
    changes = flags.DEFINE_multi_string(
        "set",
        [],
        "Changes one field of the engine, such as engine.page_size=32, or engine.speculation='NGram(tokens=8)', which "
        "guesses the next tokens and changes no text. May be given many times.",
    )
    draft = cli.define_path("draft", None, "The run folder of a smaller model of the same tokenizer, to guess tokens.")
    return EngineFlags(changes, draft)


def is_given(given: EngineFlags) -> bool:
    """Whether any of the flags is."""
    return bool(given.set.value) or given.draft.value is not None


def engine_options(given: EngineFlags, base: "EngineOptions", named: dict[str, str]) -> "EngineOptions":
    """The options of the engine.

    Args:
      given: the flags.
      base: the options that other flags give.
      named: the name of the flag that gives a field, by field; these fields cannot be set again.

    Raises:
      UserError: for unknown fields and invalid values.
    """
    from model.inference.engine.options import EngineOptions
    from model.inference.engine.speculation import Draft
    from model.options.assignments import override
    from model.options.tree import find_problems

    tree = dataclasses.make_dataclass("Options", [("engine", EngineOptions)], frozen=True)(base)
    for assignment in given.set.value:
        field = assignment.partition("=")[0].strip().removeprefix("engine.")
        if field in named:
            raise UserError(f"--set engine.{field}: the flag --{named[field]} gives it; use that")
        tree = override(tree, assignment)
    options: EngineOptions = tree.engine
    if given.draft.value is not None and options.speculation is None:
        options = dataclasses.replace(options, speculation=Draft())
    if isinstance(options.speculation, Draft) and given.draft.value is None:
        raise UserError("--set engine.speculation=Draft() needs --draft=RUN, the run folder of the model that guesses")
    for problem in find_problems(options):
        field, _, words = problem.partition(": ")
        raise UserError(f"--{named[field]}: {words}" if field in named else f"--set engine.{problem}")
    return options


def draft_of(given: EngineFlags, run: "LoadedRun") -> "DraftModel | None":
    """The model of --draft, on the devices of a run. Raises UserError for one of another tokenizer."""
    if given.draft.value is None:
        return None
    from model.inference.engine.draft import DraftModel
    from train.parallel.mesh import Mesh
    from train.run.loading import load_run

    draft = load_run(given.draft.value, mesh=Mesh(**dict(run.mesh.shape)))
    if draft.tokenizer.fingerprint() != run.tokenizer.fingerprint():
        raise UserError(
            f"--draft={given.draft.value} has another tokenizer than {run.folder}; take a draft that was trained with "
            "the same one"
        )
    return DraftModel(draft.experiment.model, draft.params)
