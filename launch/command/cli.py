"""Code that all commands share: absl flags, errors without tracebacks, signals, streams, one compilation cache."""

import dataclasses
import logging
import os
import pathlib
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import app, flags
from absl import logging as absl_logging

from launch.command import lifeline, streams
from launch.command.quiet_orbax import quiet_orbax
from launch.command.signals import EXIT_PREEMPTED, SignalStop, raise_on_signals
from model.errors import UserError
from train.files.paths import expand_home
from train.process import hosts
from train.process.watch import EXIT_PEER_LOST, PeerLostError
from train.terminal.formatting import escape_unprintable_lines

if TYPE_CHECKING:
    from model.config import ModelConfig
    from train.experiment import Experiment
    from train.parallel.mesh import Mesh


class HostFlags(NamedTuple):
    """The flags by which several processes find each other."""

    coordinator: flags.FlagHolder[Any]
    num_processes: flags.FlagHolder[Any]
    process_id: flags.FlagHolder[Any]
    peer_timeout: flags.FlagHolder[Any]


flags.disclaim_key_flags()  # a flag of define_path belongs to the command that calls it

EXIT_USER_ERROR = 2
EXIT_DIFFERENT = 3  # of a command that compares: the two are not the same
MAX_LINE_LENGTH = 2000  # characters of a line of an error: a flag may hold a megabyte
EXIT_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended

_OUT_OF_MEMORY = (
    "A device has too little memory for this. Lower data.batch_size, or raise training.gradient_accumulation, "
    "set model.remat to dots or full, or split the model over more devices (--mesh=fsdp=8)."
)


def run(
    main: Callable[[list[str]], int | None],
    *,
    prints_result: bool = False,
    may_be_empty: Collection[str] = (),
    several: bool = False,
) -> None:
    """Runs a command's main function under absl: exits with its status, and with 2 and one message for a UserError.

    A signal that asks the process to end raises KeyboardInterrupt in `main`. A failing terminal raises nothing.

    Args:
      main: takes the arguments that are not flags and returns the exit status.
      prints_result: whether the result goes to standard output alone; then a failed write to it is an error.
      may_be_empty: the flags for which an empty text is a value; for any other flag it is a mistake.
      several: whether the command may be started as several processes, by srun or mpirun.
    """

    def attempted(argv: list[str]) -> int | None:
        try:
            _check_not_empty(may_be_empty)
            if not several:
                _refuse_several()
            status = main(argv)
        except PeerLostError as error:
            return _print_error(str(error), EXIT_PEER_LOST)
        except UserError as error:
            return _print_error(str(error))
        except streams.ReaderGoneError:
            return 0
        except OSError as error:  # a disk, a quota, a path of the wrong kind: the user has to fix it
            if error.errno is None:
                raise
            return _print_error(f"{error}; fix that, then give the same command again")
        except ValueError as error:  # from a path in a file of a run or of data; flags are checked earlier
            if not any(words in str(error) for words in ("embedded null", "surrogates not allowed")):
                raise
            return _print_error(f"a path holds a character that no file name can have ({error}); give another path")
        except MemoryError as error:
            return _print_error(f"this machine has too little memory for that ({str(error) or 'no details given'})")
        except RuntimeError as error:  # jax raises it for a device
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _print_error(f"{str(error).splitlines()[0]}\n{_OUT_OF_MEMORY}")
        except SignalStop as error:
            print(f"interrupted by {error}; run the same command again", file=sys.stderr)
            hosts.leave(EXIT_PREEMPTED, f"interrupted by {error}")
            return EXIT_PREEMPTED
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            hosts.leave(EXIT_INTERRUPTED, "interrupted")
            return EXIT_INTERRUPTED
        finally:
            if note := streams.escape_note():
                print(note, file=sys.stderr)
        if prints_result and (failure := streams.output_error()) is not None:
            return _print_error(f"standard output was not written ({failure.strerror}); the missing part is above")
        hosts.leave(status or 0)
        return status

    def guarded(argv: list[str]) -> int | None:
        try:
            return attempted(argv)
        except Exception as error:
            if hosts.joined():  # the others must not wait for this process
                traceback.print_exc()
                hosts.leave(1, repr(error))
            raise

    streams.replace_output_streams()
    quiet_orbax()
    handler = absl_logging.get_absl_handler().python_handler
    if handler.stream in (None, sys.__stderr__):
        handler.stream = sys.stderr
    # Users need not know that Matplotlib has no folder for its settings.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with raise_on_signals():
        lifeline.end_with_parent()
        app.run(guarded, flags_parser=_parse_flags)


