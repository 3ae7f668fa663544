"""How the benchmarks start: mistakes in the input, and a package that is missing, end them with one line."""

import importlib.util
import pathlib
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def require_torch(extra: str = "benchmark") -> None:
    """Ends the process when torch, or another package that an extra brings beside it, is not installed."""
    others = {
        "parity": ("transformers",),
        "parity-harness": ("transformers",),
        "parity-inspection": ("transformers", "transformer_lens"),
    }
    for package in ("torch", *others.get(extra, ())):
        if importlib.util.find_spec(package) is None:
            fail(f"this compares with {package}, which is not installed: pip install -e '.[{extra}]'")


def answer_help(module: str, words: str) -> None:
    """Prints the words and ends a process that was asked for help, before it imports what may not be installed."""
    if module == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):
        print(words)
        raise SystemExit(0)


def fail(message: str) -> None:
    """Ends the process as the commands do after a mistake in the input."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def path(text: str) -> pathlib.Path:
    """A path that was typed; `~` at its beginning is written out."""
    from train.files.paths import expand_home

    return pathlib.Path(expand_home(text))


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark's main function."""
    from model.errors import UserError

    try:
        main()
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
