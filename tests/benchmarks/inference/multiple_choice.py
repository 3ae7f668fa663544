"""Seconds to score a task of multiple choice: contexts read once by the inference engine, and batches, in turn.

    python -m tests.benchmarks.inference.multiple_choice --run=runs/quickstart [--rounds=5] [--questions=16] [--answers=4]

Questions are random ids of --length tokens, after --examples tokens that all of them share, with --answers answers of 1
to 8 tokens each. Both ways score all of them once before the first round. Prints the median seconds of each, wall and
processor time, the median and the quartiles of the rounds' ratios, and the largest difference of log-likelihoods. On a
machine that others use, only the ratios count.
"""

import argparse
import statistics

import numpy as np

from tests.benchmarks.command import path, run
from tests.benchmarks.repeats import quartiles, timed


def questions(draw: np.random.Generator, vocabulary: int, options: argparse.Namespace, examples: int) -> list:
    """Returns the requests of a task."""
    from train.evaluation.harness.requests import Continuation

    def ids(count: int) -> list[int]:
        return draw.integers(0, vocabulary, count).tolist()

    shared, found = ids(examples), []
    for _ in range(options.questions):
        context = shared + ids(int(draw.integers(options.length // 2, 3 * options.length // 2)))
        found += [Continuation(context, ids(int(draw.integers(1, 9)))) for _ in range(options.answers)]
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--length", type=int, default=120)
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 250])
    options = parser.parse_args()
    from model.inference.generate import PreparedParams
    from train.evaluation.harness.model import HarnessModel
    from train.evaluation.harness.shared_prefixes import PAGE, tokens_to_read
    from train.run.loading import load_run

    model = HarnessModel(load_run(options.run))
    vocabulary = model._run.experiment.model.vocab_size
    print(
        f"{'examples':>8}  {'tokens, padded':>14}  {'distinct':>8}  batches s (cpu)  engine s (cpu)  ratio [quartiles], cpu"
    )
    for examples in options.examples:
        draw = np.random.default_rng(examples)
        asked = questions(draw, vocabulary, options, examples)
        texts, counts = [model._ids(each) for each in asked], [len(each.continuation) for each in asked]
        padded, distinct = sum(map(model._row_length, asked)), tokens_to_read(texts, PAGE)

        def forgets() -> list:
            engine = model._prefixes._made()
            engine.replace_params(PreparedParams(engine._device.params))  # no page of the round before is found again
            return model._prefixes.score(texts, counts, lambda _: None)

        ways = {"batches": lambda: model._score_batches(asked, lambda _: None), "engine": forgets}
        results = {name: work() for name, work in ways.items()}
        difference = max(abs(a - b) for (a, _), (b, _) in zip(*results.values(), strict=True))
        rounds = [{name: timed(work)[:2] for name, work in ways.items()} for _ in range(options.rounds)]
        shown = [
            f"{statistics.median(r[name][0] for r in rounds):.2f} ({statistics.median(r[name][1] for r in rounds):.2f})"
            for name in ways
        ]
        walls, cpus = ([r["batches"][i] / r["engine"][i] for r in rounds] for i in (0, 1))
        print(
            f"{examples:8}  {padded:14,}  {distinct:8,}  {shown[0]:>15}  {shown[1]:>14}  "
            f"{quartiles(walls, 'inclusive'):.2f}, {statistics.median(cpus):.2f}; n={options.rounds}, largest "
            f"difference {difference:.1e}"
        )


if __name__ == "__main__":
    run(main)