def _locale_error(arguments: list[str]) -> str | None:
    """An error if Python reads file names in another encoding than UTF-8, which libraries expect; None elsewhere."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return None
    strange = [text for text in (*arguments, os.getcwd()) if not text.isascii()]
    if not strange:
        return None
    return (
        f"{strange[0]!a} holds characters beyond ASCII, and the encoding of this locale is {encoding}; run the "
        "command in a locale with UTF-8: LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    )


class _PathParser(flags.ArgumentParser[str]):
    """Parses a flag that holds a path; expands a `~` at its beginning."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return expand_home(argument)

    def flag_type(self) -> str:
        return "string"


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder[Any]:
    """Defines a flag that holds a path, or a word that could be a path."""
    return flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str) -> flags.FlagHolder[Any]:
    """Defines a flag that may be given many times, with a path each time."""
    return flags.DEFINE_multi(_PathParser(), flags.ArgumentSerializer(), name, [], help)


def define_mesh() -> flags.FlagHolder[Any]:
    """The flag --mesh, which every command has that holds a model; `mesh_from_flag` reads it."""
    return flags.DEFINE_string(
        "mesh",
        None,
        "How the devices here are laid out, such as fsdp=4 or fsdp=4,tensor=2: data (copies of the parameters) takes "
        "what fsdp and tensor (shards of them) leave. When not given: the run's own where it fits the devices here, "
        "or else fsdp over all of them; in launch.train and launch.bench the config's.",
    )


def mesh_from_flag(flag: flags.FlagHolder[Any]) -> "Mesh | None":
    """The mesh that --mesh names; None when it was not given. Raises UserError for a text that names none."""
    from train.parallel.mesh import parse_mesh

    return None if flag.value is None else parse_mesh(flag.value)


def experiment_from(config: str, changes: list[str], mesh: "Mesh | None", init_from: str | None = None) -> "Experiment":
    """The checked experiment of --config, with --init_from, --set and --mesh. Raises UserError."""
    from train.config_file import from_file

    return from_file(config, changes if mesh is None else [*changes, f"mesh={mesh}"], init_from)


def published_in_bfloat16(name: str) -> "ModelConfig":
    """The published model that a flag names, with parameters and products in bfloat16. Raises UserError without one."""
    from model.families.sizes import published
    from model.parameters.precision import Precision

    return dataclasses.replace(published(name), precision=Precision(parameters="bfloat16", compute="bfloat16"))


def numbers_from(flag: flags.FlagHolder[list[str]], expected: str, example: str) -> list[int]:
    """The whole numbers from 1 of a flag. Raises UserError, which says the two texts, for a text that is none."""
    for text in flag.value:
        if not text.strip().isdecimal() or int(text) < 1:
            raise UserError(f"--{flag.name}={','.join(flag.value)}: {text!r} is no {expected}; expected {example}")
    return [int(text) for text in flag.value]


def _print_error(message: str, status: int = EXIT_USER_ERROR) -> int:
    """Prints an error, and returns the exit status; in one of several processes this ends the process."""
    if not hosts.printed_by_writer(message):
        _print_error_lines(message)
    hosts.leave(status, message)
    return status


def _print_error_lines(message: str) -> None:
    # A path may hold any character: control characters, which could move the cursor, are shown as escapes.
    lines = escape_unprintable_lines(message).split("\n")
    cut = [line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]}..." for line in lines]
    print("error: " + "\n".join(cut), file=sys.stderr)


def page_path(name: str, value: str | None) -> pathlib.Path | None:
    """The file of a flag for a page; None without. Raises UserError, before the work, if its folder is missing."""
    if value is None:
        return None
    from train.files.paths import local_path

    path = local_path(value, "a page")
    if not path.parent.is_dir():
        raise UserError(f"--{name}={value}: its folder does not exist; make it, or name another one")
    return path


def print_escaped(message: str) -> None:
    """Prints lines for a person, with control characters (a path may hold any) as escapes."""
    print(escape_unprintable_lines(message))


def _parse_flags(argv: list[str]) -> list[str]:
    if (error_message := _locale_error(argv[1:])) is not None:
        raise SystemExit(_print_error(error_message))
    # absl also prints the help page, but then exits with the status of a mistake.
    if any(argument.lstrip("-") in ("help", "h", "?") for argument in argv[1:] if argument.startswith("-")):
        app.usage(shorthelp=True, writeto_stdout=True)
        raise SystemExit(0)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, UnicodeError, OSError) as error:  # the last two come from a --flagfile
        raise SystemExit(_print_error(f"{error}\nSee --help for the flags of this command.")) from None


