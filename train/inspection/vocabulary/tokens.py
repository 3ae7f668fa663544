"""What a tokenizer does to a text: its pieces, bytes a token by script, the letters that a token hides."""

import collections
import dataclasses
import unicodedata
from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.conversion.loading import is_published
from train.conversion.reading import open_published
from train.data.shards.dataset import dataset_of_run, is_dataset
from train.data.tokenizers.interface import Tokenizer, load_tokenizer, make_tokenizer
from train.evaluation.output.pieces import Piece, split_into_pieces
from train.files.paths import AnyPath, user_path
from train.inspection.result import Result, Table, Widget
from train.inspection.text import encode

MAX_CHARACTERS = 20_000  # on a page
WORDS = ("strawberry", "banana", "Mississippi")

# One sentence in several languages, to compare how many bytes a token has.
SAMPLES = {
    "English": "The old cat drinks a little water every morning.",
    "German": "Die alte Katze trinkt jeden Morgen ein wenig Wasser.",
    "French": "La vieille chatte boit un peu d'eau chaque matin.",
    "Russian": "Старая кошка пьёт немного воды каждое утро.",
    "Greek": "Μια γριά γάτα πίνει λίγο νερό κάθε πρωί.",  # noqa: RUF001
    "Arabic": "القطة العجوز تشرب قليلا من الماء كل صباح.",
    "Hindi": "बूढ़ी बिल्ली हर सुबह थोड़ा पानी पीती है।",
    "Chinese": "老猫每天早上喝一点水。",
    "Japanese": "年取った猫は毎朝少し水を飲みます。",
    "Korean": "늙은 고양이는 매일 아침 물을 조금 마신다.",
    "Python": "def drink(cat, water=0.1):\n    return cat.age > 10 and water\n",
}


@dataclasses.dataclass(frozen=True)
class Named:
    """A tokenizer and the folder that it is from."""

    folder: AnyPath
    tokenizer: Tokenizer


def open_tokenizer(path: str | AnyPath) -> Named:
    """The tokenizer of a run folder, a dataset folder or a Hugging Face folder; reads no weights. Raises UserError."""
    folder = user_path(path)
    if is_dataset(folder):
        return Named(folder, load_tokenizer(folder))
    if not is_published(folder):
        return Named(folder, dataset_of_run(folder).tokenizer)
    option = open_published(folder, folder / "data").tokenizer
    if option is None:
        raise UserError(f"{folder} has no tokenizer.json or tokenizer.model; put it there")
    return Named(folder, make_tokenizer(option, ()))


def pieces_of(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[Piece]]:
    """The ids of a text, and its pieces: the fewest tokens that begin and end between characters."""
    ids = encode(tokenizer, text)
    return ids, split_into_pieces([(tokenizer, ids.tolist(), [])])[0]


def script_of(text: str) -> str:
    """The script that most letters of a text have; "digits", "spaces" or "signs" of a text without letters."""
    counts: collections.Counter[str] = collections.Counter()
    for character in text:
        if character.isalpha() or unicodedata.category(character).startswith("M"):
            word = unicodedata.name(character, "OTHER").split()[0].split("-")[0].lower()
            counts[{"cjk": "Han"}.get(word, word.capitalize())] += 1
    if counts:
        return counts.most_common(1)[0][0]
    if text.isspace() or not text:
        return "spaces"
    return "digits" if any(character.isdigit() for character in text) else "signs"


def by_script(pieces: Sequence[Piece]) -> dict[str, tuple[int, int]]:
    """The bytes and the tokens of each script of a text, most bytes first."""
    sums: dict[str, list[int]] = {}
    for piece in pieces:
        entry = sums.setdefault(script_of(piece.text), [0, 0])
        entry[0] += len(piece.text.encode())
        entry[1] += len(piece.tokens[0])
    return {name: (size, count) for name, (size, count) in sorted(sums.items(), key=lambda item: -item[1][0])}


