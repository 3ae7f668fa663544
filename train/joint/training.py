"""Trains several runs jointly: each is the ordinary loop in its own folder, and all take their steps in one program.

Every member restores, logs, evaluates and saves by itself, so that a run folder is that of a run alone. When all
members wait for a program, the evaluations that are asked for are computed first, then a step of the members that ask
for one.
Members of one command are at the same step; after a kill they may continue from different checkpoints, and each ends at
its own last step. A member that fails is left out of the following steps.

The times of a member include those of the others: its steps, and the pauses in which another saves.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from model.errors import UserError
from model.kernels.selection import choices_said
from train.evaluation.validation import EvaluationStep
from train.experiment import Experiment
from train.files.paths import expand_paths
from train.hooks.programs import Programs
from train.joint.groups import check_joint
from train.joint.programs import JointPrograms, Key, MemberState
from train.joint.turns import Turn, take_turns
from train.loop import Outcome, train
from train.objectives.interface import Batch
from train.parallel.mesh import make_mesh
from train.process import hosts
from train.process.stop import Stop
from train.process.watchdog import Watchdog, end_stalled
from train.run import parameter_table as parameters
from train.run.checks import is_finished
from train.state import Held, TrainState
from train.statistics import Statistics
from train.step import Metrics
from train.terminal.progress import Progress

_STEP, _EVALUATION = "step", "evaluation"


class Member(NamedTuple):
    """A run that trains jointly with others: a name for its lines, its experiment and its folder."""

    name: str
    experiment: Experiment
    folder: pathlib.Path


SayOf = Callable[[Member, str], None]


@dataclasses.dataclass(frozen=True)
class End:
    """How a member ended: with an outcome, or with an error."""

    member: Member
    outcome: Outcome | None
    error: BaseException | None = None


class _Request(NamedTuple):
    """A program that a member asks for: its key, what it is compiled for, and the batch of the member."""

    key: Key
    option: Any
    batch: Batch


def train_jointly(
    members: Sequence[Member],
    hard_stop: int | None = None,
    say: SayOf = lambda member, line: print(f"{member.name}: {line}"),
    stop: Stop | None = None,
    stall_seconds: float = 0.0,
) -> list[End]:
    """Trains the members, as `train.loop.train` trains each; those that are finished are left alone.

    Args:
      members: the runs; their experiments differ in seeds and in the numbers of train/joint/groups.py alone.
      hard_stop, stop, stall_seconds: as for `train`.
      say: prints a line of a member.

    Returns:
      The end of each member, in order. The error of one does not end the others.

    Raises:
      UserError: for members that cannot train in one program.
    """
    if hosts.joined():
        raise UserError("several processes cannot train runs jointly; start one process for them")
    members = [member._replace(experiment=expand_paths(member.experiment)) for member in members]
    check_joint([(member.name, member.experiment) for member in members])
    ends: dict[pathlib.Path, End] = {}
    left = []
    for member in members:
        if is_finished(member.experiment, member.folder):
            ends[member.folder] = End(member, Outcome("finished", member.experiment.training.num_steps))
        else:
            left.append(member)
    if left:
        _check_memory(left)
        ends |= {end.member.folder: end for end in _Joint(left, hard_stop, say, stop or Stop(), stall_seconds).run()}
    return [ends[member.folder] for member in members]


def _check_memory(members: Sequence[Member]) -> None:
    """Raises UserError for stacked states that alone take more memory than there is."""
    try:
        parameters.check_memory(members[0].experiment, make_mesh(members[0].experiment.mesh), len(members))
    except UserError as error:
        raise UserError(f"{len(members)} runs in one program: {error}; or give fewer at once (--joint)") from None


class _Joint:
    """One call of `train_jointly`."""

    def __init__(
        self,
        members: Sequence[Member],
        hard_stop: int | None,
        say: SayOf,
        stop: Stop,
        stall_seconds: float,
    ) -> None:
        self._members, self._hard_stop, self._say, self._stop = members, hard_stop, say, stop
        self._seconds = stall_seconds
        self._stop_of_members = Stop()  # members do not interrupt one another, as the caller's may
        self._programs = JointPrograms([member.experiment for member in members])
        self._turns = [Turn(member.name, functools.partial(self._train, i)) for i, member in enumerate(members)]

    def run(self) -> list[End]:
        stacks = self._members[0].folder / "logs" / "stacks-0.txt"
        total = self._members[0].experiment.training.num_steps
        with contextlib.ExitStack() as stack:
            self._watchdog = stack.enter_context(Watchdog(self._seconds, stacks, end_stalled))
            self._start = stack.enter_context(contextlib.ExitStack())
            self._start.enter_context(self._watchdog.doing("the start of the runs", patient=True))
            title = f"training {len(self._members)} runs"
            self._progress = stack.enter_context(Progress(title, total, until=self._hard_stop))
            take_turns(self._turns, self._serve)
        return [End(member, turn.result, turn.error) for member, turn in zip(self._members, self._turns, strict=True)]

    def _train(self, index: int, turn: Turn) -> Outcome:
        """The work of a member."""
        member = self._members[index]
        return train(
            member.experiment,
            member.folder,
            self._hard_stop,
            say=lambda line: self._say(member, line),
            stop=self._stop_of_members,
            programs=_MemberPrograms(self._programs, index, turn),
        )

    def _serve(self, waiting: Sequence[Turn]) -> None:
        """Runs the evaluations that members ask for, or else a step."""
        self._start.close()
        asked = [turn for turn in waiting if turn.request.key[0] == _EVALUATION] or list(waiting)
        key, option, _ = asked[0].request
        asking = {self._turns.index(turn): turn for turn in asked if turn.request.key == key}
        batches = {index: turn.request.batch for index, turn in asking.items()}
        compiled = self._programs.is_compiled(key)
        run = self._programs.evaluate if key[0] == _EVALUATION else self._programs.step
        try:
            doing = self._watchdog.doing(f"the {key[0]} of {len(asking)} runs", patient=not compiled)
            with doing, choices_said(self._progress.message):
                results = run(key, option, batches)
        except Exception as error:  # the state may be lost: nobody can go on
            for turn in waiting:
                turn.fail(error)
            return
        for index, turn in asking.items():
            turn.answer(results[index])
        if key[0] == _STEP:
            self._progress.update(min(self._programs.steps[self._turns.index(turn)] for turn in waiting))
        self._stop_of_members.requested = self._stop.requested


class _MemberPrograms(Programs):
    """The programs of a member, which run when all members have asked."""

    shows_progress = False

    def __init__(self, joint: JointPrograms, index: int, turn: Turn) -> None:
        self._joint, self._index, self._turn = joint, index, turn

    def compile_step(
        self, experiment: Experiment, mesh: jax.sharding.Mesh, statistics: Statistics | None = None
    ) -> Any:
        """See `Programs`."""
        return _MemberStep(self._joint, self._turn, statistics)

    def compile_evaluation(self, experiment: Experiment, mesh: jax.sharding.Mesh, end: int | None) -> EvaluationStep:
        """See `Programs`."""

        def evaluate(held: Held, batch: Batch) -> dict[str, jax.Array]:
            sums: dict[str, jax.Array] = self._turn.ask(_Request((_EVALUATION, end, _shapes(batch)), end, batch))
            return sums

        return evaluate

    def hold(self, state: TrainState) -> MemberState:
        """See `Programs`."""
        self._joint.put(self._index, state)
        return MemberState(self._joint, self._index)


class _MemberStep:
    """The step of a member, in the form of a jitted function that is compiled ahead."""

    def __init__(self, joint: JointPrograms, turn: Turn, statistics: Statistics | None) -> None:
        self._joint, self._turn, self._statistics = joint, turn, statistics

    def __call__(self, held: Held, batch: Batch) -> tuple[Held, Metrics]:
        return held, self._turn.ask(_Request(self._key(batch), self._statistics, batch))

    def lower(self, held: Held, batch: Batch) -> "_MemberStep":
        """Compiles the step, so that no later step is timed with it."""
        self._joint.compile_step(self._key(batch), self._statistics, batch)
        return self

    def compile(self) -> "_MemberStep":
        """Returns the step, which is compiled."""
        return self

    def _key(self, batch: Batch) -> Key:
        return (_STEP, self._statistics is not None, _shapes(batch))


def _shapes(batch: Batch) -> tuple[Any, ...]:
    return tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))
