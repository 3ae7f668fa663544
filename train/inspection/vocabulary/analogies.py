"""Analogies: king is to queen as man is to ...; the share of a list that the vectors answer.

Mikolov et al. 2013, "Linguistic Regularities in Continuous Space Word Representations": of "a is to b as c is to d",
the answer is the token whose vector has the largest cosine with b - a + c, of unit vectors, without a, b and c.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model.errors import UserError
from train.inspection.result import Charts, Result, Table
from train.inspection.text import token_texts
from train.inspection.vocabulary.checkpoints import MAX_NAMED, at_checkpoints, curves
from train.inspection.vocabulary.vectors import token_of_word, unit, vectors_of
from train.run.loading import LoadedRun

MAX_ROWS = 1000  # of the page; result.json has all

# Lines "a b c d": a is to b as c is to d.
LIST = (
    "man woman king queen", "man woman boy girl", "man woman father mother", "man woman son daughter",
    "man woman brother sister", "man woman uncle aunt", "France Paris Italy Rome", "France Paris Germany Berlin",
    "France Paris Japan Tokyo", "France Paris Russia Moscow", "France Paris England London", "go went see saw",
    "go went come came", "go went take took", "go went give gave", "big bigger small smaller", "big bigger fast faster",
    "big bigger long longer", "good better bad worse", "cat cats dog dogs", "cat cats book books", "cat cats car cars",
    "cat cats year years", "one two three four", "day days week weeks", "he his she her", "I my you your",
    "work worked play played", "work working play playing", "old young high low",
)  # fmt: skip


def answers(directions: np.ndarray, a: int, b: int, c: int) -> np.ndarray:
    """The scores (V,) of the answers to "a is to b as c is to ..."; `directions` are unit vectors (V, D)."""
    scores: np.ndarray = directions @ (directions[b] - directions[a] + directions[c])
    scores[[a, b, c]] = -np.inf
    return scores


def rank_of(scores: np.ndarray, d: int) -> int:
    """The rank of an answer, from 1."""
    return 1 + int(np.sum(scores > scores[d]))


class Asked(NamedTuple):
    """Analogies whose four words are tokens, with these, and those that are left out, with the reason."""

    tokens: dict[int, tuple[int, int, int, int]]  # by the number of the line
    left_out: list[tuple[str, str]]


class Answered(NamedTuple):
    """The ranks (analogies,) of the answers, the ids of the first answers, and the tokens that they are among."""

    ranks: np.ndarray
    first: np.ndarray
    among: int

    def shares(self) -> dict[str, float]:
        """The shares of the answers that are among the first k."""
        return {f"top_{k}": float((self.ranks <= k).mean()) for k in (1, 5, 10)}

    def mean_reciprocal_rank(self) -> float:
        """The mean of one over the rank."""
        return float((1 / self.ranks).mean())


def ask(run: LoadedRun, lines: Sequence[str]) -> Asked:
    """The tokens of analogies. Raises UserError for a line of other than four words, and where none can be asked."""
    tokens, left_out = {}, []
    for number, line in enumerate(lines):
        words = line.split()
        if len(words) != 4:
            raise UserError(f"--analogies: {line[:80]!r} has {len(words)} words; expected four: man woman king queen")
        found = [token_of_word(run, word, "analogies") for word in words]
        if None in found or len(set(found)) < 4:
            missing = [repr(word) for word, token in zip(words, found, strict=True) if token is None]
            left_out.append((line, f"no single token: {', '.join(missing)}" if missing else "two words are one token"))
        else:
            a, b, c, d = (int(token or 0) for token in found)
            tokens[number] = (a, b, c, d)
    if not tokens:
        raise UserError(
            f"no analogy of {len(lines)} has four words that are each a token of this tokenizer, which has "
            f"{run.tokenizer.vocab_size:,}; name others with --analogies, or take a model with a larger vocabulary"
        )
    return Asked(tokens, left_out)


def answer(run: LoadedRun, asked: Asked, table: str) -> Answered:
    """The answers of a run."""
    directions = unit(vectors_of(run, table))
    ranks, first = [], []
    for a, b, c, d in asked.tokens.values():
        scores = answers(directions, a, b, c)
        ranks.append(rank_of(scores, d))
        first.append(int(scores.argmax()))
    return Answered(np.array(ranks), np.array(first), len(directions) - 3)


def inspect(
    run: LoadedRun,
    *,
    analogies: Sequence[str] | None = None,
    table: str = "embedding",
    checkpoints: Sequence[str] | None = None,
) -> Result:
    """The ranks of the answers to a list of analogies.

    Args:
      run: the model.
      analogies: lines of four words, "a b c d" for "a is to b as c is to d"; None for a list of thirty.
      table: embedding or unembedding.
      checkpoints: the steps to show; None for that of the run.
    """
    lines = list(LIST if analogies is None else analogies)
    asked = ask(run, lines)
    by_step = at_checkpoints(run, checkpoints, lambda there: answer(there, asked, table))
    steps, last = list(by_step), list(by_step.values())[-1]
    named = [lines[number] for number in asked.tokens]
    first = token_texts(run.tokenizer, last.first)
    shares = last.shares()
    notes = [_note(asked.left_out, len(lines))] if asked.left_out else []
    if len(named) > MAX_ROWS:
        notes.append(f"The page shows the first {MAX_ROWS:,} of {len(named):,} answers; result.json has all.")
    several = len(steps) > 1
    ranks_SA = np.stack([each.ranks for each in by_step.values()])
    return Result(
        title="Analogies",
        about=f"{run.folder}, step {steps[-1]:,} \u00b7 the {table} \u00b7 analogies asked: {len(named)}; answered "
        f"first {shares['top_1']:.0%}, among the first five {shares['top_5']:.0%}",
        numbers={
            "table": table,
            "step": steps[-1],
            "count": len(named),
            "left_out": [line for line, _ in asked.left_out],
            **shares,
            "mean_reciprocal_rank": last.mean_reciprocal_rank(),
            "analogies": [
                {"words": line, "rank": rank, "first": text}
                for line, rank, text in zip(named, last.ranks, first, strict=True)
            ],
            "over_steps": [
                {"step": step, **each.shares(), "mean_reciprocal_rank": each.mean_reciprocal_rank()}
                | {"ranks": each.ranks}
                for step, each in by_step.items()
            ]
            if several
            else [],
        },
        arrays={"ranks": last.ranks} | ({"ranks_by_step": ranks_SA, "steps": np.array(steps)} if several else {}),
        parts=[
            *([_over_steps(by_step, named)] if several else []),
            Table(
                title="Answers",
                head=["a is to b as c is to d", *_of_steps(steps), "first answer"],
                rows=[
                    [line, *map(str, ranks), repr(text)]
                    for line, ranks, text in list(zip(named, ranks_SA.T, first, strict=True))[:MAX_ROWS]
                ],
                caption=f"Ranks of d are among {last.among:,} tokens; by chance the mean rank is half of that."
                + (f" The first answer is that at step {steps[-1]:,}." if several else ""),
            ),
        ],
        notes=notes,
        lines=[
            *(f"{name}: {share:.1%} of {len(named)}" for name, share in shares.items()),
            *(f"step {step}: {_words(each)}" for step, each in by_step.items() if several),
        ],
    )


def _of_steps(steps: Sequence[int]) -> list[str]:
    return ["rank of d"] if len(steps) == 1 else [f"step {step:,}" for step in steps]


def _words(answered: Answered) -> str:
    """The scores of one step, for the terminal."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in answered.shares().items())
    return f"{shares}, median rank {np.median(answered.ranks):g}"


