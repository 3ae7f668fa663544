"""A map of the vectors of tokens in two dimensions, at one checkpoint or over several.

The axes are the two first principal components of the tokens shown, at the last of the checkpoints; earlier vectors are
projected on the same axes, so that a token's way is seen.
"""

from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.inspection.page.page import packed
from train.inspection.result import Result, Widget
from train.inspection.text import encode, token_texts
from train.inspection.vocabulary.checkpoints import at_checkpoints
from train.inspection.vocabulary.tokens import script_of
from train.inspection.vocabulary.vectors import vectors_of
from train.run.loading import LoadedRun

MAX_TOKENS = 500


def components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean (D,), the two first principal axes (2, D) and their shares of the variance (2,) of vectors (N, D)."""
    mean = vectors.mean(0)
    _, sizes, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    # The sign of an axis is arbitrary: the largest entry is positive.
    signs = np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(1)])
    return mean, axes[:2] * signs[:, None], shares[:2]


def inspect(
    run: LoadedRun,
    *,
    text: str | None = None,
    table: str = "embedding",
    checkpoints: Sequence[str] | None = None,
) -> Result:
    """A map of tokens.

    Args:
      run: the model.
      text: the tokens of this text are shown, the most frequent first; None for those with the lowest numbers,
        without parts of characters.
      table: embedding or unembedding.
      checkpoints: the steps to show; None for that of the run.
    """
    ids, notes = _ids(run, text)
    chosen = at_checkpoints(run, checkpoints, lambda there: vectors_of(there, table)[ids])
    steps = list(chosen)
    mean, axes, shares = components(chosen[steps[-1]])
    points = np.stack([(vectors - mean) @ axes.T for vectors in chosen.values()])
    texts = token_texts(run.tokenizer, ids)
    kinds = [_kind(each) for each in texts]
    names = sorted(set(kinds))
    return Result(
        title="Map of the vocabulary",
        about=f"{run.folder}, step {', '.join(f'{step:,}' for step in steps)} \u00b7 the {table}, {len(ids)} tokens",
        numbers={"table": table, "steps": steps, "variance": shares, "ids": ids, "tokens": list(texts)},
        arrays={"points": points, "ids": ids, "axes": axes, "mean": mean},
        parts=[
            Widget(
                name="scatter",
                title="Tokens by two principal components",
                data={
                    "labels": texts,
                    "kinds": [names.index(kind) for kind in kinds],
                    "kindNames": names,
                    "steps": [f"step {step:,}" for step in steps],
                    "points": packed(points),
                },
                caption=f"The two axes have {shares[0]:.1%} and {shares[1]:.1%} of the variance of these tokens: "
                "points that are near here may be far apart. Point at one for its token.",
            )
        ],
        notes=notes,
        lines=[f"variance of the two axes: {shares[0]:.1%}, {shares[1]:.1%}"],
    )


def whole_characters(texts: Sequence[str]) -> np.ndarray:
    """The numbers of the texts that are no part of a character.

    A tokenizer's single bytes are mostly such parts. In a text of one language most of them never occur: their vectors
    are those of the start, lie far from all others, and would take the first axis.
    """
    return np.array([number for number, text in enumerate(texts) if "\ufffd" not in text], np.int64)


def _ids(run: LoadedRun, text: str | None) -> tuple[np.ndarray, list[str]]:
    if text is None:
        count, read = run.tokenizer.vocab_size, 0
        whole = np.array([], np.int64)
        while len(whole) < MAX_TOKENS and read < count:
            block = np.arange(read, min(read + MAX_TOKENS, count))
            whole = np.append(whole, block[whole_characters(token_texts(run.tokenizer, block))])
            read += len(block)
        ids = whole[:MAX_TOKENS]
        notes = []
        if len(ids) < count:
            parts = " without parts of characters" if len(whole) < read else ""
            all_of_them = f"{count:,} tokens of the vocabulary"
            notes = [f"{len(ids)} of the {all_of_them}: those with the lowest numbers{parts}; --text chooses others."]
    else:
        found, counts = np.unique(encode(run.tokenizer, text), return_counts=True)
        ids = found[np.argsort(-counts, kind="stable")][:MAX_TOKENS]
        cut = f"The text has {len(found):,} different tokens; these are the {MAX_TOKENS} most frequent."
        notes = [cut] if len(found) > MAX_TOKENS else []
    if len(ids) < 3:
        raise UserError(f"a map needs three different tokens at least, got {len(ids)}; give a longer --text")
    return ids, notes


def _kind(text: str) -> str:
    if text.startswith(" ") and text.strip():
        return f"{script_of(text)}, after a space"
    return script_of(text)
