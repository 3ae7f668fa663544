"""Analogies: king is to queen as man is to ...; the share of a list that the vectors answer.

Mikolov et al. 2013, "Linguistic Regularities in Continuous Space Word Representations": of "a is to b as c is to d",
the answer is the token whose vector has the largest cosine with b - a + c, of unit vectors, without a, b and c.
"""

from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.inspection.result import Result, Table
from train.inspection.text import token_texts
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


def inspect(run: LoadedRun, *, analogies: Sequence[str] | None = None, table: str = "embedding") -> Result:
    """The ranks of the answers to a list of analogies.

    Args:
      run: the model.
      analogies: lines of four words, "a b c d" for "a is to b as c is to d"; None for a list of thirty.
      table: embedding or unembedding.
    """
    lines = list(LIST if analogies is None else analogies)
    for line in lines:
        if len(line.split()) != 4:
            raise UserError(
                f"--analogies: {line[:80]!r} has {len(line.split())} words; expected four: man woman king queen"
            )
    directions = unit(vectors_of(run, table))
    found: list[tuple[str, int, str]] = []
    left_out: list[tuple[str, str]] = []  # with the reason
    for line in lines:
        words = line.split()
        tokens = [token_of_word(run, word, "analogies") for word in words]
        if None in tokens or len(set(tokens)) < 4:
            missing = [repr(word) for word, token in zip(words, tokens, strict=True) if token is None]
            reason = f"no single token: {', '.join(missing)}" if missing else "two words are one token"
            left_out.append((line, reason))
            continue
        a, b, c, d = (int(token or 0) for token in tokens)
        scores = answers(directions, a, b, c)
        first = token_texts(run.tokenizer, np.array([scores.argmax()]))[0]
        found.append((line, rank_of(scores, d), first))
    if not found:
        raise UserError(
            f"none of the {len(lines)} analogies has four words that are each a token of this tokenizer, which has "
            f"{run.tokenizer.vocab_size:,}; name others with --analogies, or take a model with a larger vocabulary"
        )
    ranks = np.array([rank for _, rank, _ in found])
    shares = {f"top_{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
    notes = [_note(left_out, len(lines))] if left_out else []
    if len(found) > MAX_ROWS:
        notes.append(f"The page shows the first {MAX_ROWS:,} of {len(found):,} answers; result.json has all.")
    return Result(
        title="Analogies",
        about=f"{run.folder}, step {run.step:,} \u00b7 the {table} \u00b7 analogies asked: {len(found)}; answered "
        f"first {shares['top_1']:.0%}, among the first five {shares['top_5']:.0%}",
        numbers={
            "table": table,
            "count": len(found),
            "left_out": [line for line, _ in left_out],
            **shares,
            "mean_reciprocal_rank": float((1 / ranks).mean()),
            "analogies": [{"words": line, "rank": rank, "first": first} for line, rank, first in found],
        },
        arrays={"ranks": ranks},
        parts=[
            Table(
                title="Answers",
                head=["a is to b as c is to d", "rank of d", "first answer"],
                rows=[[line, str(rank), repr(first)] for line, rank, first in found[:MAX_ROWS]],
                caption=f"Ranks are among {len(directions) - 3:,} tokens; by chance the mean rank is half of that.",
            )
        ],
        notes=notes,
        lines=[f"{name}: {share:.1%} of {len(found)}" for name, share in shares.items()],
    )


def _note(left_out: Sequence[tuple[str, str]], count: int, most: int = 5) -> str:
    """A sentence on the analogies that were left out: the first ones, and why."""
    named = "; ".join(f"{line[:80]} ({reason[:80]})" for line, reason in left_out[:most])
    more = f"; and {len(left_out) - most} more, in result.json" if len(left_out) > most else ""
    return f"{len(left_out)} of {count} analogies are left out: {named}{more}."
