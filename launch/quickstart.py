"""The quickstart, from start to end on this machine: text, tokenizer, training, perplexity, samples, report.

    python -m launch.quickstart

Trains configs/quickstart.py into runs/quickstart, or continues it; measures it on the validation files and compresses
these with gzip and xz; lets the model write files and counts the files that Python can parse. Finished work is reused:
a signal ends the command as it ends launch.train, and the same command continues.
"""

import contextlib
import dataclasses
import pathlib

from absl import flags

from launch import cli
from launch.signals import EXIT_PREEMPTED, StopRequest
from model.errors import UserError

CONFIG = cli.define_path("config", "configs/quickstart.py", "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
RUN = cli.define_path("run", "runs/quickstart", "The run folder.")
HARD_STOP = flags.DEFINE_integer(
    "hard_stop",
    None,
    "Ends the training at this step, leaving its schedule as it is, and measures nothing.",
    lower_bound=1,
)
NUM_FILES = flags.DEFINE_integer(
    "num_files", 32, "How many files the model writes for the parser.", lower_bound=0, upper_bound=100_000
)
FILE_TOKENS = flags.DEFINE_integer("file_tokens", 256, "The most tokens in each of them.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Trains, measures, compares, reports."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}")
    cli.prepare_jax()
    from train.config_file import from_file
    from train.files.paths import local_path
    from train.loop import train
    from train.report import summary, write_report

    run = local_path(RUN.value, "a run folder that is trained")
    experiment = from_file(CONFIG.value, SET.value)
    with StopRequest() as stop:
        outcome = train(experiment, run, hard_stop=HARD_STOP.value, say=cli.say, stop=stop)
    if outcome.state != "finished":
        cli.say(f"{outcome.state} at step {outcome.step}: {outcome.reason}")
        return EXIT_PREEMPTED if outcome.state == "interrupted" else 0
    _compare(run)
    write_report(run)
    print(summary(run))
    cli.say(f"report: {run / 'report.html'}")
    return 0


def _compare(run: pathlib.Path) -> None:
    """Writes RUN/evaluation.json, unless it already holds the results of this checkpoint."""
    from train.evaluation.baselines import text_baselines
    from train.evaluation.documents import split_text
    from train.evaluation.evaluate import MEASURES, evaluate
    from train.evaluation.parsing import parse_share
    from train.files.files import read_json, replace_file, write_json
    from train.generation.samples import draw_samples
    from train.run.loaded import load_run

    loaded = load_run(run)
    path = run / "evaluation.json"
    asked = {"step": loaded.step, "num_files": NUM_FILES.value, "file_tokens": FILE_TOKENS.value}
    with contextlib.suppress(UserError):
        before = read_json(path)
        if all(before.get(name) == value for name, value in asked.items()):
            return
    experiment, dataset = loaded.experiment, loaded.dataset()
    print("measuring the validation files, window by window")
    measured = evaluate(loaded).as_json()
    lost = dataset.lost("validation")
    measured["bytes_not_restored"] = None if lost is None else lost.bytes
    print("compressing the same files with gzip and xz")
    baselines = text_baselines(split_text(dataset, "validation"), split_text(dataset, "train"))
    # Without a begin-of-document token the model cannot start a document, so it writes no files.
    count = 0 if dataset.tokenizer.begin_of_document is None else NUM_FILES.value
    print(f"letting the model write {count} files")
    longer = dataclasses.replace(experiment.samples, length=min(FILE_TOKENS.value, experiment.model.context_length - 1))
    files = draw_samples(
        dataclasses.replace(experiment, samples=longer),
        loaded.params,
        ("",) * count,
        tokenizer=dataset.tokenizer,
        seed=0,
        layout=loaded.layout,
    )
    share = parse_share(files)
    written = "\n".join(f"=== file {i} ===\n{file.text}" for i, file in enumerate(files))
    replace_file(run / "files.txt", written.encode())
    write_json(
        path,
        {
            **asked,
            "validation": {name: measured[name] for name in (*MEASURES, "tokens", "bytes", "documents_not_restored")},
            "baselines": [dataclasses.asdict(baseline) for baseline in baselines],
            "samples": dataclasses.asdict(share) | {"share": share.share},
        },
    )


if __name__ == "__main__":
    cli.run(main)
