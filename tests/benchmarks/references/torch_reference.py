"""The outside measure: a GPT training step in PyTorch, with the shapes and optimizer of nanoGPT.

Run it alone for one JSON line:

    python -m tests.benchmarks.references.torch_reference --size small --steps 200

or with `--serve`, which reads step counts from standard input and answers each with one JSON line, so that a
driver can time it in turn with something else (A 50 steps, B 50 steps, A 50 steps, ...) on a machine that drifts.
Milliseconds are wall-clock per step and cover what a training loop does every step: draw the batch, forward,
backward, clip, update, clear the gradients, read the loss.

What it follows is nanoGPT's choice of model (pre-norm GPT-2, learned positions, no biases, LayerNorm with a scale
only, exact GELU, tied head, `scaled_dot_product_attention(is_causal=True)`) and its choice of AdamW on the CPU,
which is PyTorch's default there; `--fused` takes PyTorch's fused CPU kernel instead, which nanoGPT does not. The size
`gpu` is nanoGPT's experiment on a GPU: dropout, bfloat16 by autocast, the fused AdamW and, with `--compile`, its
`torch.compile`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from tests.benchmarks.command import answer_help, require_torch

answer_help(__name__, __doc__)
require_torch()
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Shape:
    num_layers: int
    num_heads: int
    width: int
    sequence_length: int
    batch_size: int
    vocab_size: int = 65
    dropout: float = 0.0


SHAPES = {
    "small": Shape(num_layers=4, num_heads=4, width=128, sequence_length=64, batch_size=12),
    "large": Shape(num_layers=6, num_heads=6, width=384, sequence_length=256, batch_size=16),
    "gpu": Shape(num_layers=6, num_heads=6, width=384, sequence_length=256, batch_size=64, dropout=0.2),
}


class ScaleNorm(nn.Module):
    """LayerNorm with a learned scale and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.scale.shape, self.scale, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_heads, self.dropout = shape.num_heads, shape.dropout
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            part.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)
            for part in self.qkv(x_BTD).split(D, dim=-1)
        )
        mixed_BNTH = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        return functional.dropout(self.out(mixed_BNTH.transpose(1, 2).contiguous().view(B, T, D)), self.dropout)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm_attention, self.attention = ScaleNorm(shape.width), Attention(shape)
        self.norm_ffn = ScaleNorm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)
        self.dropout = shape.dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + functional.dropout(self.down(functional.gelu(self.up(self.norm_ffn(x)))), self.dropout)


class GPT(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Embedding(shape.sequence_length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = ScaleNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.dropout = shape.dropout
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes_residual = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * shape.num_layers) if writes_residual else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = functional.dropout(self.tokens(tokens_BT) + self.positions(position_T), self.dropout)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def make_step(
    shape: Shape, *, fused: bool = False, device: str = "cpu", compiled: bool = False, seed: int = 1337
) -> Callable[[], float]:
    """Make model, optimizer and a corpus of random characters; return the function that takes one step (its loss).

    On a GPU the model runs in bfloat16 by autocast, its parameters stay float32.
    """
    torch.manual_seed(seed)
    on_gpu = device == "cuda"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = GPT(shape).to(device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    scales = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": scales, "weight_decay": 0.0}]
    extra = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), **extra)
    run = torch.compile(model) if compiled else model
    corpus = np.random.default_rng(seed).integers(0, shape.vocab_size, 1_000_000).astype(np.uint16)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(corpus) - shape.sequence_length, (shape.batch_size,)).tolist()
        rows = np.stack([corpus[s : s + shape.sequence_length + 1] for s in starts]).astype(np.int64)
        inputs, targets = torch.from_numpy(rows[:, :-1]).contiguous(), torch.from_numpy(rows[:, 1:]).contiguous()
        if on_gpu:
            inputs, targets = (x.pin_memory().to(device, non_blocking=True) for x in (inputs, targets))
        return inputs, targets

    def step() -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu):
            loss = run(*batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def time_steps(step: Callable[[], float], count: int) -> list[float]:
    """Milliseconds of each of `count` steps."""
    milliseconds = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return milliseconds


def summary(milliseconds: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(milliseconds, n=4)
    return {
        "median_ms": round(statistics.median(milliseconds), 3),
        "q1_ms": round(quartiles[0], 3),
        "q3_ms": round(quartiles[2], 3),
        "min_ms": round(min(milliseconds), 3),
        "n": len(milliseconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None, help="default: what PyTorch chooses")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--serve", action="store_true", help="read step counts from standard input")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    step = make_step(SHAPES[args.size], fused=args.fused, device=args.device, compiled=args.compile)
    time_steps(step, args.warmup)
    facts = {"framework": f"torch {torch.__version__}", "size": args.size, "fused": args.fused}
    facts |= {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu", "compiled": args.compile}
    facts["threads"] = torch.get_num_threads()
    if not args.serve:
        print(json.dumps(facts | summary(time_steps(step, args.steps))))
        return
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps({"ms": time_steps(step, int(line))}), flush=True)


if __name__ == "__main__":
    main()
