"""Words of error messages about options: annotations, values of any length, the nearest known name, paths."""

import dataclasses
import difflib
import string
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from model.options.annotations import alternatives


def describe(annotation: Any) -> str:
    """Describes an annotation in the words of an error message."""
    words = []
    for a in alternatives(annotation):
        if a is type(None):
            words.append("None")
        elif typing.get_origin(a) is Literal:
            words += [repr(value) for value in typing.get_args(a)]
        elif typing.get_origin(a) is tuple:
            words.append(f"a tuple of {describe(typing.get_args(a)[0])}")
        elif dataclasses.is_dataclass(a):
            words.append(f"{a.__name__}(...)")  # type: ignore[union-attr]
        else:
            words.append(a.__name__)
    return " or ".join(words)


def nearest(name: str, known: Any) -> str:
    """Returns a hint that names the known word nearest to a misspelt word, or lists all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """Returns the known word of which `name` is a misspelling; None where it may be a word of its own.

    A misspelling has the same letters and digits but for their case, or lacks, doubles or swaps a letter within the
    word: a near name is often that of another model (mllama and llama, phi4 and phi3).
    """
    plain = {"".join(filter(str.isalnum, word.lower())): word for word in known}
    letters = "".join(filter(str.isalnum, name.lower()))
    return next((plain[one] for one in (letters, *_one_slip_away(letters)) if one in plain), None)


def _one_slip_away(word: str) -> Iterator[str]:
    """Yields the words from which one slip within the word makes this one."""
    for i in range(1, len(word)):
        before, after = word[:i], word[i:]
        if before[-1] == after[0] and after[0].isalpha():
            yield before + after[1:]  # a letter twice
        if len(after) > 1 and after[:2].isalpha():
            yield before + after[1] + after[0] + after[2:]
        for letter in string.ascii_lowercase if after[0].isalpha() else "":
            yield before + letter + after


def format_value(value: Any) -> str:
    """Formats any value for an error message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return cut(text)


def cut(text: str) -> str:
    """Shortens the text of a value for an error message."""
    return text if len(text) <= 200 else f"{text[:160]}... ({len(text):,} characters)"


def join_path(path: str, name: str) -> str:
    """The path of a field below a path, which is empty at the root."""
    return f"{path}.{name}" if path else name
