"""What every command shares: absl flags, errors without tracebacks, one compilation cache."""

import logging
import os
import pathlib
import sys
from collections.abc import Callable, Collection

from absl import app, flags
from absl import logging as absl_logging

from launch import streams
from model.errors import UserError
from train.formatting import visible_lines

EXIT_USER_ERROR = 2
LONGEST_LINE = 2000  # characters of an error: a flag may hold a megabyte
EXIT_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended

_TOO_LARGE = (
    "A device has too little memory for this. Lower data.batch_size, or raise training.gradient_accumulation, "
    "set model.remat to dots or full, or split the model over more devices (mesh.fsdp, mesh.tensor)."
)


def run(
    main: Callable[[list[str]], int | None], *, result_is_printed: bool = False, may_be_empty: Collection[str] = ()
) -> None:
    """Runs a command's main function under absl: exits with its status, and with 2 and one message for a UserError.

    Args:
      main: the command.
      result_is_printed: whether its result is what it prints, and no folder: then it ends, with status 0, when nobody
        reads its output any more, and fails when its output cannot be written.
      may_be_empty: the flags that an empty text is a value of; for any other it is a mistake.
    """
    streams.prepare()
    handler = absl_logging.get_absl_handler().python_handler
    if handler.stream in (None, sys.__stderr__):
        handler.stream = sys.stderr

    def guarded(argv: list[str]) -> int | None:
        try:
            _refuse_empty(may_be_empty)
            status = main(argv)
            if result_is_printed:
                streams.check()
            return status
        except UserError as error:
            return _refused(str(error))
        except streams.ReaderGoneError:
            return 0
        except OSError as error:  # a disk, a quota, a path of the wrong kind: the user has to mend these
            if error.errno is None:
                raise
            return _refused(f"{error}; mend that, then give the same command again")
        except ValueError as error:
            if "embedded null" not in str(error):
                raise
            return _refused("a path holds a NUL, which no file has in its name; give another one")
        except MemoryError as error:
            return _refused(f"this machine has too little memory for that ({str(error) or 'no more is given'})")
        except RuntimeError as error:  # what jax raises for a device
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _refused(f"{str(error).splitlines()[0]}\n{_TOO_LARGE}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        finally:
            if note := streams.note():
                print(note, file=sys.stderr)

    app.run(guarded, flags_parser=_parse_flags)


def _refused(message: str) -> int:
    # A path may hold anything: what would move the cursor or colour the screen is shown as an escape.
    lines = visible_lines(message).split("\n")
    cut = [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..." for line in lines]
    print("error: " + "\n".join(cut), file=sys.stderr)
    return EXIT_USER_ERROR


def say(message: str) -> None:
    """Prints lines for a person, in which a path may hold anything."""
    print(visible_lines(message))


def _parse_flags(argv: list[str]) -> list[str]:
    # absl shows the page as well, and then exits as after a mistake.
    if any(argument.lstrip("-") in ("help", "h", "?") for argument in argv[1:] if argument.startswith("-")):
        app.usage(shorthelp=True, writeto_stdout=True)
        raise SystemExit(0)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, UnicodeError, OSError) as error:  # the last two: of a --flagfile
        raise SystemExit(_refused(f"{error}\nSee --help for the flags of this command.")) from None


def _refuse_empty(may_be_empty: Collection[str]) -> None:
    """Raises UserError for a flag that was given with nothing behind the equals sign, as an unset variable leaves it.

    Taken for a path it would be the current folder, or as if the flag had not been given.
    """
    for name, flag in flags.FLAGS._flags().items():
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if flag.present and name == flag.name and name not in may_be_empty and (not values or "" in values):
            raise UserError(f"--{name} is empty; give it a value, or leave it out")


def prepare_jax(*, keep_memory: bool = True) -> None:
    """Keeps compiled programs between runs, so that a second start takes seconds, and sets the host up.

    They lie in `$JAX_COMPILATION_CACHE_DIR`, or in `~/.cache/cairn/xla` when that is not set. On a CPU freed memory is
    kept for the next step; a command that makes no steps gives it back at once.
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
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path.home() / ".cache" / "cairn" / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
