"""The chain of post-training on a small language whose right answers are known: exact match before and after each method.

    python -m tests.benchmarks.alignment.chain --folder=runs/chain [--seeds=3] [--jobs=2] [--shorten=1]
        [--only=ppo,grpo] [--base=runs/instructions_base]

Once: texts, demonstrations and prompts of the grammar (train/alignment/instructions.py), and a model of 0.36M
parameters of its texts (configs/alignment/pretrain_instructions.py). Then for each seed, of parameters and of the order
of the data:

    sft         a short run on demonstrations, after which about half of all answers are wrong: the start of the rest
    dpo         from pairs of its own answers to 1,000 prompts, right and wrong; a tenth is the wrong way round
    reward      a reward model on the 4,000 pairs of the grammar; a tenth is the wrong way round
    grpo        from a checker of right answers
    ppo         from the reward model
    ppo_exact   from the checker, with a small distance to the start
    grpo_score  from the reward model
    flawed      a reward model on pairs of a judge who always takes the longer answer
    hacked      PPO from the flawed reward model without a distance to the start
    cured       the same with a distance

Every run is an ordinary run folder in --folder, and the same command continues after Ctrl-C. At the end stand the exact
match of greedy answers to the test prompts, before and after, with the paired interval of the difference over seeds; of
one seed Wilson's intervals over prompts. --shorten=10 divides all numbers of steps, to try it out. One core works for
about three minutes for the model and twelve for each seed; --jobs=2 trains two seeds at once. The
table of three seeds is in train/alignment/README.md.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

from tests.benchmarks.command import answer_help, fail, path, run
from tests.benchmarks.repeats import timed

answer_help(__name__, __doc__)

PAIRS, FLAWED = "pairs.jsonl", "flawed.jsonl"
METHODS = ("dpo", "grpo", "ppo_exact", "ppo", "grpo_score", "hacked", "cured")
NEEDS = {"ppo": "reward", "grpo_score": "reward", "hacked": "flawed", "cured": "flawed"}


def write_pairs(folder: pathlib.Path, data: pathlib.Path, seed: int) -> None:
    """Writes the pairs of a seed's model, and those of a judge who likes the longer answer."""
    from tests.benchmarks.alignment.own_answers import longer_is_better, own_answers, pairs
    from train.alignment.instructions import write_rows

    answers = own_answers(folder / "sft", data / "prompts.train.jsonl", 1000, 4, seed)
    write_rows(folder / FLAWED, longer_is_better((one.messages, one.right) for one in answers))
    write_rows(folder / PAIRS, pairs(answers, 2, 0.1, seed))