def _over_steps(by_step: dict[int, Answered], named: Sequence[str]) -> Charts:
    steps, all_of_them = list(by_step), list(by_step.values())
    scores = {f"first {k}": [each.shares()[f"top_{k}"] for each in all_of_them] for k in (10, 5, 1)}
    ranks: dict[str, list[float]] = {}
    for number, line in enumerate(named):
        ranks[f"{number} {line}" if line in ranks else line] = [float(each.ranks[number]) for each in all_of_them]
    median = " The strong line is their median." if len(ranks) > MAX_NAMED else ""
    return Charts(
        title="Over training steps",
        charts=[
            curves(
                "Analogies answered",
                f"The share of the {len(named)} analogies whose answer is among the first 1, 5 and 10.",
                steps,
                scores,
                unit="share of the list",
            ),
            curves(
                "Rank of the expected word",
                f"One line for each analogy, 1 on top: the answer that was asked for comes first.{median}",
                steps,
                ranks,
                unit="rank",
                ranks=True,
            ),
        ],
    )


def _note(left_out: Sequence[tuple[str, str]], count: int, most: int = 5) -> str:
    """A sentence on the analogies that were left out: the first ones, and why."""
    named = "; ".join(f"{line[:80]} ({reason[:80]})" for line, reason in left_out[:most])
    more = f"; and {len(left_out) - most} more, in result.json" if len(left_out) > most else ""
    return f"{len(left_out)} of {count} analogies are left out: {named}{more}."
