r"""Trains several runs of equal shapes in one compiled program, each in a run folder of its own.

    python -m launch.clusters.joint --config=configs/small.py --member='runs/a training.seed=0 data.seed=0' \
        --member='runs/b training.seed=1 data.seed=1'

launch.sweep --joint=N starts it. A member is a run folder and its changes of the config, quoted as in a shell. Members
may differ in seeds, in the peak and final value of the learning rate, in weight decay and in the clipping norm. Each is
a run of launch.train: the same command continues it, and so does launch.train alone. Numbers are those of the run alone
but for the rounding of float32, since the matrix products of all members are computed together.

Exit status: that of launch.train; 0 when all members are at their ends, 1 when one failed by an error of the program, 2
for a mistake in the input of one, or one that diverged. The others go on to their ends.
"""

import pathlib
import shlex
import sys
import traceback
from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli
from launch.command.signals import EXIT_PREEMPTED, StopRequest
from model.errors import UserError
from train.process.watchdog import STALL_SECONDS
from train.terminal.formatting import escape_unprintable_lines

if TYPE_CHECKING:
    from train.joint.training import End, Member

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment` or `ablation`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field of all members: path.to.field=value.")
MEMBER = flags.DEFINE_multi_string("member", [], "'RUN field=value ...': a run and its own changes; two at least.")
MESH = cli.define_mesh()
HARD_STOP = flags.DEFINE_integer("hard_stop", None, "Ends the runs at this step, see launch.train.", lower_bound=1)
STALL_TIMEOUT = flags.DEFINE_float(
    "stall_timeout", STALL_SECONDS, "Seconds without progress that end the process, see launch.train.", lower_bound=0
)


def main(argv: list[str]) -> int:
    """Reads the flags and trains."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --member='runs/a training.seed=1'")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/small.py")
    if len(MEMBER.value) < 2:
        raise UserError("fewer than two runs: give --member='RUN field=value ...' for each; launch.train trains one")
    cli.prepare_jax(xla_flags=True)
    members = [_member(text) for text in MEMBER.value]
    folders = [member.folder.resolve() for member in members]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise UserError(f"--member: two have the folder {twice[0]}; give every run its own")
    from train.joint.training import train_jointly

    with StopRequest() as stop:
        ends = train_jointly(members, HARD_STOP.value, _say, stop, STALL_TIMEOUT.value)
    return max((_status(end) for end in ends), key=[0, 2, 1, EXIT_PREEMPTED].index)


def _member(text: str) -> "Member":
    """The member of a flag; its name is that of its folder."""
    from train.files.paths import local_path
    from train.joint.training import Member

    try:
        run, *settings = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--member={text!r}: {error or 'it is empty'}; expected 'RUN field=value ...'") from None
    experiment = cli.experiment_from(CONFIG.value, [*SET.value, *settings], cli.mesh_from_flag(MESH))
    folder = local_path(run, "--member")
    return Member(folder.name, experiment, folder)


def _log(folder: pathlib.Path, text: str) -> None:
    """Appends to the log of a member, which launch.sweep names when a run fails."""
    path = folder / "logs" / "sweep.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(escape_unprintable_lines(text) + "\n")


def _say(member: "Member", line: str) -> None:
    """Prints a line of a member, and writes it to its log."""
    cli.print_escaped(f"{member.name}: {line}")
    _log(member.folder, line)


def _status(end: "End") -> int:
    """The exit status of a member; says how it ended."""
    if end.error is None:
        assert end.outcome is not None
        if end.outcome.reason:
            cli.print_escaped(
                f"{end.member.name}: {end.outcome.state} at step {end.outcome.step}: {end.outcome.reason}"
            )
        return EXIT_PREEMPTED if end.outcome.state == "interrupted" else 0
    words, mistake = str(end.error), isinstance(end.error, UserError | OSError)
    if "RESOURCE_EXHAUSTED" in words:
        words, mistake = f"too little memory for {len(MEMBER.value)} runs in one program; give fewer (--joint)", True
    elif not mistake:
        words = "".join(traceback.format_exception(end.error))
    _log(end.member.folder, f"error: {words}")
    print(f"error: {end.member.name}: {escape_unprintable_lines(words)}", file=sys.stderr)
    return 2 if mistake else 1


if __name__ == "__main__":
    cli.run(main)
