"""What every command shares: absl flags, errors without tracebacks, signals, streams, one compilation cache."""

import errno
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from absl import app, flags

from launch import streams
from model.errors import UserError
from train.paths import expanded
from train.preemption import EXIT_PREEMPTED, Stopped, ends_politely

flags.disclaim_key_flags()  # those of define_path are the command's that calls it

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended

# A full or read-only disk, a quota, a path that may not be used or is of the wrong kind: the user has to mend these.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_MENDABLE = _FULL | {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}

_TOO_LARGE = (
    "A device has too little memory for this. Lower data.batch_size, or raise training.gradient_accumulation, "
    "set model.remat to dots or full, or split the model over more devices (mesh.fsdp, mesh.tensor)."
)


def run(main: Callable[[list[str]], int | None], *, prints_result: bool = False) -> None:
    """Runs a command's main function under absl: exits with its status, and with 2 and one message for a UserError.

    A signal that asks the process to end raises KeyboardInterrupt in it. Nothing that happens to the terminal does.

    Args:
      main: takes the arguments that are no flags, returns the exit status.
      prints_result: whether the result is on standard output alone, so that a disk which does not take it is an error.
    """

    def guarded(argv: list[str]) -> int | None:
        try:
            status = main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        except OSError as error:
            if error.errno not in _MENDABLE:
                raise
            print(f"error: {error}; mend that, then give the same command again", file=sys.stderr)
            return EXIT_USER_ERROR
        except RuntimeError as error:  # what jax raises for a device
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"error: {str(error).splitlines()[0]}\n{_TOO_LARGE}", file=sys.stderr)
            return EXIT_USER_ERROR
        except Stopped as error:
            print(f"interrupted by {error}; the same command does it again", file=sys.stderr)
            return EXIT_PREEMPTED
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        if prints_result and (failure := streams.lost()) is not None:
            print(
                f"error: standard output was not written ({failure.strerror}); what it lacks is above", file=sys.stderr
            )
            return EXIT_USER_ERROR
        return status

    streams.guard()
    # That Matplotlib has no folder for its settings is no news.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with ends_politely():
        app.run(guarded, flags_parser=_parse_flags)


def _beyond_locale(arguments: list[str]) -> str | None:
    """What is wrong where Python reads names as something else than UTF-8, which the libraries take them for."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return None
    strange = [text for text in (*arguments, os.getcwd()) if not text.isascii()]
    if not strange:
        return None
    return (
        f"{strange[0]!a} holds characters beyond ASCII, and the encoding of this locale is {encoding}; give the "
        "command in one with UTF-8: LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    )


class _PathParser(flags.ArgumentParser[str]):
    """Reads a flag that is a path: `~` at its beginning is written out."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return expanded(argument)

    def flag_type(self) -> str:
        return "string"


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder[Any]:
    """A flag that holds a path, or a word that could be one."""
    return flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str) -> flags.FlagHolder[Any]:
    """A flag that may be given many times, with a path each time."""
    return flags.DEFINE_multi(_PathParser(), flags.ArgumentSerializer(), name, [], help)


def _parse_flags(argv: list[str]) -> list[str]:
    if (refused := _beyond_locale(argv[1:])) is not None:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)
    # absl shows the page as well, and then exits as after a mistake.
    if any(argument.lstrip("-") in ("help", "h", "?") for argument in argv[1:] if argument.startswith("-")):
        app.usage(shorthelp=True, writeto_stdout=True)
        raise SystemExit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error}\nSee --help for the flags of this command.", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


def prepare_jax(*, keep_memory: bool = True) -> None:
    """Keeps compiled programs between runs, so that a second start takes seconds, and sets the host up.

    On a CPU freed memory is kept for the next step; a command that makes no steps gives it back at once.
    """
    import jax

    # That no TPU is there is no news on a machine without one.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    from train.host import keep_freed_memory, return_freed_memory

    # Dispatched from the main thread, a CPU step takes its buffers from the memory that is kept; see train/host.py. The
    # setting counts when the backend starts, which is what asking for its name does.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu" and keep_memory:
        keep_freed_memory()
    elif not keep_memory:
        return_freed_memory()
    jax.config.update("jax_compilation_cache_dir", compilation_cache())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def compilation_cache() -> str | None:
    """The folder of compiled programs: `$JAX_COMPILATION_CACHE_DIR`, or `~/.cache/cairn/xla` when that is not set.

    None, after a line on standard error, where there is no such folder and none can be made, or it cannot be written.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and "://" in given:  # jax knows the way
        return given
    folder = given or "~/.cache/cairn/xla"
    try:
        folder = os.path.abspath(expanded(folder))
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 16))
    except (UserError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "no home folder is known"
        mend = "give JAX_COMPILATION_CACHE_DIR a folder that can be written"
        print(f"compiled programs are not kept for the next run in {folder}: {why}; {mend}", file=sys.stderr)
        return None
    # A disk that fills up later costs time, and would have a line for each program.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    return folder
