"""Finds the complete checkpoints of a run in a store while another process uploads some and removes others.

Orbax writes every checkpoint to a disk, so its own mark for stores (commit_success.txt) is missing. The mark here is
the record of a checkpoint's files (train/checkpoints/files.py): a training run uploads it last and removes it first
(train/files/spool.py). Other programs, such as `gcloud storage rsync` and `aws s3 sync`, upload in any order, so all
files that the record names must be there too. A store shows a file only after all of it was written.
"""

import json
from collections.abc import Callable, Iterable

from train.checkpoints.files import DIGESTS_FILE
from train.files.paths import AnyPath


def complete_steps(folder: AnyPath, steps: Iterable[int], say: Callable[[str], None]) -> set[int]:
    """The steps whose checkpoints in a folder are complete; `say` gets a line for each of the others.

    Raises the errors of the store.
    """
    complete = set()
    for step in sorted(steps):
        missing = missing_file(folder / str(step))
        if missing is None:
            complete.add(step)
        else:
            say(
                f"checkpoint {step} in {folder} is ignored because {missing} is not there: it is being uploaded or "
                "removed, or its upload has failed"
            )
    return complete


def missing_file(checkpoint: AnyPath) -> str | None:
    """The first file of a checkpoint that is not there; None if the checkpoint is complete."""
    try:
        record = json.loads((checkpoint / DIGESTS_FILE).read_bytes())
    except FileNotFoundError:  # never uploaded, or another process has just begun to remove the checkpoint
        return None if _had_no_record(checkpoint) else DIGESTS_FILE
    except ValueError:  # damage, which is named when the checkpoint is read
        return None
    if not isinstance(record, dict):  # damage too
        return None
    listed: dict[str, set[str]] = {}
    for name in sorted(record):
        folder, _, file = name.rpartition("/")
        if folder not in listed:
            listed[folder] = _names_in(checkpoint / folder)
        if file not in listed[folder]:
            return name
    return None


def _had_no_record(checkpoint: AnyPath) -> bool:
    """Whether a checkpoint has format 1, whose first checkpoints were saved without a record."""
    try:
        stored = json.loads((checkpoint / "note" / "metadata").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("format") == 1


def _names_in(folder: AnyPath) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except FileNotFoundError:  # removed in the meantime
        return set()
