"""Rewards of rollouts by the run of a reward model: its score at the last token of each answer.

    GRPO(reward=RewardOf(run="runs/instructions_reward"))

The reward model reads the ids that were drawn, the token that ends an answer included; an answer that a limit cut off
has none, and is scored at its last token. Ids are not rendered again, so the run must have the tokenizer of the
prompts, and their chat template. It is read once, at its latest checkpoint, into the mesh and the sharding table of
this run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from model.errors import UserError
from train.alignment.rewards import Question
from train.data.conversations.found_template import template_of_dataset, trained_template
from train.data.shards.dataset import dataset_of_run
from train.files.paths import literal_path
from train.objectives.answers import scores_of_answers
from train.objectives.interface import Batch
from train.objectives.reward import RewardModel
from train.objectives.rollout_options import RewardOf
from train.parallel import feed
from train.run.loading import load_params

if TYPE_CHECKING:
    from train.hooks.interface import Session

ANSWER = ("",)


class RewardRun:
    """Scores answers.

    Attributes:
      failures: always 0; a score that is not finite ends the run.
    """

    failures = 0

    def __init__(self, reward: RewardOf, session: Session) -> None:
        """Reads the run.

        Args:
          reward: the option.
          session: the session of the run that draws answers.

        Raises:
          UserError: for a run that is no reward model, or has another tokenizer, another template, too short a context.
        """
        data, folder = session.experiment.data, literal_path(reward.run)
        loaded = load_params(folder, mesh=session.experiment.mesh, sharding=session.experiment.sharding)
        self._model, self._params, self._layout = loaded.experiment.model, loaded.params, loaded.layout
        self._run, self._rows, self._length = reward.run, data.batch_size, data.sequence_length + 1
        _refuse_unlike(reward.run, loaded.experiment.objective, self._model.context_length, self._length)
        ways = self._layout.ways("sequence")
        self._length = min(-(-self._length // ways) * ways, self._model.context_length)
        _refuse_other_texts(reward.run, folder, session)
        model, layout = self._model, self._layout

        def scores(params: Any, batch: Batch) -> jax.Array:
            return scores_of_answers(model, params, batch, ANSWER, dropout_key=None, layout=layout).logp[:, 0]

        self._scores = jax.jit(scores)
        self._placement = layout.placement(("batch", "sequence"))

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """The scores of answers. Raises UserError, with the row, for one that is not finite."""
        found: list[float] = []
        for first in range(0, len(questions), self._rows):
            some = questions[first : first + self._rows]
            batch = feed.to_devices(self._batch(some), self._placement, self._rows, False)
            found += np.asarray(self._scores(self._params, batch)).tolist()[: len(some)]
        for question, score in zip(questions, found, strict=True):
            if not np.isfinite(score):
                raise UserError(
                    f"objective.reward: {self._run} gives {question.where} the score {score}, answer "
                    f"{question.answer[:80]!r}; the reward model has diverged, take an earlier one"
                )
        return found

    def close(self) -> None:
        """Frees the parameters."""
        self._params = None

    def _batch(self, questions: Sequence[Question]) -> dict[str, np.ndarray]:
        shape = (self._rows, self._length)
        tokens, targets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for row, question in enumerate(questions):
            count = len(question.ids)
            tokens[row, :count] = question.ids
            targets[row, : count - 1] = question.ids[1:]
            weights[row, question.prompt_tokens - 1 : count - 1] = 1
        return {"tokens": tokens, "targets": targets, "weights": weights}


def _refuse_unlike(run: str, objective: Any, context_length: int, length: int) -> None:
    if not isinstance(objective, RewardModel):
        raise UserError(
            f"objective.reward.run={run} is a run of {type(objective).__name__}, and no reward model; train one with "
            "objective=RewardModel(), as configs/alignment/reward.py does"
        )
    if context_length < length:
        raise UserError(
            f"objective.reward.run={run}: its context_length={context_length} is shorter than the {length} tokens of a "
            f"prompt with its answer; set data.sequence_length to {context_length - 1} or less"
        )


def _refuse_other_texts(run: str, folder: Any, session: Session) -> None:
    """Raises UserError when ids, or the words around a message, mean something else to the reward model."""
    own, theirs = session.dataset.tokenizer, dataset_of_run(folder).tokenizer
    if theirs.fingerprint() != own.fingerprint():
        raise UserError(
            f"objective.reward.run={run} has another tokenizer ({theirs.vocab_size:,} tokens) than the prompts "
            f"({own.vocab_size:,} tokens): ids would mean other texts to it; train a reward model with this tokenizer"
        )
    expected, found = template_of_dataset(session.dataset.folder), trained_template(folder)
    if expected is not None and found is not None and expected.template.source != found.template.source:
        raise UserError(
            f"objective.reward.run={run} learned from {found.template.where}, and the prompts have "
            f"{expected.template.where}: other words would stand around messages; give both the same data.template"
        )
