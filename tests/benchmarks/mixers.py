"""Why attention replaced recurrences, as one table: mixers with as many parameters each, trained on as many tokens.

    python -m tests.benchmarks.mixers --text=tinyshakespeare.txt [--steps=400] [--runs=runs/mixers] [--rounds=10]

For each variant of configs/ablations/mixers.py: parameters; the loss of the whole validation split
after so many steps; milliseconds of a forward and backward pass over 1,024 tokens, as 16 rows of 64 and as one row of
1,024, the mixers in turn (median over the rounds); and how far back the trained model looks: the norm of the derivative
of the loss of a window's last token with respect to the embedding k tokens before it, the mean over windows of the
validation split. A run folder that is finished is not trained again.
"""

import argparse
import dataclasses
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.command.cli import prepare_jax
from model.config import ModelConfig
from model.cost import count_parameters
from model.transformer import forward, init
from tests.benchmarks.command import ROOT, path, run
from train.lab.variants import ablation_from_file, resolve
from train.loop import train
from train.run.loading import load_run
from train.run.metrics import read_metrics

ABLATION = "configs/ablations/mixers.py"
SHAPES = ((16, 64), (1, 1024))
DISTANCES = (1, 2, 4, 8, 16, 32)


def nll(config: ModelConfig, params: dict, tokens_BT: jax.Array, targets_BT: jax.Array, **options) -> jax.Array:
    """The cross-entropy of every target, (B, T)."""
    logits_BTV = forward(config, params, tokens_BT, **options).logits_BTV
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT


def by_distance(folder: pathlib.Path, windows: int = 64) -> list[float]:
    """The norms of those derivatives, one for each distance."""
    loaded = load_run(folder)
    config, length = loaded.experiment.model, loaded.experiment.data.sequence_length
    split = loaded.dataset().split("validation")[0]
    text = np.concatenate([split.tokens(i) for i in range(split.num_documents)])
    starts = np.linspace(0, len(text) - length - 1, windows).astype(int)
    cut = np.stack([text[start : start + length + 1] for start in starts]).astype(np.int32)
    # A row of positions for each window, so that one backward pass has the derivative of each by itself.
    config = dataclasses.replace(config, context_length=windows * length)
    positions = np.arange(windows * length, dtype=np.int32).reshape(windows, length)
    table = jnp.tile(loaded.params["position"]["table"][:length], (windows, 1))

    @jax.jit
    def slopes(table: jax.Array, params: dict) -> jax.Array:
        def last(table: jax.Array) -> jax.Array:
            params_with = {**params, "position": {"table": table}}
            return nll(config, params_with, cut[:, :-1], cut[:, 1:], positions_BT=positions)[:, -1].sum()

        return jax.grad(last)(table).reshape(windows, length, -1)

    norms_BT = jnp.linalg.norm(slopes(table, loaded.params), axis=-1)
    return [float(norms_BT[:, length - 1 - k].mean()) for k in DISTANCES]


def milliseconds(configs: dict[str, ModelConfig], shape: tuple[int, int], rounds: int) -> dict[str, float]:
    """The median time of a forward and backward pass of each, in turn."""
    tokens = np.random.default_rng(0).integers(0, 65, shape).astype(np.int32)
    steps, times = {}, {name: [] for name in configs}
    for name, config in configs.items():
        long = dataclasses.replace(config, context_length=shape[1])
        params = jax.jit(init, static_argnums=0)(long, jax.random.key(0))
        step = jax.jit(jax.grad(lambda params, c=long: nll(c, params, tokens, tokens).mean()))
        jax.block_until_ready(step(params))
        steps[name] = lambda step=step, params=params: jax.block_until_ready(step(params))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(some) for name, some in times.items()}


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
        reach[name] = by_distance(folder)
    models = {name: experiment.model for name, experiment in experiments.items()}
    times = [milliseconds(models, shape, flags.rounds) for shape in SHAPES]

    heads = ["parameters", "loss", *(f"ms {b}x{t}" for b, t in SHAPES), *(f"k={k}" for k in DISTANCES)]
    print(
        f"{flags.steps} steps of {experiment.data.batch_size} x {experiment.data.sequence_length} tokens; k=: 1e-3 nats"
    )
    print("| mixer | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for name, config in models.items():
        cells = [f"{count_parameters(config).total:,}", f"{losses[name]:.3f}", *(f"{t[name]:.0f}" for t in times)]
        print("| " + " | ".join([name, *cells, *(f"{1e3 * norm:.3g}" for norm in reach[name])]) + " |")


if __name__ == "__main__":
    run(main)
