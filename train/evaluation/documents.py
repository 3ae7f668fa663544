"""Documents to evaluate: files of any kind that training reads, or a split of a dataset, as ids with exact sizes."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from train.data.config import Source
from train.data.prepare.progress import TerminalReporter
from train.data.shards.dataset import Dataset
from train.data.text.sources import list_units, read_unit
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.prefixes import PrefixSize, prefix_size


@dataclasses.dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
      name: a path, or a path and a line.
      ids: its tokens, int32.
      num_bytes: the length of the original text in UTF-8.
      num_words: the number of its words, separated by whitespace.
      restored: whether decoding the ids gives the text back; if not, the ids do not hold all of its bytes.
      first: the bytes and words in its first token, which is not scored if no token comes before it.
    """

    name: str
    ids: np.ndarray
    num_bytes: int
    num_words: int
    restored: bool
    first: PrefixSize


def from_files(tokenizer: Tokenizer, paths: Sequence[str], field: str = "text") -> Iterator[Document]:
    """The documents of files, folders, globs and tables (see `train.data.Source`), tokenized one after another.

    Raises UserError, with file and byte, for a path that is missing, empty or not UTF-8; where possible before the
    first document. Empty files inside a folder are skipped; a message lists other files that are left out.
    """
    say = TerminalReporter().message
    units = [unit for path in paths for unit in list_units(Source(path=path, field=field), say=say)]

    def read() -> Iterator[Document]:
        for unit in units:
            for document in read_unit(unit):
                if document.text:
                    yield from_text(tokenizer, document.name, document.text)

    return read()


def from_text(tokenizer: Tokenizer, name: str, text: str) -> Document:
    """A text as a document."""
    ids = tokenizer.encode(text)
    return _document(tokenizer, name, ids, len(text.encode("utf-8")), len(text.split()), tokenizer.decode(ids) == text)


def _document(
    tokenizer: Tokenizer, name: str, ids: np.ndarray, num_bytes: int, num_words: int, restored: bool
) -> Document:
    if len(ids) < 2:
        first = PrefixSize(num_bytes, num_words)
    else:
        decoded_size = prefix_size(tokenizer, ids, 1)  # of the decoded text, which may be longer than the original
        first = PrefixSize(min(decoded_size.bytes, num_bytes), min(decoded_size.words, num_words))
    return Document(name, ids, num_bytes, num_words, restored, first)


def from_split(dataset: Dataset, split: str) -> Iterator[Document]:
    """The documents of a dataset's split; sizes are those of the original text, recorded when it was tokenized.

    The dataset does not keep the text, so `restored` compares sizes only; it is right if every change of the text by
    the tokenizer changes its size. `Dataset.unrestored` has the exact count, made when the text was tokenized.
    Raises UserError when the dataset has no such split.
    """
    parts = dataset.split(split)

    def read() -> Iterator[Document]:
        for part in parts:
            for number in range(part.num_documents):
                ids = part.tokens(number).astype(np.int32)
                size, words = (int(part.documents[number][name]) for name in ("bytes", "words"))
                restored = len(dataset.tokenizer.decode(ids).encode("utf-8")) == size
                yield _document(dataset.tokenizer, part.document_name(number), ids, size, words, restored)

    return read()


def split_text(dataset: Dataset, split: str) -> bytes:
    """The text of a split, decoded from its tokens, its documents joined end to end. Raises UserError as above.

    These are the original bytes if the tokenizer loses none; the tokenizers that are trained here lose none.
    """
    parts = dataset.split(split)
    return b"".join(
        dataset.tokenizer.decode(part.tokens(number)).encode("utf-8")
        for part in parts
        for number in range(part.num_documents)
    )
