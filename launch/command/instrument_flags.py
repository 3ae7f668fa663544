"""The flags of the instruments of `launch.inspect`, from their table (train/inspection/table.py)."""

from typing import Any

from absl import flags

from launch.command import cli
from model.errors import UserError
from train.inspection.table import FLAGS, Flag

flags.disclaim_key_flags()  # the command that calls `define` is to list these flags as its own


class InstrumentFlags:
    """The flags of all instruments, as a command line gave them."""

    def __init__(self) -> None:
        """Defines the flags, for the command that calls this. A flag --X that holds a text has a flag --X_file."""
        self._holders = {name: _define(name, flag) for name, flag in FLAGS.items()}
        self._files = {name: _define_file(name, flag) for name, flag in FLAGS.items() if flag.kind in ("text", "texts")}

    def values(self) -> dict[str, Any]:
        """The values that were given, by flag; reads files of texts. Raises UserError for values of another form."""
        given = {name: _value(name, holder) for name, holder in self._holders.items() if holder.present}
        for name, holder in self._files.items():
            if holder.value is None:
                continue
            if name in given:
                raise UserError(f"--{name} and --{name}_file are two texts; give one of them")
            given[name] = _read(holder.value, f"{name}_file", FLAGS[name].kind == "texts")
        return given


def _define(name: str, flag: Flag) -> flags.FlagHolder[Any]:
    match flag.kind:
        case "path":
            return cli.define_path(name, None, flag.help)
        case "integer":
            return flags.DEFINE_integer(name, None, flag.help)
        case "number":
            return flags.DEFINE_float(name, None, flag.help)
        case "integers" | "words":
            return flags.DEFINE_list(name, None, flag.help)
        case "texts":
            return flags.DEFINE_multi_string(name, None, flag.help)
        case "switch":
            return flags.DEFINE_bool(name, None, flag.help)
        case _:
            return flags.DEFINE_string(name, None, flag.help)


def _define_file(name: str, flag: Flag) -> flags.FlagHolder[Any]:
    content = "texts of --{}, one on each line" if flag.kind == "texts" else "text of --{}"
    return cli.define_path(f"{name}_file", None, f"A UTF-8 file with the {content.format(name)}.")


def _value(name: str, holder: flags.FlagHolder[Any]) -> Any:
    if FLAGS[name].kind != "integers":
        return holder.value
    try:
        return [int(text) for text in holder.value]
    except ValueError:
        given = ",".join(holder.value)[:80]
        raise UserError(f"--{name}={given}: expected whole numbers separated by commas, such as 0,3,-1") from None


def _read(path: str, flag: str, several: bool) -> Any:
    from train.data.text.file_types import HEAD, not_text
    from train.files.paths import user_path
    from train.files.remote import local_copy

    file = local_copy(user_path(path))
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise UserError(f"--{flag}={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        kind = not_text(error.object[:HEAD]) or f"another encoding, from byte {error.start} on"
        raise UserError(f"--{flag}={path} is not UTF-8 text, but {kind}; convert it: iconv -f OLD -t UTF-8") from None
    if not text.strip():
        raise UserError(f"--{flag}={path} holds no text")
    return [line for line in text.split("\n") if line.strip()] if several else text
