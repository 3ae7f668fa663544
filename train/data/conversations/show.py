"""The tokens of a batch of conversations, for a person: the role of each, and whether it counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from train.data.conversations.batches import ConversationBatches
from train.data.conversations.template import ROLES
from train.data.conversations.tokens import COUNTS
from train.data.tokenizers.interface import Tokenizer
from train.terminal.formatting import escape_unprintable

# ANSI: the colours of roles, and bold for a token that counts.
COLOURS = {"template": "90", "system": "35", "user": "36", "assistant": "32", "tool": "33"}


def shown_step(batches: ConversationBatches, step: int, rows: Sequence[int] | None, colour: bool | None = None) -> str:
    """The conversations in the batch of the update to step `step`.

    In colour, as on a terminal, a conversation is its text with coloured tokens, those that count bold; otherwise every
    token has a line: its column in the row, its id, its role, `*` if it counts, its text.
    """
    colour = sys.stdout.isatty() if colour is None else colour
    tokenizer, n = batches.dataset.tokenizer, step - 1
    wanted = range(batches.data.batch_size_at(n)) if rows is None else rows
    made = batches.rows(n, wanted)
    tokens, targets = made["tokens"], made["targets"]
    lines = [f"step {step}: batch {n}; a token that counts is {'bold' if colour else 'marked *'}"]
    names = {mark: name for name, mark in tokenizer.marks().items()}
    for k, row in enumerate(wanted):
        column = 0
        for span, notes in batches.spans(n, row):
            size = span.stop - span.start
            # The first token is no target, so that nothing is known of it but that it does not count.
            ids = [int(tokens[k, column]), *targets[k, column : column + size].tolist()]
            full = np.append(np.uint8(0), notes)
            counted = int((notes >= COUNTS).sum())
            name = escape_unprintable(batches.document_name(span.document))
            lines.append(f"row {row}, columns {column}:{column + size}, {name}: {counted} of {size} targets count")
            texts = token_texts(tokenizer, ids, names)
            lines += _coloured(texts, full) if colour else _listed(ids, texts, full, column)
            column += size
    return "\n".join(lines)


def token_texts(tokenizer: Tokenizer, ids: Sequence[int], names: dict[int, str]) -> list[str]:
    """The text of each id: the name of a mark, or the characters that it completes."""
    found = []
    for token in ids:
        if token == tokenizer.end_of_document and token not in names:
            found.append("<end of document>")
        else:
            found.append(names.get(token) or tokenizer.decode([token]))
    return found


def _listed(ids: Sequence[int], texts: Sequence[str], notes: np.ndarray, column: int) -> list[str]:
    width = max(len(str(token)) for token in ids)
    return [
        f"{column + i:>6} {token:>{width}}  {ROLES[note & ~COUNTS]:<9} {'*' if note >= COUNTS else ' '} {text!r}"
        for i, (token, text, note) in enumerate(zip(ids, texts, notes.tolist(), strict=True))
    ]


def _coloured(texts: Sequence[str], notes: np.ndarray) -> list[str]:
    parts = []
    for text, note in zip(texts, notes.tolist(), strict=True):
        style = COLOURS[ROLES[note & ~COUNTS]] + (";1" if note >= COUNTS else "")
        shown = "\n".join(escape_unprintable(line) for line in text.split("\n"))
        parts.append(f"\x1b[{style}m{shown}\x1b[0m")
    return ["".join(parts)]
