"""Tokens per second of processor time of a training of autoencoders, beside those of the model's own forward pass.

    python -m tests.benchmarks.features.speed                     a model of 124 million parameters, random weights
    python -m tests.benchmarks.features.speed --width=3072 --layers=4

The forward pass is that of an evaluation: the stream and the loss of every token. The training takes in the forward
pass, up to the stream, the buffer and the updates of one autoencoder. Both run the same batches on all devices here.
Compilation is not counted. Seconds are those of the processor, all threads together, so that other work beside it counts
little; on accelerators give --wall for those of the clock. The middle of `--repeats` measurements is printed, with the smallest and the largest.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np


def made_run(folder, layers, length, rows):
    """A run of one step of a GPT-2-like model on text that is drawn at random."""
    from model.attention.grouped_query import GroupedQuery
    from model.config import ModelConfig
    from model.feedforward.mlp import MLP
    from train.data.config import Bytes, Data, Tail
    from train.experiment import Experiment, Logging, Samples, Training
    from train.loop import train
    from train.optimizers.options import SGD
    from train.schedules import Constant

    text = folder / "text"
    text.mkdir()
    draw = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in draw.integers(0, 26, 5)) for _ in range(500)]
    (text / "a.txt").write_text(" ".join(draw.choice(words, 200_000)))
    experiment = Experiment(
        model=ModelConfig(
            vocab_size=257,
            context_length=length,
            num_layers=layers,
            width=768,
            mixer=GroupedQuery(num_heads=12),
            ffn=MLP(width=3072),
        ),
        data=Data(path=str(text), tokenizer=Bytes(), validation=Tail(), batch_size=rows, sequence_length=length),
        training=Training(num_steps=1),
        optimizer=SGD(momentum=0.0),
        schedule=Constant(peak=1e-6),
        samples=Samples(length=8),
        logging=Logging(tensorboard=False),
    )
    train(experiment, folder / "run", say=lambda line: None)
    return folder / "run"


def forward_seconds(run, batches, clock):
    """Seconds a batch of the model's own forward pass with its loss."""
    from train.objectives.next_token import token_nll
    from train.parallel import feed

    score = jax.jit(lambda params, batch: token_nll(run.experiment.model, params, batch, run.layout))
    place, size = run.layout.placement(("batch", "sequence")), run.experiment.data.batch_size
    ready = [feed.to_devices(batch, place, size, with_segments=True) for batch in batches]
    jax.block_until_ready(score(run.params, ready[0]))
    began = clock()
    for batch in ready:
        jax.block_until_ready(score(run.params, batch))
    return (clock() - began) / len(ready)


class Training:
    """The blocks and updates of a training, without its files."""

    def __init__(self, run, features, clock):
        from train.inspection.features.training.step import Programs
        from train.inspection.features.training.stream import ActivationStream

        self.stream, self.features, self.clock = ActivationStream(run, features), features, clock
        layers = run.experiment.model.num_layers
        self.programs = Programs(features, layers, self.stream.widths, run.layout)
        self.states = self.programs.init(self.stream.block(0))
        self.block(0)

    def block(self, number):
        """One block and its updates; returns seconds a token."""
        began = self.clock()
        block = self.stream.block(number)
        for at in range(self.stream.steps_per_block):
            first = np.int32(at * self.features.batch_tokens)
            self.states, metrics = self.programs.step(self.states, block, first, np.int32(at))
        jax.block_until_ready(metrics)
        return (self.clock() - began) / (self.stream.steps_per_block * self.features.batch_tokens)


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="layers of the model")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--rows", type=int, default=4, help="sequences of a batch")
    parser.add_argument("--width", type=int, default=6144, help="features of the autoencoder")
    parser.add_argument("--repeats", type=int, default=5, help="measurements")
    parser.add_argument("--wall", action="store_true", help="seconds of the clock")
    given = parser.parse_args()
    clock = time.perf_counter if given.wall else time.process_time
    from train.data.batches.rows import FIELDS
    from train.inspection.features.autoencoders import ReLU, TopK
    from train.inspection.features.training.settings import Autoencoder, Features
    from train.run.loading import load_run

    with tempfile.TemporaryDirectory() as folder:
        run = load_run(made_run(pathlib.Path(folder), given.layers, given.length, given.rows))
        tokens = given.rows * given.length
        base = Features(
            autoencoders=(Autoencoder(name="a", layer=-2, width=given.width),),
            batch_tokens=tokens,
            buffer_tokens=2 * tokens,
        )

        opened = run.experiment.data.training_batches(run.dataset(), tuple(FIELDS))
        batches = [opened.rows(n) for n in range(2)]
        trainings = {}
        for name, architecture in (("ReLU", ReLU()), ("TopK", TopK(k=32))):
            option = dataclasses.replace(base.autoencoders[0], architecture=architecture)
            trainings[name] = Training(run, dataclasses.replace(base, autoencoders=(option,)), clock)
        rates = {"forward": [], **{name: [] for name in trainings}}
        for number in range(given.repeats):  # in turn, so that the load of the machine meets all of them
            rates["forward"].append(tokens / forward_seconds(run, batches, clock))
            for name, training in trainings.items():
                rates[name].append(1 / training.block(number + 1))
    forward = statistics.median(rates["forward"])
    for name, found in rates.items():
        middle = statistics.median(found)
        words = f"{middle:,.0f} tokens/s ({min(found):,.0f} to {max(found):,.0f}, n={len(found)})"
        print(f"{name:8} {words}  {middle / forward:.2f} of the forward pass")


if __name__ == "__main__":
    main()
