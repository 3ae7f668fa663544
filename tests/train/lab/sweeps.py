"""Folders of sweeps as launch.sweep leaves them, with runs whose numbers are known, for tests of results and reports."""

import json
import math

import numpy as np

from model.options.json import to_json
from train import experiment as experiments
from train.config_file import with_overrides
from train.lab.variants import seeded
from train.run.metrics import MetricsWriter

STEPS, EVERY = 200, 20
# The final loss of every run is START - its decline - this offset - the seed's own luck.
OFFSETS = {"base": 0.0, "wide": -0.06, "same": 0.001, "slow": 0.05}
SETTINGS = {
    "base": [],
    "wide": ["model.ffn.width=96"],
    "same": ["model.norm=LayerNorm()"],
    "slow": ["schedule.peak=1.5e-3", "optimizer.weight_decay=0.1"],
}
SHARED = np.random.default_rng(0).normal(scale=0.02, size=64)


def luck(name, seed):
    return float(np.random.default_rng([seed, *name.encode()]).normal(scale=0.002))


def loss_at(step, name, seed, offsets=OFFSETS):
    return 1.5 + 4.0 * step**-0.5 + offsets[name] + SHARED[seed] + luck(name, seed)


def final(name, seed, offsets=OFFSETS):
    return loss_at(STEPS, name, seed, offsets)


def write_sweep(folder, base, settings=SETTINGS, offsets=OFFSETS, seeds=(0, 1, 2), search=None, steps=STEPS, **content):
    """Writes sweep.json and a finished run for every variant and seed. `content` replaces parts of sweep.json."""
    folder.mkdir(parents=True, exist_ok=True)
    variants = {name: {"settings": own, "held": [], "tuned": [], "note": ""} for name, own in settings.items()}
    described = {
        "format": 1,
        "name": "demo",
        "config": "configs/ablations/demo.py",
        "base": "base",
        "variants": variants,
        "seeds": list(seeds),
        "hold": None,
        "hold_by": None,
        "metric": "loss",
        "claim": None,
        "alpha": 0.05,
        "search": search,
        "experiment": to_json(base),
    }
    (folder / "sweep.json").write_text(json.dumps(described | content))
    for name in settings:
        for seed in seeds:
            write_run(folder, base, name, seed, settings[name], offsets, steps=steps)


def write_run(
    folder, base, name, seed, settings=(), offsets=OFFSETS, steps=STEPS, stop=None, state="finished", end=None
):
    """Writes a run; it stops at the step `stop`, and `end` replaces its last loss."""
    run = folder / f"{name}-seed{seed}"
    run.mkdir(exist_ok=True)
    experiments.save(with_overrides(base, seeded(settings, seed)), run)
    last = steps if stop is None else stop
    speed = 1000.0 * (1.5 if name == "slow" else 1.0)
    with MetricsWriter(run, tensorboard=False) as writer:
        for step in range(1, last + 1):
            if step % EVERY and step not in (1, last):
                continue
            loss = end if step == last and end is not None else loss_at(step, name, seed, offsets)
            writer.train(step, {"loss": loss + 0.05, "tokens": 64 * step, "padding": 0.0})
            timing = {"seconds": step * 64 / speed, "step_seconds": 64 / speed, "tokens_per_second": speed, "mfu": None}
            writer.throughput(step, timing | {"includes_compilation": step == 1, "peak_bytes": 300_000_000 + step})
            if step % EVERY == 0 or step == last:
                bits = loss / math.log(2) / 4
                writer.evaluation(step, {"loss": loss, "perplexity": math.exp(min(loss, 700)), "bits_per_byte": bits})
                writer.evaluation(step, {"loss": loss + 1.0}, "wiki")
        writer.status(state, last, total_steps=steps, reason=None if state == "finished" else "the disk is full")


def search_record(rates=(1e-4, 3e-4, 1e-3, 3e-3), best=1e-3, at_edge=False):
    """The record of the search of a rate: two rounds, one failed run."""

    def losses(tried, length):
        return {f"{rate:.3g}": 2.0 + 0.1 * math.log10(rate / best) ** 2 + 20 / length for rate in tried}

    first = losses(rates, 50) | {f"{rates[-1]:.3g}": None}
    rounds = [{"steps": 50, "losses": first}, {"steps": 100, "losses": losses(rates[1:3], 100)}]
    return {"field": "schedule.peak", "rate": best, "at_edge": at_edge, "runs": 6, "rounds": rounds}
