"""Evaluations during training: of the validation split, of further named texts, and of probes."""

import dataclasses
import math
from typing import Any

from model.errors import UserError
from train.data.config import Data
from train.evaluation.named_evaluations import (
    AnyEvaluation,
    InductionEvaluation,
    NamedEvaluation,
    ProbeEvaluation,
    evaluated_split,
)
from train.evaluation.probing.measure import measure, reader_of
from train.evaluation.validation import BatchLimit, SplitEvaluation
from train.hooks.induction import InductionHook
from train.hooks.interface import Hook, Session, StepInfo
from train.state import evaluation_params
from train.terminal.formatting import format_fixed

VALIDATION = "validation"


class ValidationHook(Hook):
    """Measures the validation split; its loss decides which checkpoint is the best."""

    compiles = True
    activity = "evaluation"

    def __init__(self, session: Session) -> None:
        """Args: the session. Raises UserError when the split has no token to predict."""
        option = session.experiment.evaluation
        self.every, self._metrics, self._say = option.every, session.metrics, session.say
        experiment, dataset, mesh = session.experiment, session.dataset, session.mesh
        step = session.programs.compile_evaluation(experiment, mesh, dataset.tokenizer.end_of_document)
        self.measure = SplitEvaluation(experiment, dataset, mesh, step=step, alive=session.alive)
        lost = session.dataset.unrestored(VALIDATION)
        self._unrestored = {"bytes_not_restored": lost.bytes} if lost is not None and lost.documents else {}
        words = session.dataset.unrestored_in_words(VALIDATION)
        self._note = "" if words is None else f" ({words})"
        self._lowest = math.inf

    def resumed(self, step: int, lines: list[dict[str, Any]]) -> None:
        """See `Hook`."""
        losses = [line.get("loss") for line in lines if line.get("kind") == "eval" and "name" not in line]
        self._lowest = min((loss for loss in losses if loss is not None and not math.isnan(loss)), default=math.inf)

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`."""
        values = self.measure(info.held) | self._unrestored
        self._metrics.evaluation(info.step, values)
        self._say(f"step {info.step}: validation loss {_in_words(values)}{self._note}")
        info.validation, info.best = values["loss"], values["loss"] < self._lowest
        self._lowest = min(self._lowest, values["loss"])


class NamedEvaluationHook(Hook):
    """Measures one further text; see `NamedEvaluation`."""

    def __init__(self, session: Session, option: NamedEvaluation, validation: ValidationHook) -> None:
        """Args: the session, with prepared texts; the option; the validation hook, to share its compiled program."""
        self.every, self._name, self._metrics, self._say = option.every, option.name, session.metrics, session.say
        dataset, split = evaluated_split(option, session.folder, session.dataset)
        experiment = session.experiment
        if (length := option.sequence_length) is not None:
            assert isinstance(experiment.data, Data)  # see `problems_of_evaluations`
            data = dataclasses.replace(experiment.data, sequence_length=length)
            experiment = dataclasses.replace(experiment, data=data)
        self._measure = SplitEvaluation(
            experiment,
            dataset,
            session.mesh,
            split=split,
            limit=BatchLimit(f"evaluations ({option.name})", option.max_batches),
            step=validation.measure.step,
            alive=session.alive,
        )
        lost, words = dataset.unrestored(split), dataset.unrestored_in_words(split)
        self._unrestored = {"bytes_not_restored": lost.bytes} if lost is not None and lost.documents else {}
        self._note = "" if words is None else f" ({words})"

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`."""
        values = self._measure(info.held) | self._unrestored
        self._metrics.evaluation(info.step, values, name=self._name)
        self._say(f"step {info.step}: {self._name} loss {_in_words(values)}{self._note}")


def _in_words(values: dict[str, float]) -> str:
    """The loss, and bits per byte where tokens stand for bytes."""
    bits = values.get("bits_per_byte")
    return format_fixed(values["loss"]) + ("" if bits is None else f", {format_fixed(bits)} bits per byte")


class ProbeHook(Hook):
    """Measures a probe; see `ProbeEvaluation`."""

    compiles = True
    activity = "evaluation"

    def __init__(self, session: Session, option: ProbeEvaluation) -> None:
        """Args: the session, the option. Raises UserError when the probe does not fit the model."""
        self.every, self._option, self._session = option.every, option, session
        self._reader = reader_of(session.experiment, session.dataset.tokenizer)
        try:
            self._probe = option.probe.prepare(self._reader)
        except UserError as error:
            raise UserError(f"evaluations ({option.name}): {error}") from None

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`. A line has the numbers of the probe, and its baselines as `baseline_NAME`."""
        session, option = self._session, self._option
        findings = measure(
            session.experiment,
            evaluation_params(session.experiment.optimizer, info.state),
            session.layout,
            self._probe,
            self._reader,
            num_sequences=option.num_sequences,
            alive=session.alive,
        )
        numbers = {name: value for name, value in findings.numbers.items() if not math.isnan(value)}
        baselines = {f"baseline_{name.replace(' ', '_')}": value for name, value in findings.baselines.items()}
        session.metrics.evaluation(info.step, numbers | baselines, name=option.name)
        known = ", ".join(f"{name} {format_fixed(value)}" for name, value in findings.baselines.items())
        loss, accuracy = format_fixed(numbers["loss"]), f"{numbers['accuracy']:.1%}"
        session.say(f"step {info.step}: {option.name} loss {loss} ({known}), accuracy {accuracy}")


def _hook_of(session: Session, option: AnyEvaluation, validation: ValidationHook) -> Hook:
    if isinstance(option, InductionEvaluation):
        return InductionHook(session, option)
    if isinstance(option, ProbeEvaluation):
        return ProbeHook(session, option)
    return NamedEvaluationHook(session, option, validation)


def evaluation_hooks(session: Session) -> list[Hook]:
    """The hook of the validation split and one for each further evaluation, in the order of the config."""
    validation = ValidationHook(session)
    return [
        validation,
        *(_hook_of(session, option, validation) for option in session.experiment.evaluations),
    ]
