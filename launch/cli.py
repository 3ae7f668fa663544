"""What every command shares: absl flags, errors without tracebacks, one compilation cache."""

import errno
import logging
import os
import pathlib
import sys
from collections.abc import Callable

from absl import app, flags

from model.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended

# A full or read-only disk, a quota, a path that may not be used or is of the wrong kind: the user has to mend these.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_MENDABLE = _FULL | {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}

_TOO_LARGE = (
    "A device has too little memory for this. Lower data.batch_size, or raise training.gradient_accumulation, "
    "set model.remat to dots or full, or split the model over more devices (mesh.fsdp, mesh.tensor)."
)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command's main function under absl: exits with its status, and with 2 and one message for a UserError."""

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
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
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
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

    They lie in `$JAX_COMPILATION_CACHE_DIR`, or in `~/.cache/cairn/xla` when that is not set; one that a killed process
    left half-written is removed. On a CPU freed memory is
    kept for the next step; a command that makes no steps gives it back at once.
    """
    import jax

    # That no TPU is there is no news on a machine without one.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    from train.compilation_cache import remove_broken_entries
    from train.host import keep_freed_memory, return_freed_memory

    # Dispatched from the main thread, a CPU step takes its buffers from the memory that is kept; see train/host.py. The
    # setting counts when the backend starts, which is what asking for its name does.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu" and keep_memory:
        keep_freed_memory()
    elif not keep_memory:
        return_freed_memory()
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path.home() / ".cache" / "cairn" / "xla")
    if "://" not in folder:
        remove_broken_entries(pathlib.Path(folder))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
