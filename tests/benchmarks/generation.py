"""Seconds to generate four texts: this checkout and others, each in a process of its own, in turn.

    python -m tests.benchmarks.generation [--other=../old] [--rounds=3] [--transformers]
    python -m tests.benchmarks.generation --quantize float32 int8 int8+int8 int4:64

A random LLaMA of 55 million parameters (12 layers, width 512, 8 heads, vocabulary 32,000, tied) with a context of 2,048
continues 4 prompts of 64 tokens for 128 more, greedily, in float32. Every process compiles first. Prints the
median, the least and the most of the rounds for each, and whether all checkouts wrote the same tokens. With --quantize it
compares formats of weights instead, after a plus that of activations, in a model with a separate unembedding.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from tests.benchmarks.command import ROOT, path, require_torch, run

ROWS, PROMPT, NEW, VOCABULARY, CONTEXT = 4, 64, 128, 32_000, 2048
LAYERS, WIDTH, HEADS, FFN = 12, 512, 8, 1408

# Says when it is ready; then, for every line that it reads, generates the texts and says the seconds and the tokens.
CAIRN = f"""
import json, sys, time
import jax, numpy as np
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.transformer import init

mixer = "mixer" if "mixer" in ModelConfig.__dataclass_fields__ else "attention"  # as earlier checkouts call it
config = ModelConfig(vocab_size={VOCABULARY}, context_length={CONTEXT}, num_layers={LAYERS}, width={WIDTH},
                     ffn=Gated(width={FFN}), **{{mixer: GroupedQuery(num_heads={HEADS})}})
params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
prompts = np.random.default_rng(0).integers(0, {VOCABULARY}, ({ROWS}, {PROMPT})).tolist()
work = lambda: generate(config, params, prompts, Sampling(temperature=0, max_tokens={NEW}))
"""

TRANSFORMERS = f"""
import json, sys, time
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size={VOCABULARY}, hidden_size={WIDTH}, intermediate_size={FFN},
    num_hidden_layers={LAYERS}, num_attention_heads={HEADS}, max_position_embeddings={CONTEXT},
    tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)).eval()
prompts = torch.tensor(np.random.default_rng(0).integers(0, {VOCABULARY}, ({ROWS}, {PROMPT})))
options = dict(max_new_tokens={NEW}, min_new_tokens={NEW}, do_sample=False, pad_token_id=0)
work = lambda: model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)[:, {PROMPT}:].tolist()
"""

# Follows CAIRN: the same model with a separate unembedding, and quantised unless FORMAT is float32.
QUANTIZED = """
import dataclasses
from model.parameters.precision import Precision
from model.vocabulary.embedding import Untied
from train.conversion.quantizing import parse_option

weights = None if FORMAT == "float32" else parse_option(*FORMAT.split("+"))
config = dataclasses.replace(config, unembedding=Untied(), precision=Precision(weights=weights))
params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
"""

LOOP = """
work()
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    tokens = work()
    print(json.dumps([time.perf_counter() - began, tokens]), flush=True)
"""


def process(program: str, root: pathlib.Path) -> subprocess.Popen[str]:
    """A process that has compiled and waits for its turn."""
    started = subprocess.Popen(
        [sys.executable, "-c", program + LOOP],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def time_one_round(one: subprocess.Popen[str]) -> tuple[float, list[list[int]]]:
    """The seconds and the tokens of one round."""
    assert one.stdin is not None
    assert one.stdout is not None
    print("go", file=one.stdin, flush=True)
    seconds, tokens = json.loads(one.stdout.readline())
    return seconds, tokens


def main() -> None:
    """Reads the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=path, action="append", default=[], help="another checkout; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transformers", action="store_true", help="also the model of Hugging Face")
    parser.add_argument("--quantize", nargs="+", default=[], help="formats of weights, and float32")
    given = parser.parse_args()
    programs = {str(root): (CAIRN, root) for root in (ROOT, *given.other)}
    if given.quantize:
        programs = {name: (f"FORMAT = {name!r}\n{CAIRN}{QUANTIZED}", ROOT) for name in given.quantize}
    if given.transformers:
        require_torch("parity")
        programs["transformers"] = (TRANSFORMERS, ROOT)
    processes = {name: process(*program) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    texts = {}
    for _ in range(given.rounds):
        for name, one in processes.items():
            took, texts[name] = time_one_round(one)
            seconds[name].append(took)
    for one in processes.values():
        one.communicate()
    for name, times in seconds.items():
        print(f"{name}: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}, n={len(times)}")
    ours = [text for name, text in texts.items() if name != "transformers"]
    if given.quantize:
        return
    print("the same tokens" if all(text == ours[0] for text in ours) else "the checkouts wrote other tokens")


if __name__ == "__main__":
    run(main)
