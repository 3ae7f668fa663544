"""The nearest neighbours of tokens by the cosine of their vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.inspection.result import Charts, Part, Result, Table
from train.inspection.text import token_texts
from train.inspection.vocabulary.checkpoints import at_checkpoints, curves
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


def overlap(near: Sequence[tuple[int, float]], last: Sequence[tuple[int, float]]) -> float:
    """The share of the neighbours of the last step that are neighbours already."""
    return len({i for i, _ in near} & {i for i, _ in last}) / len(last)


def inspect(
    run: LoadedRun,
    *,
    words: Sequence[str],
    table: str = "embedding",
    top: int = 10,
    checkpoints: Sequence[str] | None = None,
) -> Result:
    """The nearest neighbours of words.

    Args:
      run: the model.
      words: words, each a token.
      table: embedding or unembedding.
      top: the number of neighbours.
      checkpoints: the steps to show; None for that of the run.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    tokens = tokens_of_words(run, words)

    def read(there: LoadedRun) -> dict[str, list[tuple[int, float]]]:
        vectors = vectors_of(there, table)
        return {word: neighbours(vectors, token, top) for word, token in tokens.items()}

    by_step = at_checkpoints(run, checkpoints, read)
    steps, last = list(by_step), list(by_step.values())[-1]
    several = len(steps) > 1
    texts = {step: {word: _named(run, near) for word, near in found.items()} for step, found in by_step.items()}
    shared = {word: [overlap(by_step[step][word], last[word]) for step in steps] for word in last}
    most = max(map(len, last.values()))
    more = f"The page shows the first {MAX_ROWS:,} of {most:,} neighbours; result.json has all."
    return Result(
        title="Nearest neighbours",
        about=f"{run.folder}, step {steps[-1]:,} \u00b7 the {table}, {run.experiment.model.vocab_size:,} tokens",
        numbers={
            "table": table,
            "step": steps[-1],
            "neighbours": {word: _as_json(near) for word, near in texts[steps[-1]].items()},
            "over_steps": [
                {
                    "step": step,
                    "neighbours": {word: _as_json(near) for word, near in found.items()},
                    "shared_with_the_last": {word: shared[word][row] for word in found},
                }
                for row, (step, found) in enumerate(texts.items())
            ]
            if several
            else [],
        },
        arrays={},
        parts=_over_steps(texts, shared) if several else [_table(texts[steps[-1]], "Tokens with the largest cosine")],
        notes=[more] if most > MAX_ROWS else [],
        lines=[
            *(
                f"{word}: " + ", ".join(f"{text!r} {cosine:.3f}" for text, cosine in near[:MAX_ROWS])
                for word, near in texts[steps[-1]].items()
            ),
            *(
                f"{word}, neighbours of step {steps[-1]} that are there at step {step}: {share:.0%}"
                for word, shares in shared.items()
                for step, share in list(zip(steps, shares, strict=True))[:-1]
            ),
        ],
    )


# Neighbours with their texts: (text, cosine), the nearest first.
Named = list[tuple[str, float]]


def _named(run: LoadedRun, near: Sequence[tuple[int, float]]) -> Named:
    texts = token_texts(run.tokenizer, np.array([i for i, _ in near]))
    return list(zip(texts, [cosine for _, cosine in near], strict=True))


def _as_json(near: Named) -> list[dict[str, Any]]:
    return [{"text": text, "cosine": cosine} for text, cosine in near]


def _table(columns: Mapping[str, Named], title: str, caption: str = "") -> Table:
    """A column of neighbours for each name, the nearest first."""
    most = max(map(len, columns.values()))
    rows = [
        [
            str(rank + 1),
            *(f"{near[rank][0]!r} {near[rank][1]:z.3f}" if rank < len(near) else "" for near in columns.values()),
        ]
        for rank in range(min(MAX_ROWS, most))
    ]
    return Table(title=title, head=["rank", *columns], rows=rows, caption=caption)


def _over_steps(texts: Mapping[int, Mapping[str, Named]], shared: Mapping[str, Sequence[float]]) -> list[Part]:
    """How the neighbours of each word change: their share that stays, and the lists."""
    steps = list(texts)
    chart = curves(
        "Neighbours of the last step",
        f"The share of the neighbours at step {steps[-1]:,} that are neighbours at an earlier step.",
        steps,
        shared,
        unit="share",
    )
    tables = [
        _table(
            {f"step {step:,}": found[word] for step, found in texts.items()},
            f"{word!r} over training steps",
            "Shared with the last: " + ", ".join(f"{x:.0%} at {s:,}" for s, x in zip(steps, shared[word], strict=True)),
        )
        for word in shared
    ]
    return [Charts(charts=[chart], title="Over training steps"), *tables]
