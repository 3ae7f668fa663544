"""Compares the lm_eval adapter with the harness's own Hugging Face backend, on one small LLaMA and two tokenizers.

    python -m tests.parity.harness.compare [--record]

It makes a model folder, reads it into a run, and asks both the same: log-likelihoods (to 1e-4) and is_greedy, rolling
log-likelihoods (to 1e-6 of long sums), generated texts; then tasks from local files, whose metrics are compared. --record writes the requests
and the backend's answers to tests/fixtures/harness, for tests without lm_eval and torch.
"""

import json
import os
import pathlib
import sys
import tempfile

from tests.benchmarks.command import answer_help, fail, require_torch
from tests.parity.harness.folder import KINDS, make_folder, make_tasks, requests_of

answer_help(__name__, __doc__)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
require_torch("parity-harness")
try:
    from lm_eval.api.instance import Instance
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError:
    fail("this compares with lm_eval's Hugging Face backend: pip install -e '.[parity-harness]'")

from train.conversion.reading import read_published  # noqa: E402
from train.evaluation.harness.adapter import adapter_class, evaluate_tasks  # noqa: E402
from train.run.loading import load_run  # noqa: E402

FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "harness"
TOLERANCE = 1e-4


def instances(kind, requests):
    """Returns requests as the harness's."""
    return [Instance(kind, {}, tuple(request), i, metadata=("local", i, 1)) for i, request in enumerate(requests)]


def answers_of(model, asked):
    """Returns what a model of the harness answers to all requests."""
    found = {
        kind: getattr(model, kind)(instances(kind, requests), disable_tqdm=True) for kind, requests in asked.items()
    }
    return {kind: [list(a) if isinstance(a, tuple) else a for a in answers] for kind, answers in found.items()}


def differences(ours, theirs):
    """Returns the largest difference of log-likelihoods, and the numbers of other answers that differ."""
    scored = list(zip(ours["loglikelihood"], theirs["loglikelihood"], strict=True))
    rolled = zip(ours["loglikelihood_rolling"], theirs["loglikelihood_rolling"], strict=True)
    texts = zip(ours["generate_until"], theirs["generate_until"], strict=True)
    return {
        "loglikelihood": max(abs(a[0] - b[0]) for a, b in scored),
        "rolling": max(abs(a - b) / max(1.0, abs(b) / 100) for a, b in rolled),  # a sum over hundreds of tokens
        "is_greedy": sum(a[1] != b[1] for a, b in scored),
        "texts": sum(a != b for a, b in texts),
    }


def metrics_of(results):
    """Returns {task, metric: value} of the harness's results."""
    return {
        (task, name): value
        for task, metrics in results.items()
        for name, value in metrics.items()
        if isinstance(value, float) and "stderr" not in name
    }


def compare(kind, record):
    """Prints the comparison of one tokenizer; returns whether it holds."""
    with tempfile.TemporaryDirectory() as name:
        there = pathlib.Path(name)
        folder, run = make_folder(there / "model", kind), there / "run"
        read_published(folder, run, parameter_dtype="float32")
        # One text at a time: of several, the backend looks for a begin token in the first alone.
        backend = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
        loaded = load_run(run)
        adapter, asked = adapter_class()(loaded), requests_of()
        ours, theirs = answers_of(adapter, asked), answers_of(backend, asked)
        found = differences(ours, theirs)
        tasks = make_tasks(there / "tasks")
        names = sorted(path.stem for path in tasks.glob("*.yaml"))
        of_adapter = metrics_of(evaluate_tasks(loaded, names, tasks)["results"])
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        of_backend = metrics_of(
            simple_evaluate(backend, tasks=names, task_manager=manager, bootstrap_iters=0)["results"]
        )
        assert of_adapter.keys() == of_backend.keys(), (of_adapter, of_backend)
        relative = [abs(of_adapter[k] - v) / max(1, abs(v)) for k, v in of_backend.items()]
        found["metrics"] = max(relative)
    print(f"{kind:<12}", "  ".join(f"{name} {value:.1e}" for name, value in found.items()), f"of {len(relative)}")
    for (task, name), value in of_backend.items():
        print(f"    {task:<8} {name:<24} theirs {value:.6f}  ours {of_adapter[task, name]:.6f}")
    if record:
        text = json.dumps({"requests": asked, "answers": theirs}, indent=1, ensure_ascii=False)
        (FIXTURE / f"{kind}.json").write_text(text + "\n", encoding="utf-8")
    numbers = max(found["loglikelihood"], found["rolling"], found["metrics"])
    return numbers < TOLERANCE and not found["is_greedy"] and not found["texts"]


if __name__ == "__main__":
    held = [compare(kind, "--record" in sys.argv) for kind in KINDS]
    sys.exit(0 if all(held) else 1)
