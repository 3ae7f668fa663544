"""Where several processes meet: in a save, which ends at once when one could not write its part, and before reading.

Orbax writes in a background thread of each process: the threads meet when all arrays are written, when the checkpoint
has its name, and around the change of a flag, at the beginning of a save and at its end. A thread that fails goes
straight to the end, where the others would miss it until a time-out of many minutes. Here it announces its failure
there, and the others stop waiting.
"""

import collections
import itertools
import json
import pathlib
import time
import zlib

from train.checkpoints.faults import cause_message, damaged_error, unreadable_error
from train.checkpoints.files import first_difference
from train.files.paths import AnyPath
from train.process import hosts

_FLAG = "set_value_start"  # in the key of the first barrier at the beginning and at the end of a save
_COMMIT = "async_commit_complete"  # in the key of the last barrier before the end
_SLICE_SECONDS = 1.0
PEER_FAILED = "another process could not write its part"


class SaveBarrier:
    """The barrier that orbax calls in every process; `begin` starts a save."""

    _numbers = itertools.count()  # all processes open the same stores, in the same order

    def __init__(self, group: hosts.Group) -> None:
        """Args: the processes."""
        self._group = group
        self._number, self._save, self._committed = next(self._numbers), 0, False
        self._calls: collections.Counter[str] = collections.Counter()

    def begin(self) -> None:
        """Starts a save; all processes start the same one."""
        self._save, self._committed = self._save + 1, False
        self._calls.clear()

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Returns when all processes have called it with this key.

        Raises RuntimeError when another process has failed, and TimeoutError after `timeout_ms`.
        """
        store, index = self._group.store, self._group.index
        self._calls[key] += 1
        save, is_end = f"cairn/save/{self._number}/{self._save}", _FLAG in key and self._calls[key] == 2
        if is_end and not self._committed:
            store.put(f"{save}/failed/{index}", "")
        folder = f"{save}/{zlib.crc32(key.encode()):08x}/{self._calls[key]}/"
        store.put(f"{folder}{index}", "")
        deadline = time.monotonic() + timeout_ms / 1000
        awaited = [f"{folder}{number}" for number in range(self._group.count)] if index == 0 else [f"{folder}all"]
        for name in awaited:
            while store.get(name, _SLICE_SECONDS) is None:
                if "async_" in key and store.numbers(f"{save}/failed/"):
                    raise RuntimeError(PEER_FAILED)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the other processes did not come to {key} within {timeout_ms / 1000:g} s")
        if index == 0:
            store.put(f"{folder}all", "")
        self._committed = self._committed or _COMMIT in key


def first_cause(failures: list[str]) -> str | None:
    """The message for a save, from those of all processes, empty where nothing failed; None when it succeeded."""
    found = [(PEER_FAILED in text, number, text) for number, text in enumerate(failures) if text]
    if not found:
        return None
    _, number, text = min(found)
    return text if number == 0 else f"process {number}: {text}"


def check_shares(checkpoint: AnyPath) -> None:
    """Compares the files of a checkpoint with their record, each of several processes a share of them.

    They do so before all read the checkpoint at once: a process that alone met a damaged file would leave the others
    waiting.

    Raises in all processes DamagedError or UnreadableError.
    """
    assert isinstance(checkpoint, pathlib.Path)
    try:
        wrong, _ = first_difference(checkpoint, (hosts.index(), hosts.count()))
        found = ("damaged", wrong) if wrong else ("", "")
    except OSError as error:
        found = ("unreadable", cause_message(error))
    for kind, text in map(json.loads, hosts.gather(json.dumps(found))):
        if kind:
            raise (damaged_error if kind == "damaged" else unreadable_error)(checkpoint, text)
