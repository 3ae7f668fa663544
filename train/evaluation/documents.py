"""Documents to evaluate: files of any kind that training reads, or a split of a dataset, as ids with exact sizes.

A document belongs to a domain: that of its row of a table (`domain_field`), or else the path that it was found by.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.errors import UserError
from train.data.config import Source
from train.data.prepare.progress import TerminalReporter
from train.data.shards.dataset import Dataset
from train.data.text.sources import LabelField, list_units, read_unit
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.prefixes import PrefixSize, prefix_size

DOMAIN_FIELD = "domain"  # of tables, when the user names no other


@dataclasses.dataclass(frozen=True)
class Text:
    """A text before it is tokenized: its name (a path, or a path and a line), its domain, its characters."""

    name: str
    domain: str
    text: str


@dataclasses.dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
      name: a path, or a path and a line.
      ids: its tokens, int32.
      num_bytes: the length of the original text in UTF-8.
      num_words: the number of its words, separated by whitespace.
      restored: whether decoding the ids gives the text back; if not, the ids do not hold all of its bytes.
      first: the bytes, words and characters in its first token, which is not scored if no token comes before it.
      num_characters: the number of code points of the original text.
      domain: the part of a text set that it belongs to.
    """

    name: str
    ids: np.ndarray
    num_bytes: int
    num_words: int
    restored: bool
    first: PrefixSize
    num_characters: int = 0
    domain: str = ""


def from_files(
    tokenizer: Tokenizer, paths: Sequence[str], field: str = "text", domain_field: str | None = None
) -> Iterator[Document]:
    """The documents of files, folders, globs and tables, tokenized one after another; see `read_texts`."""
    return tokenized(tokenizer, read_texts(paths, field, domain_field))


def read_texts(paths: Sequence[str], field: str = "text", domain_field: str | None = None) -> Iterator[Text]:
    """The texts of files, folders, globs and tables (see `train.data.Source`).

    Args:
      paths: the text sets.
      field: the field with the text, in tables.
      domain_field: the field of tables with the domain of each row, which every row must have; None for the field
        "domain" in the rows that have it. Other documents belong to the domain of their path.

    Raises UserError, with file and byte, for a path that is missing, empty or not UTF-8, and for a field that is
    missing; where possible before the first document. Empty files inside a folder are skipped; a message lists other
    files that are left out. A row without text has an empty text if its domain is known.
    """
    say = TerminalReporter().message
    label = LabelField(domain_field or DOMAIN_FIELD, required=domain_field is not None)
    units = [(path, unit) for path in paths for unit in list_units(Source(path=path, field=field), say=say)]
    if domain_field is not None and (plain := next((unit for _, unit in units if unit.format == "text"), None)):
        raise UserError(
            f"{plain.name} is plain text, which has no field {domain_field!r}; give tables, or leave out --domain_field"
        )

    def read() -> Iterator[Text]:
        for path, unit in units:
            for document in read_unit(unit, label):
                yield Text(document.name, path if document.label is None else document.label, document.text)

    return read()


def tokenized(tokenizer: Tokenizer, texts: Iterable[Text]) -> Iterator[Document]:
    """The texts as documents. Raises UserError that names a text which the tokenizer cannot encode."""
    for text in texts:
        try:
            yield from_text(tokenizer, text.name, text.text, text.domain)
        except UserError as error:
            raise UserError(f"{text.name}: {error}") from None


def joined(texts: Iterable[Text], separator: str) -> Iterator[Text]:
    """One text for each domain: its texts in their order, with the separator between them."""
    parts: dict[str, list[str]] = {}
    for text in texts:
        parts.setdefault(text.domain, []).append(text.text)
    for domain, found in parts.items():
        yield Text(domain or "stream", domain, separator.join(found))


def from_text(tokenizer: Tokenizer, name: str, text: str, domain: str = "") -> Document:
    """A text as a document."""
    ids = tokenizer.encode(text)
    sizes = PrefixSize(len(text.encode("utf-8")), len(text.split()), len(text))
    return _document(tokenizer, name, ids, sizes, tokenizer.decode(ids) == text, domain)


def _document(
    tokenizer: Tokenizer, name: str, ids: np.ndarray, sizes: PrefixSize, restored: bool, domain: str
) -> Document:
    if len(ids) < 2:
        first = sizes
    else:
        decoded = prefix_size(tokenizer, ids, 1)  # of the decoded text, which may be longer than the original
        first = PrefixSize(*(min(pair) for pair in zip(decoded, sizes, strict=True)))
    return Document(name, ids, sizes.bytes, sizes.words, restored, first, sizes.characters, domain)


def from_split(dataset: Dataset, split: str) -> Iterator[Document]:
    """The documents of a dataset's split; sizes are those of the original text, recorded when it was tokenized.

    The dataset does not keep the text, so `restored` compares sizes only; it is right if every change of the text by
    the tokenizer changes its size. `Dataset.unrestored` has the exact count, made when the text was tokenized.
    The characters are those of the decoded text. Raises UserError when the dataset has no such split.
    """
    parts = dataset.split(split)

    def read() -> Iterator[Document]:
        for part in parts:
            for number in range(part.num_documents):
                ids = part.tokens(number).astype(np.int32)
                size, words = (int(part.documents[number][name]) for name in ("bytes", "words"))
                decoded = dataset.tokenizer.decode(ids)
                restored = len(decoded.encode("utf-8")) == size
                sizes = PrefixSize(size, words, len(decoded))
                yield _document(dataset.tokenizer, part.document_name(number), ids, sizes, restored, "")

    return read()


def texts_of_split(dataset: Dataset, split: str) -> Iterator[Text]:
    """The texts of a split, decoded from its tokens. Raises UserError where the tokens do not hold all of the text."""
    unrestored = dataset.unrestored(split)
    if unrestored is None or unrestored.documents:
        raise UserError(
            f"the {split} split of {dataset.folder} keeps only tokens, and its tokenizer loses a part of the text; "
            "give the text itself with --text"
        )
    parts = dataset.split(split)
    return (
        Text(part.document_name(number), "", dataset.tokenizer.decode(part.tokens(number)))
        for part in parts
        for number in range(part.num_documents)
    )


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
