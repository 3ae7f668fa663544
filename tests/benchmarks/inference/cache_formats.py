"""The loss that smaller formats of the cache cost: nats a token of held-out text, scored by the inference engine.

    python -m tests.benchmarks.inference.cache_formats --run=runs/quickstart [--windows=24] [--length=256]

Every window of the run's validation tokens is a request, read through pages: each token sees keys and values as the
cache holds them. Prints the mean loss, its difference from that of the whole format with a standard error over windows,
and the bytes of a token.
"""

import argparse
from typing import Any

import numpy as np

from model.errors import UserError
from tests.benchmarks.command import path, run

FORMATS = (None, "int8", "float8_e4m3fn")


def windows_of(dataset: Any, count: int, length: int) -> list[list[int]]:
    """Returns the first `length` tokens of `count` held-out documents that have so many, the longest documents first."""
    documents = [
        (split.length(i), split, i) for split in dataset.split("validation") for i in range(len(split.documents))
    ]
    documents.sort(key=lambda each: -each[0])
    if len(documents) < count or documents[count - 1][0] < length:
        raise UserError(f"fewer than {count} held-out documents have {length} tokens; lower --windows or --length")
    return [split.tokens(i, 0, length).tolist() for _, split, i in documents[:count]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=path, required=True)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    from model.inference.engine.engine import Engine
    from model.inference.engine.options import EngineOptions
    from model.inference.request import Request
    from train.run.loading import load_run

    loaded = load_run(options.run)
    windows = windows_of(loaded.dataset(), options.windows, options.length)
    losses = {}
    for dtype in FORMATS:
        sizes = EngineOptions(cache_tokens=16 * options.length, cache_dtype=dtype, only_scores=True, max_logprobs=1)
        engine = Engine(loaded.experiment.model, loaded.params, sizes, layout=loaded.layout)
        for window in windows:
            engine.submit(Request(prompt=tuple(window), num_prompt_logprobs=0, only_scores=True))
        found = {}
        while engine.num_unfinished:
            for update in engine.step():
                found[update.request_id] = -np.mean([score.logprob for score in update.prompt])
        losses[dtype] = np.array([found[number] for number in sorted(found)])
        change = losses[dtype] - losses[None]
        print(
            f"{dtype or 'as the model':14} {losses[dtype].mean():.5f} nats a token, {change.mean():+.5f} +- "
            f"{change.std(ddof=1) / len(change) ** 0.5:.5f} (n={len(change)}); {engine.capacity.bytes_per_token} bytes"
        )


if __name__ == "__main__":
    run(main)