def experiments(folder: pathlib.Path, base: pathlib.Path, seed: int, shorten: int) -> dict[str, Any]:
    """The experiments of a seed by the names of their runs."""
    from configs.alignment import dpo, grpo, ppo, reward, sft
    from model.options.json import from_json, to_json
    from train.data.preferences.option import HeldOutPrompts
    from train.experiment import Checkpoints, Evaluation, Experiment, Training
    from train.objectives.rollout_options import RewardOf
    from train.schedules import Cosine

    def made(experiment: Any, steps: int, start: pathlib.Path = folder / f"seed{seed}" / "sft", **changes: Any) -> Any:
        """The experiment with its files in the folder, in the seed's run, measured at its end alone."""
        steps = max(steps // shorten, 2)
        stored = json.dumps(to_json(experiment)).replace("data/instructions/", f"{folder / 'data'}/")
        own = from_json(Experiment, json.loads(stored))
        warmup = {"warmup_steps": min(own.schedule.warmup_steps, steps // 2)}
        return dataclasses.replace(
            own,
            **changes,
            training=Training(num_steps=steps, seed=seed, init_from=str(start)),
            schedule=dataclasses.replace(own.schedule, **warmup),
            evaluation=Evaluation(every=steps),
            evaluations=tuple(dataclasses.replace(one, every=steps) for one in own.evaluations),
            checkpoints=Checkpoints(every=max(steps // 2, 1), keep_last=1),
        )

    def seeded(data: Any, **changes: Any) -> Any:
        return dataclasses.replace(data, seed=seed, **changes)

    def by_score(experiment: Any, judge: str, **changes: Any) -> Any:
        option = RewardOf(run=str(folder / f"seed{seed}" / judge))
        return dataclasses.replace(experiment.objective, reward=option, **changes)

    def of_pairs(experiment: Any, file: str) -> Any:
        pairs = seeded(experiment.data, path=str(folder / f"seed{seed}" / file), validation=HeldOutPrompts())
        return dataclasses.replace(experiment, data=pairs)

    # The model's own answers need a smaller rate than those of others, which it gives a small probability.
    gentler = dataclasses.replace(dpo.experiment, schedule=Cosine(peak=1e-4, final=1e-5, warmup_steps=10))
    found = {
        "sft": made(dataclasses.replace(sft.experiment, data=seeded(sft.experiment.data)), 120, base),
        "reward": made(dataclasses.replace(reward.experiment, data=seeded(reward.experiment.data)), 120),
        "flawed": made(of_pairs(reward.experiment, FLAWED), 40),
        "dpo": made(of_pairs(gentler, PAIRS), 60),
    }
    prompts = {name: seeded(one.experiment.data) for name, one in (("grpo", grpo), ("ppo", ppo))}
    of_grpo = dataclasses.replace(grpo.experiment, data=prompts["grpo"])
    of_ppo = dataclasses.replace(ppo.experiment, data=prompts["ppo"])
    faster = dataclasses.replace(of_ppo, schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=3))
    by_checker = dataclasses.replace(of_ppo.objective, reward=of_grpo.objective.reward, kl=0.02, gae_lambda=1.0)
    return found | {
        "grpo": made(of_grpo, 120),
        "ppo_exact": made(of_ppo, 120, objective=by_checker),
        "ppo": made(of_ppo, 60, objective=by_score(of_ppo, "reward")),
        "grpo_score": made(of_grpo, 60, objective=by_score(of_grpo, "reward")),
        "hacked": made(faster, 25, objective=by_score(of_ppo, "flawed", kl=0.0)),
        "cured": made(faster, 25, objective=by_score(of_ppo, "flawed", kl=1.0)),
    }


def base_experiment(folder: pathlib.Path, shorten: int) -> Any:
    """The experiment of the pre-trained model."""
    from configs.alignment import pretrain_instructions
    from model.options.json import from_json, to_json
    from train.experiment import Checkpoints, Evaluation, Experiment, Training

    stored = json.dumps(to_json(pretrain_instructions.experiment)).replace("data/instructions/", f"{folder / 'data'}/")
    own, steps = from_json(Experiment, json.loads(stored)), 1500 // shorten
    return dataclasses.replace(
        own,
        training=Training(num_steps=steps),
        schedule=dataclasses.replace(own.schedule, warmup_steps=min(20, steps // 4), decay_steps=steps * 7 // 15),
        evaluation=Evaluation(every=steps),
        evaluations=(),
        samples=dataclasses.replace(own.samples, prompts=()),
        checkpoints=Checkpoints(every=max(steps // 4, 1), keep_last=1),
    )


def exact_match(run_folder: pathlib.Path) -> float:
    """The share of test prompts that a finished run answers exactly."""
    from train.run.metrics import read_metrics

    return float([line["accuracy"] for line in read_metrics(run_folder) if line.get("name") == "answers"][-1])


def rewards(run_folder: pathlib.Path) -> tuple[float, float]:
    """The mean reward of the first and of the last five rollouts."""
    from train.run.metrics import read_metrics

    found = [line["reward"] for line in read_metrics(run_folder) if line["kind"] == "train"]
    return sum(found[:5]) / len(found[:5]), sum(found[-5:]) / len(found[-5:])


def table(folder: pathlib.Path, seeds: list[int], methods: list[str]) -> str:
    """The exact match before and after each method, as Markdown."""
    from train.lab.statistics.decisions import wilson
    from train.lab.statistics.differences import paired

    count = len((folder / "data" / "prompts.test.jsonl").read_text().splitlines())
    before = {seed: exact_match(folder / f"seed{seed}" / "sft") for seed in seeds}
    lines = [
        f"exact match on {count} test prompts, seeds {', '.join(map(str, seeds))}",
        "",
        "| method | before | after | difference | reward, first and last five rollouts |",
        "|---|---|---|---|---|",
    ]
    for method in methods:
        after = {seed: exact_match(folder / f"seed{seed}" / method) for seed in seeds}
        cells = [sum(share.values()) / len(seeds) for share in (before, after)]
        if len(seeds) > 1:
            found = paired(before, after)
            shares = [f"{share:.1%}" for share in cells]
            difference = f"{found.mean:+.1%} [{found.low:+.1%}, {found.high:+.1%}] (95%, paired t, n={found.n})"
        else:
            ends = [wilson(share, count, 0.95) for share in cells]
            shares = [f"{share:.1%} [{low:.1%}, {high:.1%}]" for share, (low, high) in zip(cells, ends, strict=True)]
            difference = f"{cells[1] - cells[0]:+.1%} (one seed)"
        told = ""
        if method != "dpo":
            moved = [rewards(folder / f"seed{seed}" / method) for seed in seeds]
            told = ", ".join(f"{sum(values) / len(seeds):+.2f}" for values in zip(*moved, strict=True))
        lines.append(f"| {method} | {shares[0]} | {shares[1]} | {difference} | {told} |")
    return "\n".join(lines)


def say_time(name: str, work: Callable[[], Any]) -> None:
    """Does the work, and prints what it took."""
    took = timed(work)
    print(f"{name}: {took.seconds:.0f} s, {took.processor:.0f} s of processors", flush=True)


def finish(experiment: Any, folder: pathlib.Path, name: str) -> None:
    """Trains a run of the folder to its end."""
    from train.loop import train

    say_time(name, lambda: train(experiment, folder / name, say=lambda line: None))


def finish_seed(folder: pathlib.Path, base: pathlib.Path, methods: list[str], shorten: int, seed: int) -> None:
    """Trains what is left of a seed; to be called in a process of its own."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # what is trained is in its checkpoints; the parent reports
    from launch.command.cli import prepare_jax

    prepare_jax()
    own, made = folder / f"seed{seed}", experiments(folder, base, seed, shorten)
    for name in ["sft", *dict.fromkeys(NEEDS[name] for name in methods if name in NEEDS), *methods]:
        if name != "sft" and not (own / PAIRS).is_file():
            say_time(f"seed{seed}/pairs", functools.partial(write_pairs, own, folder / "data", seed))
        finish(made[name], folder, f"seed{seed}/{name}")


def main() -> None:
    """Trains what is left to train, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=path, required=True)
    parser.add_argument("--base", type=path, help="a finished run of configs/alignment/pretrain_instructions.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="how many seeds to train at once, a process each")
    parser.add_argument("--shorten", type=int, default=1)
    parser.add_argument("--only", default=",".join(METHODS), help="the methods, such as ppo,grpo")
    options = parser.parse_args()
    methods = [name for name in METHODS if name in options.only.split(",")]
    if unknown := sorted(set(options.only.split(",")) - set(METHODS)):
        fail(f"--only={options.only}: {unknown[0]!r} is none of {', '.join(METHODS)}")
    if min(options.seeds, options.shorten, options.jobs) < 1:
        fail("--seeds, --shorten and --jobs are at least 1")

    from launch.command.cli import prepare_jax
    from train.alignment.instructions import Counts, Instructions, write_all

    prepare_jax()
    folder = options.folder.resolve()
    if not (folder / "data" / "prompts.test.jsonl").is_file():  # the last of the files
        write_all(Instructions(), folder / "data", Counts())
    base = options.base or folder / "base"
    if options.base is None:
        finish(base_experiment(folder, options.shorten), folder, "base")
    of_seed = functools.partial(finish_seed, folder, base, methods, options.shorten)
    with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(of_seed, range(options.seeds)))
    found = table(folder, list(range(options.seeds)), methods)
    (folder / "chain.md").write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    run(main)
