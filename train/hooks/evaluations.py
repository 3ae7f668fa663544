"""Evaluations during training: of the validation split, and of further named texts."""

import math
from typing import Any

from train.evaluation.named_evaluations import NamedEvaluation, evaluated_split
from train.evaluation.validation import BatchLimit, SplitEvaluation
from train.hooks.interface import Hook, Session, StepInfo
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
        self.measure = SplitEvaluation(session.experiment, session.dataset, session.mesh, alive=session.alive)
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
        values = self.measure(info.state) | self._unrestored
        self._metrics.evaluation(info.step, values)
        loss, bits = format_fixed(values["loss"]), format_fixed(values["bits_per_byte"])
        self._say(f"step {info.step}: validation loss {loss}, {bits} bits per byte{self._note}")
        info.validation, info.best = values["loss"], values["loss"] < self._lowest
        self._lowest = min(self._lowest, values["loss"])


class NamedEvaluationHook(Hook):
    """Measures one further text; see `NamedEvaluation`."""

    def __init__(self, session: Session, option: NamedEvaluation, validation: ValidationHook) -> None:
        """Args: the session, with prepared texts; the option; the validation hook, to share its compiled program."""
        self.every, self._name, self._metrics, self._say = option.every, option.name, session.metrics, session.say
        dataset, split = evaluated_split(option, session.folder)
        self._measure = SplitEvaluation(
            session.experiment,
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
        values = self._measure(info.state) | self._unrestored
        self._metrics.evaluation(info.step, values, name=self._name)
        loss, bits = format_fixed(values["loss"]), format_fixed(values["bits_per_byte"])
        self._say(f"step {info.step}: {self._name} loss {loss}, {bits} bits per byte{self._note}")


def evaluation_hooks(session: Session) -> list[Hook]:
    """The hook of the validation split and one for each further text, in the order of the config."""
    validation = ValidationHook(session)
    return [
        validation,
        *(NamedEvaluationHook(session, option, validation) for option in session.experiment.evaluations),
    ]