def inspect(run: Named, *, text: str, against: str | None = None, words: Sequence[str] | None = None) -> Result:
    """What one or two tokenizers do to a text.

    Args:
      run: the tokenizer (`open_tokenizer`).
      text: the text.
      against: the folder of another tokenizer: a run, a dataset, or a Hugging Face folder.
      words: the words whose letters are counted.
    """
    if not text:
        raise UserError("--text is empty; give at least a character")
    notes = []
    if len(text) > MAX_CHARACTERS:
        notes.append(f"The text has {len(text):,} characters; these are its first {MAX_CHARACTERS:,}.")
        text = text[:MAX_CHARACTERS]
    both = [run] if against is None else [run, open_tokenizer(against)]
    found = [pieces_of(each.tokenizer, text) for each in both]
    for each, (ids, _) in zip(both, found, strict=True):
        if each.tokenizer.decode(ids) != text:
            notes.append(f"The tokenizer of {each.folder} loses a part of this text: its pieces are not all of it.")
    size = len(text.encode())
    names = [str(each.folder) for each in both]
    return Result(
        title="Tokens",
        about=" \u00b7 ".join(
            f"{name}: {each.tokenizer.vocab_size:,} tokens" for name, each in zip(names, both, strict=True)
        ),
        numbers={
            "bytes": size,
            "characters": len(text),
            "tokenizers": [
                {
                    "folder": name,
                    "tokens": len(ids),
                    "bytes_per_token": size / max(len(ids), 1),
                    "scripts": {script: {"bytes": b, "tokens": n} for script, (b, n) in by_script(pieces).items()},
                }
                for name, (ids, pieces) in zip(names, found, strict=True)
            ],
        },
        arrays={f"ids_{i}": ids for i, (ids, _) in enumerate(found)},
        parts=[
            _pieces(names, found, size),
            _scripts(names, found),
            _samples(both, names),
            _letters(both, names, words),
        ],
        notes=notes,
        lines=[
            f"{name}: {len(ids):,} tokens, {size / max(len(ids), 1):.2f} bytes a token"
            for name, (ids, _) in zip(names, found, strict=True)
        ],
    )


def _pieces(names: list[str], found: list[tuple[np.ndarray, list[Piece]]], size: int) -> Widget:
    readings = []
    for name, (ids, pieces) in zip(names, found, strict=True):
        entries, at = [], 0
        for piece in pieces:
            count = len(piece.tokens[0])
            entries.append([piece.text, ids[at : at + count].tolist(), [token.text for token in piece.tokens[0]]])
            at += count
        words = f"{len(ids):,} tokens, {size / max(len(ids), 1):.2f} bytes a token"
        readings.append({"name": name, "words": words, "pieces": entries})
    return Widget(
        name="tokens",
        title="Pieces",
        data={"readings": readings},
        caption="Each colour is a piece: a token, or several that together hold a character (underlined). Point at one "
        "for its ids.",
    )


def _scripts(names: list[str], found: list[tuple[np.ndarray, list[Piece]]]) -> Table:
    tables = [by_script(pieces) for _, pieces in found]
    scripts = list(dict.fromkeys(script for table in tables for script in table))
    rows = []
    for script in scripts:
        row = [script]
        for table in tables:
            size, count = table.get(script, (0, 0))
            row += [f"{size:,}", f"{count:,}", f"{size / count:.2f}" if count else "\u2013"]
        rows.append(row)
    caption = "A space or a sign that is a part of a token counts to the script of that token."
    return Table(title="Scripts of the text", head=["script", *_heads(names, "bytes")], rows=rows, caption=caption)


def _heads(names: list[str], *more: str) -> list[str]:
    letters = [""] if len(names) == 1 else [f" ({letter})" for letter in "AB"]
    return [f"{word}{letter}" for letter in letters for word in (*more, "tokens", "bytes a token")]


def _samples(both: list[Named], names: list[str]) -> Table:
    rows = []
    for language, sentence in SAMPLES.items():
        row = [language, f"{len(sentence.encode()):,}"]
        for each in both:
            try:
                count = len(each.tokenizer.encode(sentence))
                row += [f"{count:,}", f"{len(sentence.encode()) / count:.2f}"]
            except UserError:  # a tokenizer of the characters of its own text
                row += ["not known", "\u2013"]
        rows.append(row)
    caption = "" if len(names) == 1 else f"A is {names[0]}, B is {names[1]}."
    return Table(
        title="One sentence in several languages",
        head=["language", "bytes", *_heads(names)],
        rows=rows,
        caption=caption,
    )


def _letters(both: list[Named], names: list[str], words: Sequence[str] | None) -> Table:
    head = ["word", "letter", "times"]
    head += [
        f"pieces, and the letter in each{'' if len(names) == 1 else f' ({letter})'}" for letter in "AB"[: len(names)]
    ]
    rows = []
    for word in WORDS if words is None else words:
        if not word.strip():
            raise UserError("--words has an empty word; leave it out")
        letter, times = collections.Counter(word.lower()).most_common(1)[0]
        row = [word, letter, str(times)]
        for each in both:
            try:
                pieces = pieces_of(each.tokenizer, word)[1]
                row.append("  ".join(f"{piece.text}:{piece.text.lower().count(letter)}" for piece in pieces))
            except UserError:
                row.append("not known")
        rows.append(row)
    return Table(
        title="Letters",
        head=head,
        rows=rows,
        caption="A model sees the number of each piece and none of its letters: to count them it has to know the "
        "spelling of every piece.",
    )
