"""The validation loss that nanoGPT's recipe reaches in PyTorch over seeds: the yardstick of nanogpt_loss.py.

    python -m tests.benchmarks.references.torch_loss --text=tinyshakespeare.txt [--seeds=3] [--first_seed=1337]

The model is torch_reference.py's. Schedule, clipping, batches drawn with replacement and the estimator (20 batches of 12
random windows) are nanoGPT's CPU settings; the whole split is measured beside it, in windows of 64.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.command import path, require_torch, run
from tests.benchmarks.repeats import over_seeds

if TYPE_CHECKING:  # it may not be installed, and --help needs none
    import torch

    from tests.benchmarks.references.torch_reference import GPT

BATCH_SIZE, LENGTH = 12, 64


def learning_rate(step: int, num_steps: int, warmup: int = 100, peak: float = 1e-3, final: float = 1e-4) -> float:
    """Linear warmup, then a cosine from peak to final."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / (num_steps - warmup)
    return final + 0.5 * (1 + math.cos(math.pi * done)) * (peak - final)


def draw(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of windows at random places, and their targets."""
    import torch

    starts = torch.randint(len(tokens) - LENGTH, (BATCH_SIZE,)).tolist()
    rows = torch.stack([tokens[s : s + LENGTH + 1] for s in starts])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def full_loss(model: GPT, tokens: torch.Tensor) -> float:
    """The mean loss of every token but the first, each once; called without gradients."""
    count = (len(tokens) - 1) // LENGTH * LENGTH
    inputs = tokens[:count].view(-1, LENGTH)
    targets = tokens[1 : count + 1].view(-1, LENGTH)
    parts = zip(inputs.split(128), targets.split(128), strict=True)
    return sum(float(model(x, y)) * x.numel() for x, y in parts) / count


def train(text: np.ndarray, seed: int, num_steps: int) -> tuple[float, float]:
    """Trains one seed; returns nanoGPT's estimate and the loss of the whole split."""
    import torch

    from tests.benchmarks.references.torch_reference import GPT, SHAPES

    torch.manual_seed(seed)
    tokens = torch.from_numpy(text)
    split = int(0.9 * len(tokens))
    training, validation = tokens[:split], tokens[split:]
    model = GPT(SHAPES["small"])
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    scales = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": scales, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps)
        model(*draw(training)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        estimate = statistics.mean(float(model(*draw(validation))) for _ in range(20))
        return estimate, full_loss(model, validation)


def main() -> None:
    """Prints a line a seed, then mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=1337)
    parser.add_argument("--steps", type=int, default=2000)
    flags = parser.parse_args()
    require_torch()
    characters = flags.text.read_text(encoding="utf-8")
    alphabet = {c: i for i, c in enumerate(sorted(set(characters)))}
    text = np.array([alphabet[c] for c in characters], np.int64)
    seeds = range(flags.first_seed, flags.first_seed + flags.seeds)
    over_seeds(seeds, lambda seed: train(text, seed, flags.steps))


if __name__ == "__main__":
    run(main)
