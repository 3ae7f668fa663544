"""The adapter: a subclass of the harness's `TemplateLM` for a run, and the tasks that are measured with it."""

import functools
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any

from model.errors import UserError
from train.evaluation.harness.model import HarnessModel
from train.evaluation.harness.requests import Continuation, parse_generation, rolling_windows
from train.run.loading import LoadedRun

INSTALL = "pip install -e '.[harness]'"


@functools.cache
def adapter_class() -> type:
    """The subclass of `lm_eval.api.model.TemplateLM`. Raises UserError when the harness is not installed."""
    try:
        from lm_eval.api.model import TemplateLM
        from tqdm import tqdm
    except ImportError as error:
        raise UserError(f"--harness needs the package lm-eval, which is not installed ({error}): {INSTALL}") from None

    class CairnLM(TemplateLM):  # type: ignore[misc, unused-ignore]
        """A run as a model of the harness."""

        def __init__(self, run: LoadedRun) -> None:
            super().__init__()
            self.model = HarnessModel(run)
            self._name = str(run.folder)

        @property
        def eot_token_id(self) -> int:
            return self.model.marks.end

        @property
        def prefix_token_id(self) -> int:
            return self.model.marks.prefix

        @property
        def max_length(self) -> int:
            return self.model.max_length

        @property
        def tokenizer_name(self) -> str:
            return self._name.replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return self.model.encode(string, add_special_tokens)

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
        ) -> list[tuple[float, bool]]:
            asked = [Continuation(list(context), list(continuation)) for _, context, continuation in requests]
            with tqdm(total=len(asked), desc="scoring continuations", disable=disable_tqdm) as bar:
                found = self.model.score(asked, bar.update)
            for (texts, _, _), result in zip(requests, found, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
            return found

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            windows, owners = [], []
            for number, request in enumerate(requests):
                ids = self.tok_encode(request.args[0])
                for window in rolling_windows(ids, self.prefix_token_id, self.max_length):
                    windows.append((None, *window))
                    owners.append(number)
            totals = [0.0] * len(requests)
            for number, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
                totals[number] += value
            for request, total in zip(requests, totals, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            asked = []
            for request in requests:
                context, keywords = request.args
                asked.append((context, parse_generation(keywords, request.task_name or "the task")))
            with tqdm(total=len(asked), desc="generating texts", disable=disable_tqdm) as bar:
                found = self.model.generate(asked, bar.update)
            for request, text in zip(requests, found, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            return found

    return CairnLM


def evaluate_tasks(
    run: LoadedRun,
    tasks: Sequence[str],
    folder: pathlib.Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> dict[str, Any]:
    """Measures a run on tasks of the harness.

    Args:
      run: the run.
      tasks: names of tasks or groups, or paths of task files (.yaml).
      folder: a folder with further task files, or None.
      limit: documents of each task, the first ones; None for all.
      num_fewshot: examples before each document; None for the number that the task names.

    Returns:
      `run`, `step`, `lm_eval` (its version), and the harness's `results`, `versions`, `n-shot` and `n-samples`.

    Raises:
      UserError: for unknown tasks, for tasks that the model cannot answer, and without the package lm-eval.
    """
    lm = adapter_class()(run)
    from lm_eval.evaluator import simple_evaluate

    manager = _task_manager(tasks, folder)
    result = simple_evaluate(
        model=lm, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=num_fewshot, log_samples=False
    )
    assert result is not None
    kept = {name: result.get(name, {}) for name in ("results", "groups", "versions", "n-shot", "n-samples")}
    about = {"run": str(run.folder), "step": run.step, "lm_eval": importlib.metadata.version("lm-eval")}
    return about | kept


def _task_manager(tasks: Sequence[str], folder: pathlib.Path | None) -> Any:
    """The harness's index of tasks; its own thousands, which take long to read, only if a task is not in the folder."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise UserError(f"--harness_folder={folder}: there is no such folder; it holds task files (.yaml)")
    unknown = [task for task in tasks if not pathlib.Path(task).is_file()]
    for defaults in (False, True):
        manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=defaults)
        unknown = [task for task in unknown if not manager.match_tasks([task])]
        if not unknown:
            return manager
    raise UserError(
        f"--harness: no task is called {unknown[0]!r}; `lm-eval ls tasks` lists those of the harness, and "
        "--harness_folder adds your own"
    )


def table(result: dict[str, Any]) -> str:
    """The metrics of all tasks, one a line: task, metric (with its filter), value, standard error."""
    rows = [("task", "metric", "value", "standard error")]
    for task, metrics in result["results"].items():
        for key, value in metrics.items():
            name, _, filtered = key.partition(",")
            if not isinstance(value, int | float) or name.endswith("_stderr") or name in ("sample_len",):
                continue
            error = metrics.get(f"{name}_stderr,{filtered}")
            shown = f"{error:.4f}" if isinstance(error, int | float) else "-"
            rows.append((task, name if filtered in ("", "none") else f"{name} ({filtered})", f"{value:.4f}", shown))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = [
        f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows
    ]
    return "\n".join([f"{result['run']}, step {result['step']}, lm_eval {result['lm_eval']}", "", *lines])
