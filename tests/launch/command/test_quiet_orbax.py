import logging
import pathlib
import subprocess
import sys
import types

from launch.command.quiet_orbax import quiet_orbax
from tests.tiers import SWEEP

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_what_orbax_logs_is_dropped_and_nothing_else(caplog):
    quiet_orbax()
    gathered = "_GatheringFuture exception was never retrieved: See full TensorStore details"
    texts = (
        ("/lib/orbax/a.py", "saving"),
        ("/lib/b.py", "orbax said"),
        ("/lib/b.py", gathered),
        ("/lib/b.py", "counts"),
    )
    for path, text in texts:
        logging.getLogger("absl").handle(logging.LogRecord("absl", logging.WARNING, path, 1, text, (), None))
    assert [record.getMessage() for record in caplog.records] == ["counts"]


def test_only_what_late_writers_leave_behind_is_dropped(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    quiet_orbax()
    quiet_orbax()  # once is enough
    coroutine = types.SimpleNamespace(cr_code=types.SimpleNamespace(co_filename="/lib/orbax/a.py"))
    late = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    theirs = types.SimpleNamespace(exc_value=ValueError("other"), object=coroutine)
    ours = types.SimpleNamespace(exc_value=ValueError("other"), object=None)
    for unraisable in (late, theirs, ours):
        sys.unraisablehook(unraisable)
    assert told == [ours]


LIBRARY = """
import logging, pathlib, signal, sys, warnings
hook, filters = sys.unraisablehook, list(warnings.filters)
from tests import conftest
from train.checkpoints.store import CheckpointStore
from train.config_file import from_file
from train.loop import train

run, config = map(pathlib.Path, sys.argv[1:])
handlers = [signal.getsignal(number) for number in signal.valid_signals()]
experiment = from_file(str(config))
during = []
train(experiment, run, say=lambda line: during.append((sys.unraisablehook, signal.getsignal(signal.SIGTERM))))
with CheckpointStore(run, experiment.checkpoints, read_only=True) as store:
    assert store.steps() == [2]
assert {hook for hook, _ in during} == {hook}, "the hook was another while it trained"
assert {handler for _, handler in during} == {signal.SIG_DFL}
assert sys.unraisablehook is hook
assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
assert not [f for name in ("absl", "asyncio") for f in logging.getLogger(name).filters if "orbax" in repr(f)]
assert not [f for f in warnings.filters if f not in filters and "never awaited" in str(f[1] and f[1].pattern)]
print("as it was")
"""


@SWEEP
def test_library_code_leaves_hooks_handlers_and_logs_alone(tiny_experiment, write_config, tmp_path):
    """In a process of its own: a whole training, and a look at its checkpoints."""
    experiment = tiny_experiment(training__num_steps=2, schedule="Constant(peak=1e-3)", samples__prompts=())
    config = write_config(experiment, tmp_path / "config.py")
    program = [sys.executable, "-c", LIBRARY, str(tmp_path / "run"), str(config)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "as it was\n"), done.stderr
