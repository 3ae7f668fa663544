"""A text as the tokens that an instrument looks at, with the text of each token."""

import dataclasses

import numpy as np

from model.errors import UserError
from train.data.tokenizers.interface import Tokenizer
from train.run.loading import LoadedRun
from train.serving.token_texts import TokenTexts


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Attributes:
      ids: int32 (T,). The mark that begins documents comes first if the tokenizer has one, as in training; in a model
        with an encoder its start token.
      texts: the text of each token; a mark has its name, a part of a character U+FFFD.
      begins: how many of the tokens are marks before the text.
      notes: sentences on tokens that were left out.
    """

    ids: np.ndarray
    texts: tuple[str, ...]
    begins: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """T."""
        return len(self.ids)

    @property
    def extent(self) -> str:
        """How many tokens there are, for messages about a token that is not."""
        count = f"{len(self):,} tokens"
        return f"only the first {count} of the text are read" if self.notes else f"the text has {count}"


def read(run: LoadedRun, text: str, *, least: int = 1, most: int | None = None, flag: str = "text") -> Tokens:
    """The tokens of a text for a model.

    Args:
      run: the model and its tokenizer.
      text: the text.
      least: the fewest tokens that the instrument can work with, the mark counted.
      most: the most tokens that it looks at; None for as many as the model's context holds. Of a longer text the first
        tokens are taken, and a note says so.
      flag: the flag that gave the text, for errors.

    Raises:
      UserError: for a text with too few tokens, and for one that the tokenizer cannot encode.
    """
    tokenizer = run.tokenizer
    encoder = run.experiment.model.encoder
    begins = [] if tokenizer.begin_of_document is None else [tokenizer.begin_of_document]
    begins = begins if encoder is None else [encoder.start_token]
    own = encode(tokenizer, text, flag)
    ids = np.concatenate([np.array(begins, np.int32), own])
    if len(own) == 0 or len(ids) < least:
        needs = f"{least} tokens at least" if least > 1 else "a token at least"
        raise UserError(f"--{flag}: the text has {len(own)} tokens, and this needs {needs}; give a longer text")
    limit = min(run.experiment.model.context_length, most or run.experiment.model.context_length)
    notes: tuple[str, ...] = ()
    if len(ids) > limit:
        reason = "the page shows no more" if most == limit else "the model's context holds no more"
        notes = (f"The text has {len(ids):,} tokens; these are its first {limit:,}: {reason}.",)
        ids = ids[:limit]
    texts = token_texts(tokenizer, ids)
    texts = texts if encoder is None else ("<start>", *texts[1:])
    return Tokens(ids.astype(np.int32), texts, len(begins), notes)


def encode(tokenizer: Tokenizer, text: str, flag: str = "text") -> np.ndarray:
    """The ids of a text. Raises UserError, which names the flag, for one that cannot be encoded."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"--{flag} holds half of a surrogate pair, which is no character; write it anew") from None
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"--{flag}: {error}") from None


def token_texts(tokenizer: Tokenizer, ids: np.ndarray) -> tuple[str, ...]:
    """The text of each id; the name of a mark where it is one."""
    texts = TokenTexts(tokenizer)
    names = {number: name for name, number in tokenizer.marks().items()}
    for number, name in ((tokenizer.end_of_document, "<end>"), (tokenizer.begin_of_document, "<begin>")):
        if number is not None:
            names.setdefault(number, name)
    return tuple(names.get(int(i)) or texts.text(int(i)) for i in ids)
