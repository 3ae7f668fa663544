"""The validation loss of configs/shakespeare_char.py over seeds: nanoGPT's estimator, and the whole split.

    python -m tests.benchmarks.nanogpt_loss --text=tinyshakespeare.txt [--seeds=3] [--runs=runs/nanogpt_loss]

nanoGPT's estimator on a CPU is the mean loss of 20 batches of 12 windows of 64 characters, cut at random places of the
validation text. The whole split is every character once, in windows of 64. Both are of the parameters after the last
step. A run folder that is finished is not trained again.
"""

import argparse
import pathlib
import statistics

from tests.benchmarks.command import ROOT, path, run
from tests.benchmarks.repeats import over_seeds


def estimate(folder: pathlib.Path, seed: int, num_batches: int = 20) -> float:
    """nanoGPT's estimator: the mean loss of random windows of the validation split."""
    import jax
    import numpy as np

    from train.objectives.next_token import token_nll
    from train.run.loading import load_run

    loaded = load_run(folder)
    data = loaded.experiment.data
    split = loaded.dataset().split("validation")[0]
    text = np.concatenate([split.tokens(i) for i in range(split.num_documents)])
    draw = np.random.default_rng(seed)
    evaluate = jax.jit(lambda params, batch: token_nll(loaded.experiment.model, params, batch, loaded.layout).mean())
    losses = []
    for _ in range(num_batches):
        starts = draw.integers(0, len(text) - data.sequence_length, data.batch_size)
        windows = np.stack([text[s : s + data.sequence_length + 1] for s in starts]).astype(np.int32)
        losses.append(float(evaluate(loaded.params, {"tokens": windows[:, :-1], "targets": windows[:, 1:]})))
    return statistics.mean(losses)


def main() -> None:
    """Trains the seeds that are not there yet and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=path, default=ROOT / "runs" / "nanogpt_loss")
    parser.add_argument("--set", action="append", default=[])
    flags = parser.parse_args()
    from launch.command.cli import prepare_jax
    from train.config_file import from_file
    from train.loop import train
    from train.run.metrics import read_metrics

    prepare_jax()

    def measure(seed: int) -> tuple[float, float]:
        folder = flags.runs / f"seed{seed}"
        overrides = [f"data.path={flags.text}", f"training.seed={seed}", f"data.seed={seed}", *flags.set]
        train(from_file(str(ROOT / "configs" / "shakespeare_char.py"), overrides), folder)
        whole = [line["loss"] for line in read_metrics(folder) if line["kind"] == "eval"][-1]
        return estimate(folder, seed), whole

    over_seeds(range(flags.seeds), measure)


if __name__ == "__main__":
    run(main)
