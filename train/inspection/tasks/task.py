"""The task that made the training data of a run."""

from typing import TypeVar

from model.errors import UserError
from train.data.generated import Generated
from train.run.loading import LoadedRun

T = TypeVar("T")


def task_of(run: LoadedRun, kind: type[T], config: str) -> T:
    """The task of a run. Raises UserError for a run of another task or of text; `config` makes one that fits."""
    data = run.experiment.data
    task = data.task if isinstance(data, Generated) else None
    if isinstance(task, kind):
        return task
    made = "text" if task is None else type(task).__name__
    raise UserError(f"{run.folder} was trained on {made}; expected a run of {config}")
