"""Whether a text depends on its neighbours on this device, with and without `engine.invariant`, and what that costs.

    python -m tests.benchmarks.inference.invariant [--config=tests/benchmarks/llama_1b.py] [--layers=4] [--small]

Serves requests of mixed lengths one at a time, then all together, by an engine with programs of several shapes and by
one with a single program, both with random weights. A text differs if any of its tokens or log-probabilities has other
bits than alone. Both then serve the trace again in turn, for the time. Ends with status 1 if a text of the invariant
engine differs. --small takes four requests and a tiny model.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
from typing import Any

from tests.benchmarks.command import run
from tests.benchmarks.repeats import extremes, ratios, timed


def tiny(config: Any) -> Any:
    """A model of the same parts with small sizes."""
    mixer = dataclasses.replace(config.mixer, num_heads=2, num_kv_heads=1)
    ffn = dataclasses.replace(config.ffn, width=64)
    return dataclasses.replace(config, num_layers=1, width=64, vocab_size=256, context_length=64, mixer=mixer, ffn=ffn)


def drawn(config: Any) -> Any:
    """Random parameters; arrays of one number, such as those that start at 0, are drawn too."""
    import jax
    import numpy as np

    from model.transformer import init

    rng = np.random.default_rng(0)

    def noisy(x: Any) -> Any:
        is_drawn = x.min() != x.max()
        return x if is_drawn else (x + rng.normal(0, 0.02, x.shape)).astype(x.dtype)

    return jax.tree.map(noisy, jax.jit(init, static_argnums=0)(config, jax.random.key(0)))


def answers(engine: Any, requests: Any) -> list[Any]:
    """The tokens and log-probabilities of requests that are served together."""
    found: dict[int, list[Any]] = {engine.submit(request): [] for request in requests}
    while engine.num_unfinished:
        for update in engine.step():
            found[update.request_id] += [(score.token, score.logprob) for score in update.tokens]
    return list(found.values())


def main() -> None:
    """Prints the table, and checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--layers", type=int, help="in place of those of the config")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="a file for all values")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    import jax

    from model.inference.engine.engine import Engine
    from model.inference.engine.options import EngineOptions
    from model.inference.generate import prepare_params
    from model.layout import ONE_DEVICE
    from train.config_file import from_file
    from train.generation.decoding_trace import draw_trace, serve

    config = from_file(options.config, []).model
    config = dataclasses.replace(config, num_layers=options.layers or config.num_layers)
    config = tiny(config) if options.small else config
    trace = draw_trace(config, 4 if options.small else options.requests)
    requests = [dataclasses.replace(request, num_logprobs=0) for request in trace.requests]
    params = prepare_params(config, drawn(config), ONE_DEVICE)
    rows = 4 if options.small else options.rows
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
    sizes = EngineOptions(
        rows=rows, tokens_per_step=max(128, 2 * rows), prefix_cache=False, cache_tokens=rows * (longest + 16)
    )
    engines = {
        "several programs": Engine(config, params, sizes),
        "one program": Engine(config, params, dataclasses.replace(sizes, invariant=True)),
    }
    results: dict[str, Any] = {}
    for name, engine in engines.items():
        engine.compile()
        alone = [answers(engine, [request])[0] for request in requests]
        crowd = answers(engine, requests)
        differ = [[one != other for one, other in zip(*texts, strict=True)] for texts in zip(alone, crowd, strict=True)]
        tokens = [[a[0] != b[0] for a, b in zip(*texts, strict=True)] for texts in zip(alone, crowd, strict=True)]
        results[name] = {"texts": len(requests), "is_exact": engine.is_exact, "seconds": []}
        results[name] |= {"other_bits": sum(map(any, differ)), "other_tokens": sum(map(any, tokens))}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            results[name]["seconds"].append(timed(lambda engine=engine: serve(engine, trace))[:2])
    print(f"{jax.devices()[0].device_kind}, {len(requests)} requests, {trace.new_tokens:,} new tokens, {rows} rows")
    for name, found in results.items():
        wall = statistics.median(seconds for seconds, _ in found["seconds"])
        print(
            f"{name:18} other bits in {found['other_bits']} texts, other tokens in {found['other_tokens']}; "
            f"all its programs agree: {found['is_exact']}; {trace.new_tokens / wall:,.0f} tokens/s"
        )
    for k, what in enumerate(("time", "processor time")):
        several, one = ([each[k] for each in results[name]["seconds"]] for name in engines)
        results[f"ratio of {what}"] = ratios(one, several)
        print(f"{what} of one program over several: {extremes(ratios(one, several)):.2f}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"invariance": results}, indent=1), encoding="utf-8")
    if results["one program"]["other_bits"]:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
