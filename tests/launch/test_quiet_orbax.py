import logging
import sys
import types

from launch.quiet_orbax import quiet_orbax


def test_what_orbax_logs_is_dropped_and_nothing_else(caplog):
    quiet_orbax()
    for path, text in (("/lib/orbax/a.py", "saving"), ("/lib/b.py", "orbax said"), ("/lib/b.py", "counts")):
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
