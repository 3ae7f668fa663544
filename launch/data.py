"""Prints the contents of a dataset, or the documents in a step of a run; writes synthetic instructions.

    python -m launch.data info --path=runs/quickstart/data
    python -m launch.data show --run=runs/quickstart --step=4012
    python -m launch.data instructions --path=data/instructions

`show` prints every span of a document in the batch of that step: its row and columns in the batch, its file, its
range of the file's tokens, and the beginning of its text. Of conversations it prints every token with its role, and
whether it counts: in colour on a terminal. Step N is the update that made the step counter N. `info --verify` also
compares every shard with the checksum that was written with it. `instructions` writes texts, conversations, preferences
and prompts of a small language whose right answers are known (train/alignment/instructions.py) into a folder.
"""

import itertools

from absl import flags

from launch.command import cli
from model.errors import UserError
from train.files.paths import user_path

RUN = cli.define_path("run", None, "show: the run folder.")
STEP = flags.DEFINE_integer("step", None, "show: the step, from 1.")
ROWS = flags.DEFINE_list("rows", None, "show: the rows of the batch, such as 0,5; all when not given.")
CHARACTERS = flags.DEFINE_integer("characters", 60, "show: characters of text of each span.", lower_bound=0)
PATH = cli.define_path("path", None, "info: the dataset folder. instructions: the folder to write into.")
VERIFY = flags.DEFINE_bool("verify", False, "info: reads every shard and compares its checksum.")
GRAMMAR = flags.DEFINE_string("grammar", "Instructions()", "instructions: the grammar, such as Instructions(length=8).")
COUNTS = flags.DEFINE_string(
    "counts", "Counts()", "instructions: rows and noise, such as Counts(preference_noise=0.2)."
)
# The flags of each action.
ACTIONS = {"show": (RUN, STEP, ROWS), "info": (PATH, VERIFY), "instructions": (PATH, GRAMMAR, COUNTS)}


def main(argv: list[str]) -> int:
    """Reads the flags and prints."""
    if len(argv) != 2 or argv[1] not in ACTIONS:
        got = " ".join(argv[1:]) or "nothing"
        raise UserError(f"expected one of {', '.join(ACTIONS)}, got {got}; see python -m launch.data --help")
    own = {flag.name for flag in ACTIONS[argv[1]]}
    for flag in itertools.chain(*ACTIONS.values()):
        if flag.present and flag.name not in own:
            raise UserError(f"--{flag.name} has no effect with {argv[1]}; leave it out")
    return {"info": _info, "show": _show, "instructions": _instructions}[argv[1]]()


def _instructions() -> int:
    from model.options.assignments import parse_value
    from model.options.tree import check
    from train.alignment.instructions import Counts, Instructions, write_all
    from train.files.paths import local_path

    if not PATH.value:
        raise UserError("--path is missing: the folder to write into, such as --path=data/instructions")
    grammar = parse_value(GRAMMAR.value, Instructions, "--grammar")
    counts = parse_value(COUNTS.value, Counts, "--counts")
    check(grammar, "--grammar")
    check(counts, "--counts")
    for path in write_all(grammar, local_path(PATH.value, "a folder of rows"), counts):
        print(path)
    return 0


def _info() -> int:
    from train.data.prepare.summary import summary, verify

    if not PATH.value:
        raise UserError("--path is missing: the dataset folder, such as --path=runs/quickstart/data")
    print(summary(user_path(PATH.value)))
    if VERIFY.value:
        print(f"verified: {verify(user_path(PATH.value))} shards match their checksums")
    return 0


def _show() -> int:
    if not RUN.value or STEP.value is None:
        raise UserError("--run and --step are needed: python -m launch.data show --run=runs/quickstart --step=100")
    if STEP.value < 1:
        raise UserError(f"--step={STEP.value}: steps count from 1")
    from train import experiment as experiments
    from train.data.shards.dataset import dataset_of_run

    run = user_path(RUN.value)
    experiment = experiments.load(run)
    data, last = experiment.data, experiment.training.num_steps
    if STEP.value > last:
        raise UserError(f"--step={STEP.value}: this run ends at step {last} (training.num_steps); give a step up to it")
    rows = _rows(data.batch_size)
    try:
        print(data.shown(dataset_of_run(run), STEP.value, rows, CHARACTERS.value))
    except UserError as error:
        raise UserError(f"{run}: {error}") from None
    return 0


def _rows(batch_size: int) -> list[int] | None:
    if ROWS.value is None:
        return None
    known = {str(row): row for row in range(batch_size)}
    if any(row.strip() not in known for row in ROWS.value):
        raise UserError(f"--rows={','.join(ROWS.value)}: expected numbers from 0 to {batch_size - 1}, as in --rows=0,3")
    return [known[row.strip()] for row in ROWS.value]


if __name__ == "__main__":
    cli.run(main, prints_result=True)
