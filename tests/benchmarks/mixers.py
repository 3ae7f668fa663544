"""Why attention replaced recurrences, as one table: mixers with as many parameters each, trained on as many tokens.

    python -m tests.benchmarks.mixers --text=tinyshakespeare.txt [--steps=400] [--runs=runs/mixers] [--rounds=10]

For each variant of configs/ablations/mixers.py: parameters; the loss of the whole validation split
after so many steps; milliseconds of a forward and backward pass over 1,024 tokens, as 16 rows of 64 and as one row of
1,024, the mixers in turn (median over the rounds); and how far back the trained model looks: the norm of the derivative
of the loss of a window's last token with respect to the embedding k tokens before it, the mean over windows of the
validation split. A run folder that is finished is not trained again. Of a whole sweep `launch.report --reach
--lengths=64,1024` measures the same, with all its seeds.
"""

import argparse
import pathlib
import statistics

from launch.command.cli import prepare_jax
from model.cost import count_parameters
from tests.benchmarks.command import ROOT, path, run
from train.lab.mixing.lengths import pass_seconds
from train.lab.mixing.reach import gradient_norms
from train.lab.variants import ablation_from_file, resolve
from train.loop import train
from train.run.loading import load_run
from train.run.metrics import read_metrics

ABLATION = "configs/ablations/mixers.py"
LENGTHS, TOKENS = (64, 1024), 1024
DISTANCES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Trains what is not there yet, measures, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=path, default=pathlib.Path("runs/mixers"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[])
    flags = parser.parse_args()
    prepare_jax()
    changes = [f"data.path={flags.text}", f"training.num_steps={flags.steps}", f"evaluation.every={flags.steps}"]
    ablation = ablation_from_file(str(ROOT / ABLATION), [*changes, *flags.set])
    experiments = {name: variant.experiment for name, variant in resolve(ablation).items()}
    losses, reach = {}, {}
    for name, experiment in experiments.items():
        folder = flags.runs / name
        train(experiment, folder)
        losses[name] = [line["loss"] for line in read_metrics(folder) if line["kind"] == "eval"][-1]
        reach[name] = gradient_norms(load_run(folder))
    times = [pass_seconds(experiments, TOKENS, length, flags.rounds) for length in LENGTHS]

    heads = ["parameters", "loss", *(f"ms {TOKENS // t}x{t}" for t in LENGTHS), *(f"k={k}" for k in DISTANCES)]
    print(
        f"{flags.steps} steps of {experiment.data.batch_size} x {experiment.data.sequence_length} tokens; k=: 1e-3 nats"
    )
    print("| mixer | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for name, experiment in experiments.items():
        milliseconds = (f"{1e3 * statistics.median(each[name]):.0f}" for each in times)
        cells = [f"{count_parameters(experiment.model).total:,}", f"{losses[name]:.3f}", *milliseconds]
        print("| " + " | ".join([name, *cells, *(f"{1e3 * reach[name][k]:.3g}" for k in DISTANCES)]) + " |")


if __name__ == "__main__":
    run(main)
