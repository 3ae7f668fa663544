"""The flags that say which texts may be drawn: --json_schema, --regex, --choice, --grammar."""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from launch.command import cli
from model.errors import UserError

if TYPE_CHECKING:
    from train.generation.constraints import Form

flags.disclaim_key_flags()  # the flags belong to the command that calls `define_constraint`


class ConstraintFlags(NamedTuple):
    """The flags; see `define_constraint`."""

    json_schema: flags.FlagHolder[Any]
    regex: flags.FlagHolder[Any]
    choice: flags.FlagHolder[Any]
    grammar: flags.FlagHolder[Any]


def define_constraint() -> ConstraintFlags:
    """The flags, of which a command line has one at most."""
    return ConstraintFlags(
        cli.define_path("json_schema", None, "A file with a JSON schema: every text is JSON that it allows."),
        flags.DEFINE_string("regex", None, "Every text matches this regular expression as a whole."),
        flags.DEFINE_multi_string("choice", [], "Every text is one of these. May be given many times."),
        cli.define_path("grammar", None, "A file with a grammar (Lark or GBNF): every text is one of its texts."),
    )


def is_given(given: ConstraintFlags) -> bool:
    """Whether any of the flags is."""
    return any(_given(given))


def _given(given: ConstraintFlags) -> list[str]:
    return [flag.name for flag in given if flag.value is not None and flag.value != []]


def form_of(given: ConstraintFlags) -> "Form | None":
    """The texts that may be drawn; None for all. Raises UserError for two flags, and for a file that cannot be read."""
    from train.files.paths import user_path
    from train.files.remote import local_copy
    from train.generation.constraints import Form

    names = _given(given)
    if len(names) > 1:
        raise UserError(f"--{names[0]} and --{names[1]} both say which texts may be drawn; give one of them")
    if given.regex.value is not None:
        return Form("regex", given.regex.value)
    if given.choice.value:
        return Form.choice(given.choice.value)
    for kind, flag in (("json", given.json_schema), ("grammar", given.grammar)):
        if flag.value is not None:
            return Form(kind, _text(flag.name, local_copy(user_path(flag.value))))  # type: ignore[arg-type]
    return None


def _text(name: str, path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--{name}={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--{name}={path} is not UTF-8 at byte {error.start}") from None
