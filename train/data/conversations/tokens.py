"""The tokens of a conversation, and a byte of notes on each: whose it is, and whether it counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.errors import UserError
from train.data.conversations.encoding import covered, encode_with_ends
from train.data.conversations.masks import Mask, render
from train.data.conversations.rows import Conversation
from train.data.conversations.template import ChatTemplate
from train.data.tokenizers.interface import Tokenizer

COUNTS = 0x80  # the bit of a token that counts, beside the number of its role (template.ROLES)


class Tokenized(NamedTuple):
    """The ids of a conversation, int32 [tokens], the notes on them, uint8 [tokens], and its text."""

    ids: np.ndarray
    notes: np.ndarray
    text: str


def tokenize(
    conversation: Conversation, template: ChatTemplate, tokenizer: Tokenizer, marks: list[str], mask: Mask
) -> Tokenized:
    """The tokens of a conversation; a token counts if it holds a character that counts.

    The arguments are those of `masks.render`, and the tokenizer. Raises UserError as it does, and with the place of the
    row where no token could be learned, or where nobody spoke before the answer.
    """
    rendered = render(conversation, template, marks, mask)
    try:
        encoded = encode_with_ends(tokenizer, rendered.text)
    except UserError as error:
        raise UserError(f"{conversation.where}: {error}") from None
    starts, stops = covered(encoded)
    before = np.append(0, np.cumsum(rendered.counted))
    counts = before[stops] > before[starts]
    roles = rendered.roles[stops - 1] if len(stops) else np.zeros(0, np.uint8)
    if not counts[1:].any():
        raise UserError(f"{conversation.where}: has no token to learn: nothing follows its first token")
    if mask != "all" and counts[1:].all():
        raise UserError(
            f"{conversation.where}: every token counts as the assistant's; is there no message before the answer? Add "
            'one, or ask for all tokens with data.mask="all"'
        )
    return Tokenized(encoded.ids, np.where(counts, roles | COUNTS, roles).astype(np.uint8), rendered.text)
