"""The win rate of two runs: how often the answer of one is better than that of the other, prompt by prompt.

Answers are judged by their right answers, where these are known (strict: the answer and nothing else), or by the scores
of a reward model. A tie counts as half a win. Both runs answer the same prompts, so that the interval is that of the
paired difference over prompts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.alignment.answering import Answers, Examiner, Question, chat_of_run, read_questions
from train.alignment.preference_accuracy import answer_numbers, refuse_long, renderer_of
from train.data.conversations.rows import messages_of, read_rows, tools_of
from train.data.preferences.reading import Preference
from train.lab.statistics.differences import Difference, of_differences
from train.run.loading import LoadedRun


@dataclasses.dataclass(frozen=True)
class WinRate:
    """The first run against the second.

    Attributes:
      judge: what judged: "right answers", or the folder of the reward model.
      wins, ties, losses: the prompts at which the first is better, as good, worse.
      rate: the share of wins with half the ties; its interval is that of `preference`, mapped to a share.
      preference: wins minus losses per prompt, with the paired t interval over prompts.
      difference: the mean judgement of the first minus that of the second, with the same: of accuracies, or of scores.
    """

    judge: str
    wins: int
    ties: int
    losses: int
    preference: Difference
    difference: Difference

    @property
    def rate(self) -> float:
        """The win rate."""
        return (1 + self.preference.mean) / 2

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "judge": self.judge,
            "prompts": self.wins + self.ties + self.losses,
            "wins": self.wins,
            "ties": self.ties,
            "losses": self.losses,
            "win_rate": self.rate,
            "win_rate_low": max(0.0, (1 + self.preference.low) / 2),
            "win_rate_high": min(1.0, (1 + self.preference.high) / 2),
            "difference": self.difference.mean,
            "difference_low": self.difference.low,
            "difference_high": self.difference.high,
            "p_value": self.preference.p_value,
            "level": self.preference.level,
        }


def win_rate_of(judge: str, first: Sequence[float], second: Sequence[float], level: float = 0.95) -> WinRate:
    """The win rate from the judgements of both runs' answers, prompt by prompt; higher is better."""
    if len(first) < 2:
        raise UserError(f"expected at least two prompts, got {len(first)}: one tells nothing about the next")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not np.isfinite(differences).all():
        raise UserError(f"prompt {int(np.argmin(np.isfinite(differences))) + 1} has a judgement that is not finite")
    signs = np.sign(differences)
    wins, ties, losses = (int((signs == sign).sum()) for sign in (1, 0, -1))
    preference, difference = (of_differences(values.tolist(), level) for values in (signs, differences))
    return WinRate(judge, wins, ties, losses, preference, difference)


def compare_runs(
    first: LoadedRun, second: LoadedRun, path: str, judge: LoadedRun | None = None, *, max_tokens: int = 64
) -> WinRate:
    """Lets both runs answer the prompts of a path's files greedily, and judges their answers.

    Args:
      first, second: the runs.
      path: rows with a prompt, and, where right answers judge, an answer.
      judge: a reward model, whose tokenizer may be another one; None for right answers.
      max_tokens: the longest answer.

    Raises:
      UserError: for bad rows, for a judge that has no scores, and for an answer longer than its context.
    """
    if judge is not None and judge.experiment.model.score_head is None:
        raise UserError(
            f"{judge.folder} is no reward model: it has no score head; give a run of RewardModel as --judge"
        )
    questions = read_questions(path) if judge is None else read_prompts(path)
    given = [_answers(run, questions, max_tokens) for run in (first, second)]
    if judge is None:
        strict = [[float(verdict.strict) for verdict in answers.verdicts] for answers in given]
        return win_rate_of("right answers", strict[0], strict[1])
    scores = [_scores(judge, questions, answers.texts) for answers in given]
    return win_rate_of(str(judge.folder), scores[0], scores[1])


def read_prompts(path: str) -> list[Question]:
    """The prompts of a path's files; right answers are not read. Raises UserError for rows of another form."""
    found = []
    for row in read_rows(path):
        if "prompt" not in row.fields:
            listed = ", ".join(map(repr, list(row.fields)[:8])) or "none"
            raise UserError(f"{row.where}: expected a field 'prompt'; its fields are {listed}")
        messages = messages_of(row.fields["prompt"], f"{row.where}: prompt", text_role="user")
        found.append(Question(messages, tools_of(row), "", row.where))
    if not found:
        raise UserError(f"{path} has no row with a prompt")
    return found


def _answers(run: LoadedRun, questions: Sequence[Question], max_tokens: int) -> Answers:
    chat = chat_of_run(run.folder, run.tokenizer)
    model, params = run.experiment.model, run.params
    return Examiner(model, params, run.tokenizer, chat, questions, max_tokens=max_tokens, layout=run.layout)()


def _scores(judge: LoadedRun, questions: Sequence[Question], texts: Sequence[str]) -> list[float]:
    """The scores of answers."""
    renderer, rendered = renderer_of(judge), []
    for question, text in zip(questions, texts, strict=True):
        answer = [{"role": "assistant", "content": text}]
        row = Preference(prompt=question.messages, answers=(answer,), label=True, name=":0", where=question.where)
        rendered += renderer.answers(row)
    refuse_long(rendered, [question.where for question in questions], judge.experiment.model.context_length)
    scores: list[float] = answer_numbers(judge, rendered, lambda done: None, scores=True).tolist()
    return scores


def table(found: WinRate, first: str, second: str) -> str:
    """The numbers for a person."""
    numbers, level = found.as_json(), f"{found.preference.level:.0%}, paired t over prompts"
    low, high = numbers["win_rate_low"], numbers["win_rate_high"]
    of = "accuracy" if found.judge == "right answers" else "score"
    difference = found.difference
    return "\n".join(
        [
            f"{first} against {second}, {numbers['prompts']:,} prompts, judged by {found.judge}",
            f"wins {found.wins:,}, ties {found.ties:,}, losses {found.losses:,}",
            f"win rate    {found.rate:.1%}  [{low:.1%}, {high:.1%}]  ({level})",
            f"difference  {difference.mean:+.4f} in {of}  [{difference.low:+.4f}, {difference.high:+.4f}]",
        ]
    )
