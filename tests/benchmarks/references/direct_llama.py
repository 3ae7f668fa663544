"""What generality costs: a LLaMA written by hand for LLaMA alone, beside the same model from options.

    python -m tests.benchmarks.references.direct_llama

Prints the operations that are traced, the instructions that are compiled, and the time of a forward and backward pass of
both, in turn in one process; then how long a 32-layer model takes to trace and lower. Needs nothing but Cairn.
"""

import argparse
import re
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.transformer import abstract_params, forward, init
from model.vocabulary.embedding import Untied
from tests.benchmarks.command import run
from tests.benchmarks.repeats import extremes, ratios

HEADS, KV_HEADS = 8, 2


def llama(layers: int, width: int) -> ModelConfig:
    """A LLaMA of so many layers."""
    return ModelConfig(
        vocab_size=512,
        context_length=128,
        num_layers=layers,
        width=width,
        mixer=GroupedQuery(num_heads=HEADS, num_kv_heads=KV_HEADS),
        ffn=Gated(width=4 * width),
        unembedding=Untied(),
    )


def direct(params: dict, tokens: jax.Array) -> jax.Array:
    """The same function of the same parameters, written out: rotary positions, RMSNorm, SwiGLU, grouped queries."""
    b, t = tokens.shape
    x = params["embedding"]["table"][tokens]
    h = params["blocks"]["mixer"]["query"].shape[-1]
    angles = jnp.arange(t)[:, None] * 10_000.0 ** (-jnp.arange(0, h, 2) / h)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    mask = jnp.tril(jnp.ones((t, t), bool))

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale

    def rotate(x):
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def layer(x, w):
        a, f = w["mixer"], w["ffn"]
        y = norm(x, w["residual"]["mixer_norm"]["scale"])
        q = rotate(jnp.einsum("btd,dnh->btnh", y, a["query"])).reshape(b, t, KV_HEADS, -1, h)
        k, v = rotate(jnp.einsum("btd,dkh->btkh", y, a["key"])), jnp.einsum("btd,dkh->btkh", y, a["value"])
        scores = jnp.where(mask, jnp.einsum("btkgh,bskh->bkgts", q, k) * h**-0.5, -jnp.inf)
        heads = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores, axis=-1), v).reshape(b, t, HEADS, h)
        x = x + jnp.einsum("btnh,nhd->btd", heads, a["output"])
        y = norm(x, w["residual"]["ffn_norm"]["scale"])
        return x + (jax.nn.silu(y @ f["gate"]) * (y @ f["up"])) @ f["down"], None

    x, _ = jax.lax.scan(layer, x, params["blocks"])
    return norm(x, params["final_norm"]["scale"]) @ params["embedding"]["output"]


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args()
    config = llama(layers=4, width=256)
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 512, (8, 128)), jnp.int32)
    logits = {"options": lambda p, t: forward(config, p, t).logits_BTV, "by hand": direct}
    steps, counts = {}, {}
    for name, function in logits.items():
        lowered = jax.jit(jax.grad(lambda p, t, f=function: jnp.mean(jax.nn.logsumexp(f(p, t), axis=-1)))).lower(
            params, tokens
        )
        steps[name] = lowered.compile()
        traced = len(re.findall(r"= (?:stablehlo|call)", lowered.as_text()))
        counts[name] = traced, len(re.findall(r"^\s+(?:ROOT )?\S+ = ", steps[name].as_text(), re.M))
    difference = jnp.abs(logits["options"](params, tokens) - direct(params, tokens)).max()
    print(f"largest difference of logits: {difference:.1e}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(flags.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready([step(params, tokens) for _ in range(5)])
            times[name].append((time.perf_counter() - start) / 5 * 1e3)
    print(f"{'':8} {'traced':>8} {'compiled':>9} {'ms a step, median':>18} {'least':>6} {'most':>6}   n={flags.rounds}")
    for name, (traced, compiled) in counts.items():
        t = times[name]
        print(f"{name:8} {traced:8} {compiled:9} {statistics.median(t):18.1f} {min(t):6.1f} {max(t):6.1f}")
    print(f"ratio of times: {extremes(ratios(times['options'], times['by hand'])):.2f}")
    large = llama(layers=32, width=1024)
    start = time.perf_counter()
    jax.jit(jax.grad(lambda p, t: forward(large, p, t).logits_BTV.sum())).lower(abstract_params(large), tokens)
    print(f"32 layers, parameters' shapes, trace and lowering of the gradient: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    run(main)