def _check_not_empty(may_be_empty: Collection[str]) -> None:
    """Raises UserError for a flag with nothing after the equals sign, as an unset shell variable leaves it.

    Otherwise the empty text would mean the current folder, or would count as a flag that was not given.
    """
    for name, flag in flags.FLAGS._flags().items():
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if flag.present and name == flag.name and name not in may_be_empty and (not values or "" in values):
            raise UserError(f"--{name} is empty; give it a value, or leave it out")


def define_hosts() -> HostFlags:
    """The flags of a command that may run as several processes; `prepare_jax` takes them."""
    return HostFlags(
        flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT of process 0, where several processes meet. Not needed under srun or mpirun, on Cloud TPU VMs "
            "and in GKE jobs, whose environment says it.",
        ),
        flags.DEFINE_integer("num_processes", None, "How many processes train together; with --coordinator."),
        flags.DEFINE_integer("process_id", None, "The number of this process, from 0; with --coordinator."),
        flags.DEFINE_float(
            "peer_timeout", hosts.JOIN_SECONDS, "Seconds to wait until all processes have come.", lower_bound=0.1
        ),
    )


def _refuse_several() -> None:
    """Raises UserError in every task of several: each would do the same work, and write the same files."""
    from train.process.cluster import task_of_several

    if (task := task_of_several()) is not None:
        launcher, index, count = task
        raise UserError(
            f"this command runs as one process, and {launcher} started {count}, of which this is number {index}; start "
            "it once, such as with srun --ntasks=1, or outside the job"
        )


def _begin_hosts(given: HostFlags | None) -> None:
    """Joins the other processes of this job, if there are any."""
    from train.process.cluster import membership

    if given is not None:
        member = membership(given.coordinator.value, given.num_processes.value, given.process_id.value)
        hosts.begin(member, given.peer_timeout.value)
    elif (member := membership()) is not None:
        raise UserError(
            f"this command runs as one process, and the environment of this job says that it is number {member.index} "
            f"of {member.count}; start it once, such as with srun --ntasks=1, or outside the job"
        )


def prepare_jax(*, keep_memory: bool = True, several: HostFlags | None = None, xla_flags: bool = False) -> None:
    """Keeps compiled programs between runs, so that a second start takes seconds; sets how the host handles memory.

    On a CPU the process keeps freed memory for the next step. With `keep_memory` False, for a command that does not
    train, it returns freed memory to the system at once. `several` are the flags of a command that may run as several
    processes; another command is refused where the environment asks for several. With `xla_flags` the compiler gets the
    flags of training (train/parallel/xla_flags.py), and the first process prints them.
    """
    if xla_flags:
        from train.parallel.xla_flags import describe, platform_here, set_flags

        platform = platform_here(os.environ)
        lines = describe(platform, set_flags(os.environ, platform))
    import jax

    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    _begin_hosts(several)
    for line in lines if xla_flags and hosts.is_writer() else ():
        print_escaped(line)
    # On a machine without a TPU, users need not know that there is none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    from train.process.allocator import keep_freed_memory, return_freed_memory

    # A CPU step that is dispatched from the main thread takes its buffers from the kept memory; see
    # train/process/allocator.py. jax reads the setting when the backend starts, and `default_backend` starts it.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu" and keep_memory:
        keep_freed_memory()
    elif not keep_memory:
        return_freed_memory()
    jax.config.update("jax_compilation_cache_dir", compilation_cache())
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def compilation_cache() -> str | None:
    """The folder of compiled programs: `$JAX_COMPILATION_CACHE_DIR`, or `~/.cache/cairn/xla` when that is not set.

    Removes entries that a killed process left half-written. Returns None, after a line on standard error, where the
    folder cannot be made or cannot be written.
    """
    from train.process.compilation_cache import remove_broken_entries

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and "://" in given:  # a remote folder, which jax opens itself
        return given
    folder = given or "~/.cache/cairn/xla"
    try:
        folder = os.path.abspath(expand_home(folder))
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 16))
    except (UserError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "no home folder is known"
        remedy = "give JAX_COMPILATION_CACHE_DIR a folder that can be written"
        print(f"compiled programs are not kept for the next run in {folder}: {why}; {remedy}", file=sys.stderr)
        return None
    remove_broken_entries(pathlib.Path(folder))
    # A disk that fills up later costs time, and without this filter a warning for each program.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    return folder
