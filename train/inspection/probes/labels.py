"""Labels of tokens, and control tasks.

Hewitt, Liang 2019, "Designing and Interpreting Probes with Control Tasks": a control task gives each type of token a
label at random, with the frequencies of the task's labels. A probe can only learn it by heart. Its accuracy taken from
that of the task is the selectivity: the share that the activation tells.
"""

from typing import NamedTuple

import numpy as np

from model.errors import UserError
from model.options.words import nearest

POSITION_BUCKETS = 8


class Labels(NamedTuple):
    """The names of labels, and the label of every token (B, T); -1 where a token has none."""

    names: tuple[str, ...]
    labels_BT: np.ndarray


_KINDS = ("letter", "capital", "digit", "space", "line break", "other")
TASKS = {
    "previous": "the kind of the token before: letter, capital, digit, space, line break, other",
    "next": "the kind of the token after",
    "kind": "the kind of the token itself",
    "position": f"the place in the document, in {POSITION_BUCKETS} buckets of equal length",
}


def kind_of(text: str) -> int:
    """The kind of a token's text, by its first character that is no space, or by its first one."""
    first = (text.strip(" ") or text)[:1]
    if first in ("\n", "\r"):
        return 4
    if first.isspace():
        return 3
    if first.isdigit():
        return 2
    if first.isalpha():
        return 1 if first.isupper() else 0
    return 5


def labels_of(task: str, batch: dict[str, np.ndarray], kinds_V: np.ndarray) -> Labels:
    """The labels of a batch: tokens, positions and segment_ids, each (B, T).

    Args:
      task: one of `TASKS`.
      batch: the batch.
      kinds_V: the kind of each id.

    Raises UserError for an unknown task.
    """
    if task not in TASKS:
        raise UserError(f"--task: no task is called {task[:80]!r}; {nearest(task, TASKS)}")
    segments, tokens = batch["segment_ids"], batch["tokens"]
    real = segments > 0
    if task == "position":
        length = segments.shape[1]
        buckets = np.minimum(batch["positions"] * POSITION_BUCKETS // length, POSITION_BUCKETS - 1)
        names = tuple(f"{i * length // POSITION_BUCKETS}+" for i in range(POSITION_BUCKETS))
        return Labels(names, np.where(real, buckets, -1))
    kinds = kinds_V[tokens]
    if task == "kind":
        return Labels(_KINDS, np.where(real, kinds, -1))
    shift = 1 if task == "previous" else -1
    same = np.roll(segments, shift, axis=1) == segments
    same[:, 0 if shift == 1 else -1] = False
    return Labels(_KINDS, np.where(real & same, np.roll(kinds, shift, axis=1), -1))


def control_labels(labels: np.ndarray, tokens: np.ndarray, vocab_size: int, seed: int) -> np.ndarray:
    """A random label for each id (V,), drawn with the frequencies of the labels of tokens that have one."""
    counted = labels[labels >= 0]
    shares = np.bincount(counted, minlength=int(counted.max(initial=0)) + 1) / max(len(counted), 1)
    return np.random.default_rng(seed).choice(len(shares), size=vocab_size, p=shares)
