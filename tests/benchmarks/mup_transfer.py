"""The best learning rate at several widths, under muP and under the standard parametrisation.

    python -m tests.benchmarks.mup_transfer
    python -m tests.benchmarks.mup_transfer --widths=64,256 --steps=100 --seeds=0 --json=transfer.json

A byte-level Transformer of two layers reads the source code of Python's standard library, every window once. Rates are
in steps of a factor 2, with a warm-up and a linear decay to 0; the loss of a run is the mean over its last tenth of
steps. A run is one compiled loop, and all rates and seeds of a width share it.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
import sysconfig
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.layout import ONE_DEVICE
from model.options.field_marks import resized
from model.parameters.maker import Normal
from model.parameters.parametrization import MuP, Standard
from model.transformer import init, specs
from model.vocabulary.embedding import Untied
from train.objectives.next_token import NextToken
from train.optimizers.options import AdamW, build, set_learning_rate

BASE_WIDTH = 64


def model_of(width, parametrization, layers=2, length=32):
    """A model whose heads are 16 wide at every width."""
    base = ModelConfig(
        vocab_size=256,
        context_length=length,
        num_layers=layers,
        width=BASE_WIDTH,
        mixer=GroupedQuery(num_heads=BASE_WIDTH // 16),
        ffn=MLP(width=4 * BASE_WIDTH),
        unembedding=Untied(),
        initialization=Normal(std=0.05),
        parametrization=parametrization,
    )
    return resized(base, Fraction(width, BASE_WIDTH))


def text():
    """The source code of Python's standard library, as bytes."""
    files = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)


def batches(steps, rows, length, seed):
    """Windows of the text, each once, (steps, rows, length + 1)."""
    data = text()
    starts = np.random.default_rng(seed).permutation(len(data) // (length + 1))[: steps * rows] * (length + 1)
    windows = data[starts[:, None] + np.arange(length + 1)]
    return jnp.asarray(windows.reshape(steps, rows, length + 1), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def trained(model, peak, seed, windows):
    """The loss of every step, (steps,)."""
    optimizer, steps = build(AdamW(), specs(model)), len(windows)

    def loss(params, tokens):
        batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones(tokens[:, 1:].shape)}
        total, _ = NextToken().loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)
        return total / batch["weights"].size

    def step(state, inputs):
        params, opt_state = state
        n, tokens = inputs
        value, grads = jax.value_and_grad(loss)(params, tokens)
        share = jnp.minimum((n + 1) / (0.1 * steps), (steps - n) / (0.9 * steps))
        updates, opt_state = optimizer.update(grads, set_learning_rate(opt_state, peak * share), params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = init(model, jax.random.key(seed))
    return jax.lax.scan(step, (params, optimizer.init(params)), (jnp.arange(steps), windows))[1]


def final_losses(model, rates, seeds, steps, rows=8):
    """The loss of the last tenth of steps, (rates, seeds)."""
    found = np.zeros((len(rates), len(seeds)))
    for j, seed in enumerate(seeds):
        windows = batches(steps, rows, model.context_length, seed)
        for i, rate in enumerate(rates):
            losses = np.asarray(trained(model, jnp.float32(rate), seed, windows))
            found[i, j] = losses[-max(1, steps // 10) :].mean()
            print(
                f"  width {model.width}, rate {rate:.3g}, seed {seed}: {found[i, j]:.4f}", file=sys.stderr, flush=True
            )
    return found


def best(losses):
    """The index of the rate with the lowest mean loss over seeds."""
    return int(np.argmin(np.where(np.isfinite(losses), losses, np.inf).mean(axis=1)))


def main():
    """Measures every width under both parametrisations and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--exponents", default="-10,-9,-8,-7,-6,-5,-4", help="rates are these powers of 2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", choices=["standard", "muP"])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    exponents, seeds, widths = (
        [int(x) for x in given.split(",")] for given in (arguments.exponents, arguments.seeds, arguments.widths)
    )
    kinds = {"muP": MuP(base_width=BASE_WIDTH), "standard": Standard()}
    found = {}
    for name, parametrization in kinds.items():
        if arguments.only not in (None, name):
            continue
        for width in widths:
            began = time.time()
            model = model_of(width, dataclasses.replace(parametrization))
            losses = final_losses(model, [2.0**x for x in exponents], seeds, arguments.steps)
            found[f"{name} {width}"] = losses.tolist()
            row = "  ".join(
                f"2^{x} {mean:.3f}±{spread:.3f}"
                for x, mean, spread in zip(exponents, losses.mean(1), losses.std(1, ddof=len(seeds) > 1), strict=True)
            )
            print(f"{name:8s} {width:4d}: best 2^{exponents[best(losses)]}; {row}; {time.time() - began:.0f} s")
            sys.stdout.flush()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(vars(arguments) | {"losses": found}))


if __name__ == "__main__":
    main()
