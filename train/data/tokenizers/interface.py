"""Text to token ids and back: one small interface, and the tokenizers that need no library (bytes, characters)."""

from __future__ import annotations

import abc
import functools
import hashlib
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.errors import UserError
from model.options.json import option_from_json, to_json
from train.data import config
from train.data.tokenizers.streaming import AtEndDecoder, BytesDecoder, IncrementalDecoder, PerTokenDecoder
from train.files.files import read_json, write_json
from train.files.paths import AnyPath, is_remote, user_path
from train.files.remote import local_copy

TOKENIZER_OPTION_FILE = "tokenizer_option.json"


class Tokenizer(abc.ABC):
    """Encodes text as ids in [0, vocab_size), and decodes ids.

    `end_of_document` is the id that ends a document, or None. Encoding never yields this id and decoding leaves it out.
    """

    option: config.Tokenizer
    vocab_size: int
    end_of_document: int | None
    # A few words on each setting of the file that changes the ids of a text and is switched off here.
    disabled_settings: tuple[str, ...] = ()
    _begin: int | None = None

    @property
    def begin_of_document(self) -> int | None:
        """The id that begins documents and prompts; the id that ends documents, where there is no other."""
        return self.end_of_document if self._begin is None else self._begin

    @property
    def own_begin_of_document(self) -> int | None:
        """The id that begins documents alone, which a published tokenizer puts before each text; None without one."""
        return self._begin

    def warning(self) -> str | None:
        """A warning when the tokenizer's file has settings that are switched off here; else None."""
        if not self.disabled_settings:
            return None
        return (
            f"the tokenizer's file asks for {' and '.join(self.disabled_settings)}: off here, so that a text always"
            " gives the same tokens, all of them (in training, evaluation and generation; the file is not changed)"
        )

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""

    def marks(self) -> dict[str, int]:
        """The ids of the tokens that are marks and no text, such as `<|im_end|>`, by name."""
        return {}

    def encode_marked(self, text: str) -> np.ndarray:
        """The ids of a text in which the names of marks are these marks, int32 [tokens]; no other mark is added."""
        marks = self.marks()
        ids = [[marks[part]] if part in marks else self.encode(part) for part in self.split_at_marks(text)]
        return np.concatenate([np.zeros(0, np.int32), *ids]).astype(np.int32)

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text, and for each the number of characters of the text up to its end, int32 [tokens].

        The tokens of one character, such as its bytes, have one end. Raises UserError for a text that decoding does not
        give back: its tokens stand for other characters.
        """
        ids, decoder = self.encode(text), self.incremental_decoder()
        parts = [] if isinstance(decoder, AtEndDecoder) else [decoder.push(int(token)) for token in ids]
        if "".join(parts) + decoder.flush() != text or len(parts) < len(ids):
            raise UserError(
                "this tokenizer changes the text, so that it is not known which characters its tokens stand for"
            )
        ends = np.cumsum([0, *map(len, parts)])[1:].astype(np.int32)
        for i in range(len(parts) - 2, -1, -1):  # the first bytes of a character wait for its last
            if not parts[i]:
                ends[i] = ends[i + 1]
        return ids, ends

    def encode_marked_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `encode_marked`, and their ends as `encode_with_ends` gives them."""
        marks, ids, ends, at = self.marks(), [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
        for part in self.split_at_marks(text):
            whole = np.array([len(part)], np.int32)
            found = ([marks[part]], whole) if part in marks else self.encode_with_ends(part)
            ids.append(np.asarray(found[0], np.int32))
            ends.append(found[1] + at)
            at += len(part)
        return np.concatenate(ids), np.concatenate(ends).astype(np.int32)

    def split_at_marks(self, text: str) -> list[str]:
        """The names of marks in a text, and the texts between them; where two names begin, the longer counts."""
        marks, (first_letter, lengths) = self.marks(), self._form_of_marks
        parts, begin = [], 0
        for found in first_letter.finditer(text):  # names may be thousands: one pattern of them all would take seconds
            if (at := found.start()) >= begin:
                name = next((name for length in lengths if (name := text[at : at + length]) in marks), "")
                if name:
                    parts += [text[begin:at], name]
                    begin = at + len(name)
        return [part for part in (*parts, text[begin:]) if part]

    @functools.cached_property
    def _form_of_marks(self) -> tuple[re.Pattern[str], list[int]]:
        """The first letters of the names of marks, and the lengths of the names, the longest first."""
        names = [name for name in self.marks() if name]
        letters = "|".join(sorted({re.escape(name[0]) for name in names}))
        return re.compile(letters or "(?!)"), sorted(set(map(len, names)), reverse=True)  # (?!) is nowhere

    def piece_bytes(self, token: int) -> bytes | None:
        """The bytes that an id writes inside a text, if its piece alone says so; None where decoding has to tell."""
        return None

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. Raises ValueError for an id out of range."""

    def is_lossless(self) -> bool:
        """Whether decoding gives back every text that can be encoded, by construction."""
        return False

    @abc.abstractmethod
    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one, in range and without the end of document."""

    @abc.abstractmethod
    def save(self, folder: pathlib.Path) -> str | None:
        """Writes the file that `load` needs into a folder and returns its name, None where no file is needed."""

    @classmethod
    @abc.abstractmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> Tokenizer:
        """The tokenizer of an option and the file that `save` wrote. Raises UserError when the file is damaged."""

    def fingerprint(self) -> str:
        """A short hash that is the same for tokenizers that encode alike, whether trained or loaded."""
        with tempfile.TemporaryDirectory() as folder:
            name = self.save(pathlib.Path(folder))
            content = pathlib.Path(folder, name).read_bytes() if name else b""
        kind = f"{type(self).__name__} {self.vocab_size} {self.end_of_document} "
        return hashlib.sha256(kind.encode() + content).hexdigest()[:16]

    def checked_ids(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        """The ids as a list without the end of document; raises ValueError for an id that is out of range."""
        given = np.asarray(ids, np.int64).reshape(-1)
        if given.size and not 0 <= given.min() <= given.max() < self.vocab_size:
            raise ValueError(f"token ids run from {given.min()} to {given.max()}; expected 0 to {self.vocab_size - 1}")
        known: list[int] = (given if self.end_of_document is None else given[given != self.end_of_document]).tolist()
        return known


class BytesTokenizer(Tokenizer):
    """Id b is byte b of the text's UTF-8."""

    def __init__(self, option: config.Bytes) -> None:
        self.option = option
        self.vocab_size = 257 if option.end_of_document else 256
        self.end_of_document = 256 if option.end_of_document else None

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer`."""
        sizes = [len(character.encode("utf-8")) for character in text]
        return self.encode(text), np.repeat(np.arange(1, len(text) + 1, dtype=np.int32), sizes)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        return bytes(self.checked_ids(ids)).decode("utf-8", errors="replace")

    def piece_bytes(self, token: int) -> bytes | None:
        """See `Tokenizer`."""
        return bytes([token]) if token < 256 else b""

    def is_lossless(self) -> bool:
        """Always."""
        return True

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one."""
        return BytesDecoder()

    def save(self, folder: pathlib.Path) -> None:
        """Writes nothing: the option is enough."""
        return None

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> BytesTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when the file is damaged."""
        assert isinstance(option, config.Bytes)
        return cls(option)


class CharactersTokenizer(Tokenizer):
    """Id i is the i-th of the training text's characters in the order of their code points."""

    FILE = "characters.json"

    def __init__(self, option: config.Characters, characters: Iterable[str]) -> None:
        self.option = option
        self.characters = sorted(set(characters))
        self.vocab_size = len(self.characters) + option.end_of_document
        self.end_of_document = len(self.characters) if option.end_of_document else None
        # A table from code point to id makes encoding one numpy look-up; -1 marks an unknown character.
        self._codes = np.array([ord(c) for c in self.characters], np.uint32)
        self._ids = np.full(max(map(ord, self.characters), default=0) + 2, -1, np.int32)
        self._ids[self._codes] = np.arange(len(self.characters), dtype=np.int32)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise UserError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}, character {at} of the text) is not among the"
                f" {len(self.characters)} characters of this tokenizer; use Bytes() or SentencePiece(), which"
                " know every character, or take the character out of the text"
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        return "".join([self.characters[i] for i in self.checked_ids(ids)])

    def is_lossless(self) -> bool:
        """Always."""
        return True

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one."""
        return PerTokenDecoder(lambda token: self.decode([token]))

    def save(self, folder: pathlib.Path) -> str:
        """Writes the file that `load` reads and returns its name."""
        write_json(folder / self.FILE, {"characters": "".join(self.characters)})
        return self.FILE

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> CharactersTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when the file is damaged."""
        assert isinstance(option, config.Characters)
        assert path is not None
        characters = read_json(path).get("characters")
        if not isinstance(characters, str) or not characters:
            raise UserError(f"{path}: expected an object with the field 'characters', a string; prepare the data again")
        return cls(option, characters)


def tokenizer_class(option: config.Tokenizer) -> type[Tokenizer]:
    """The class that implements a tokenizer option; imports a library only when its class is asked for."""
    if isinstance(option, (config.SentencePiece, config.SentencePieceFile)):
        from train.data.tokenizers.sentencepieces import SentencePieceTokenizer

        return SentencePieceTokenizer
    if isinstance(option, config.HuggingFace):
        from train.data.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer
    if isinstance(option, config.Numbers):
        from train.data.tokenizers.numbers import NumbersTokenizer

        return NumbersTokenizer
    return BytesTokenizer if isinstance(option, config.Bytes) else CharactersTokenizer


def make_tokenizer(option: config.Tokenizer | config.TokenizerOf, texts: Iterable[str]) -> Tokenizer:
    """Trains the tokenizer of an option on texts, or opens the tokenizer that the option names and reads no text."""
    if isinstance(option, config.TokenizerOf):
        return load_tokenizer(user_path(option.path))
    if isinstance(option, config.SentencePiece):
        from train.data.tokenizers.sentencepieces import train_sentencepiece

        return train_sentencepiece(option, texts)
    if isinstance(option, config.Characters):
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return CharactersTokenizer(option, found)
    if isinstance(option, (config.SentencePieceFile, config.HuggingFace)):
        path = local_copy(user_path(option.path))
        if not path.is_file():
            raise UserError(f"no tokenizer file at {option.path!r}; expected the path of one")
        return tokenizer_class(option).load(option, path)
    return tokenizer_class(option).load(option, None)


def save_tokenizer(tokenizer: Tokenizer, folder: pathlib.Path | str) -> None:
    """Writes a tokenizer into a folder, from which `load_tokenizer` reads it without any other file."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {"tokenizer": to_json(tokenizer.option), "tokenizer_file": tokenizer.save(folder)}
    write_json(folder / TOKENIZER_OPTION_FILE, description)


def load_tokenizer(folder: AnyPath | str) -> Tokenizer:
    """The tokenizer that `save_tokenizer` wrote into a folder (every dataset folder has one). Raises UserError."""
    if is_remote(folder):
        return load_tokenizer(local_copy(user_path(folder), lambda name: "/" not in name and "tokenizer" in name))
    folder = pathlib.Path(folder)
    if not (folder / TOKENIZER_OPTION_FILE).is_file():
        raise UserError(
            f"{folder} holds no tokenizer: expected {TOKENIZER_OPTION_FILE} in it, as every dataset folder has"
        )
    form = {"tokenizer": dict, "tokenizer_file?": (str, type(None))}
    description = read_json(folder / TOKENIZER_OPTION_FILE, "prepare the data again", form)
    try:
        option: config.Tokenizer = option_from_json(config.Tokenizer, description["tokenizer"], "tokenizer")
    except UserError as error:
        raise UserError(f"{folder / TOKENIZER_OPTION_FILE}: {error}; prepare the data again") from None
    name = description.get("tokenizer_file")
    path = folder / name if name else None
    if path is not None and not path.is_file():
        raise UserError(f"{path} is missing: {TOKENIZER_OPTION_FILE} beside it names it; prepare the data again")
    return tokenizer_class(option).load(option, path)


def split_after_newline(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters that join to the text, cut after a newline where a part has one."""
    start = 0
    while start < len(text):
        stop = start + size
        if stop < len(text):
            newline = text.rfind("\n", start, stop)
            stop = newline + 1 if newline >= 0 else stop
        yield text[start:stop]
        start = stop


class StreamDecoder:
    """Decodes ids as they arrive: the results of `push` and `flush`, joined, are the decoded text of all ids.

    Text is returned as soon as no later id can change it; the time per id does not grow with the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.incremental_decoder()

    def push(self, ids: Sequence[int] | np.ndarray) -> str:
        """Takes new ids and returns the text that they complete. Raises ValueError for an id that is out of range."""
        return "".join([self._decoder.push(token) for token in self._tokenizer.checked_ids(ids)])

    def end_known_text(self) -> str:
        """Ends known text, such as a prompt: returns the rest of it, except an unfinished character.

        Later calls return the text that follows it.
        """
        return self._decoder.end_known_text()

    def flush(self) -> str:
        """Returns the text held back, at the end of all ids; an unfinished character becomes U+FFFD."""
        return self._decoder.flush()


def ids_with_end(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a whole text, such as a source, and the mark of its end if the tokenizer has one."""
    end = [] if tokenizer.end_of_document is None else [tokenizer.end_of_document]
    return [*tokenizer.encode(text).tolist(), *end]
