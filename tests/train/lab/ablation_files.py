"""Helpers of tests of sweeps: a file of a tiny ablation, and processes that only write what a run would."""

import json

FILE = """import dataclasses, json
from model.options.json import from_json
from train.experiment import Experiment
from train.lab.ablation import Ablation, Hold, RateSearch

ablation = Ablation(base=from_json(Experiment, json.loads({text!r})), {fields})
"""


def write_ablation(path, experiment, fields):
    """Writes the file of an ablation; `fields` are the Python text of all but its base."""
    from model.options.json import to_json

    path.write_text(FILE.format(text=json.dumps(to_json(experiment)), fields=fields), encoding="utf-8")
    return path


def pretend(run, loss, state="finished", reason=None):
    """Fills the folder of a run as one at its end does."""
    from train import experiment as experiments

    run.folder.mkdir(parents=True, exist_ok=True)
    experiments.save(run.experiment, run.folder)
    step = run.experiment.training.num_steps
    lines = [
        {"kind": "eval", "step": step, "loss": loss},
        {"kind": "eval", "step": step, "name": "far", "loss": 2 * loss},
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "status.json").write_text(json.dumps({"state": state, "step": step, "reason": reason}))
