"""What guesses are worth on a trained model: the share that is right, and the time against an engine without guesses.

    python -m tests.benchmarks.inference.speculation --run=runs/quickstart [--draft=runs/small] [--rounds=5]

Prompts are parts of the first held-out document of the run, at equal distances. The engines answer the same requests in
turn, and their texts have to be the same. `random draft` is the model itself with random weights: its guesses cost as
much as a draft can and are wrong, the worst case. Times are those of an engine over those of the one without guesses in
the same round: the median of the rounds, the least and the most. Compilation is left out.
"""

import argparse
import dataclasses
from typing import Any

from tests.benchmarks.command import answer_help, fail, path, run
from tests.benchmarks.repeats import extremes, ratios, timed

answer_help(__name__, __doc__)

ONE_STEP = "no guesses, one step a call"


def measured(engine: Any, requests: list[Any]) -> tuple[list[tuple[int, ...]], float, float]:
    """Returns the texts, in ids, the seconds, and the seconds of processors."""
    numbers = [engine.submit(request) for request in requests]
    texts: dict[int, list[int]] = {number: [] for number in numbers}

    def decode() -> None:
        while engine.num_unfinished:
            for update in engine.step():
                texts[update.request_id] += [score.token for score in update.tokens]

    seconds, processor, _ = timed(decode)
    return [tuple(texts[number]) for number in numbers], seconds, processor


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=path, required=True)
    parser.add_argument("--draft", type=path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--guesses", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    if min(options.rounds, options.rows, options.texts, options.prompt, options.new) < 1:
        fail("--rounds, --rows, --texts, --prompt and --new are at least 1")
    import jax

    from model.inference.engine.draft import DraftModel
    from model.inference.engine.engine import Engine
    from model.inference.engine.options import EngineOptions
    from model.inference.engine.speculation import Draft, NGram, Speculation
    from model.inference.request import Request
    from model.inference.sampling import Sampling
    from model.transformer import init
    from train.run.loading import load_run

    loaded = load_run(options.run)
    config, split = loaded.experiment.model, loaded.dataset().split("validation")[0]
    if split.length(0) <= options.prompt:
        fail(f"the first held-out document has {split.length(0):,} tokens; give a smaller --prompt")
    sampling = Sampling(max_tokens=options.new, temperature=options.temperature)
    starts = range(0, split.length(0) - options.prompt, max(1, (split.length(0) - options.prompt) // options.texts))
    prompts = [tuple(split.tokens(0, at, at + options.prompt).tolist()) for at in starts][: options.texts]
    requests = [Request(prompt=prompt, sampling=sampling) for prompt in prompts]
    tokens = options.guesses
    guessers: dict[str, tuple[Speculation | None, DraftModel | None]] = {
        "no guesses": (None, None),
        ONE_STEP: (None, None),
        "n-gram": (NGram(tokens=tokens), None),
    }
    if options.draft is not None:
        draft = load_run(options.draft)
        guessers["draft"] = (Draft(tokens=tokens), DraftModel(draft.experiment.model, draft.params))
    guessers["random draft"] = (Draft(tokens=tokens), DraftModel(config, init(config, jax.random.key(1))))
    engines = {}
    for name, (speculation, model) in guessers.items():
        sizes = EngineOptions(rows=options.rows, prefix_cache=False, speculation=speculation, max_logprobs=0)
        sizes = dataclasses.replace(sizes, steps_per_call=1) if name == ONE_STEP else sizes
        engines[name] = Engine(config, loaded.params, sizes, layout=loaded.layout, draft=model)
        engines[name].compile(lambda done, total: None)
        measured(engines[name], requests)
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        texts = {}
        for name, engine in engines.items():
            texts[name], seconds, processor = measured(engine, requests)
            rounds[name].append((seconds, processor))
            if texts[name] != texts["no guesses"]:
                raise SystemExit(f"{name}: other texts")
    new = sum(map(len, texts["no guesses"]))
    print(f"{len(requests)} texts, {new:,} new tokens, {options.rows} rows, n={options.rounds}")
    print("| | right guesses | tokens of a step | tokens/s | time | processor time |\n|---|---|---|---|---|---|")
    for name, engine in engines.items():
        counts = engine.statistics
        right = f"{counts.acceptance_rate:.0%}" if counts.proposed_tokens else ""
        times = (ratios(*([one[k] for one in rounds[each]] for each in (name, "no guesses"))) for k in (0, 1))
        cells = [
            f"{extremes([new / seconds for seconds, _ in rounds[name]]):.0f}",
            *(f"{extremes(t):.2f}" for t in times),
        ]
        print(f"| {name} | {right} | {counts.tokens_per_text_step:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
