"""The quickstart, from start to end on this machine: text, tokenizer, training, perplexity, samples, report.

    python -m launch.quickstart

Trains configs/quickstart.py into runs/quickstart, or continues it; measures it on the validation files and compresses
these with gzip and xz; lets the model write files and counts the files that Python can parse. Finished work is reused:
a signal ends the command as it ends launch.train, and the same command continues.
"""

from absl import flags

from launch.command import cli
from launch.command.signals import EXIT_PREEMPTED, StopRequest
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
    from train.evaluation.comparison import compare_with_baselines
    from train.files.paths import local_path
    from train.loop import train
    from train.report import summary, write_report

    run = local_path(RUN.value, "a run folder that is trained")
    experiment = from_file(CONFIG.value, SET.value)
    with StopRequest() as stop:
        outcome = train(experiment, run, hard_stop=HARD_STOP.value, say=cli.print_escaped, stop=stop)
    if outcome.state != "finished":
        cli.print_escaped(f"{outcome.state} at step {outcome.step}: {outcome.reason}")
        return EXIT_PREEMPTED if outcome.state == "interrupted" else 0
    compare_with_baselines(run, NUM_FILES.value, FILE_TOKENS.value)
    write_report(run)
    print(summary(run))
    cli.print_escaped(f"report: {run / 'report.html'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
