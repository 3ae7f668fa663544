"""The nearest neighbours of tokens by the cosine of their vectors."""

from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.inspection.result import Result, Table
from train.inspection.text import token_texts
from train.inspection.vocabulary.vectors import tokens_of_words, unit, vectors_of
from train.run.loading import LoadedRun

MAX_ROWS = 200  # of the page; result.json has all


def neighbours(vectors: np.ndarray, token: int, count: int) -> list[tuple[int, float]]:
    """The tokens whose vectors have the largest cosine with that of a token, without itself, and the cosines."""
    directions = unit(vectors)
    cosines = directions @ directions[token]
    cosines[token] = -np.inf
    best = np.argsort(-cosines, kind="stable")[:count]
    return [(int(i), float(cosines[i])) for i in best if np.isfinite(cosines[i])]


def inspect(run: LoadedRun, *, words: Sequence[str], table: str = "embedding", top: int = 10) -> Result:
    """The nearest neighbours of words.

    Args:
      run: the model.
      words: words, each a token.
      table: embedding or unembedding.
      top: the number of neighbours.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    vectors = vectors_of(run, table)
    found = {word: neighbours(vectors, token, top) for word, token in tokens_of_words(run, words).items()}
    names = {
        word: list(zip(token_texts(run.tokenizer, np.array([i for i, _ in near])), [c for _, c in near], strict=True))
        for word, near in found.items()
    }
    most = max(map(len, names.values()))
    more = f"The page shows the first {MAX_ROWS:,} of {most:,} neighbours; result.json has all."
    rows = [
        [
            str(rank + 1),
            *(f"{near[rank][0]!r} {near[rank][1]:.3f}" if rank < len(near) else "" for near in names.values()),
        ]
        for rank in range(min(MAX_ROWS, most))
    ]
    return Result(
        title="Nearest neighbours",
        about=f"{run.folder}, step {run.step:,} \u00b7 the {table}, {len(vectors):,} tokens",
        numbers={"table": table, "neighbours": {w: [{"text": t, "cosine": c} for t, c in n] for w, n in names.items()}},
        arrays={},
        parts=[Table(title="Tokens with the largest cosine", head=["rank", *names], rows=rows)],
        notes=[more] if most > MAX_ROWS else [],
        lines=[
            f"{word}: " + ", ".join(f"{text!r} {cosine:.3f}" for text, cosine in near[:MAX_ROWS])
            for word, near in names.items()
        ],
    )
