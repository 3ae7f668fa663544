r"""Safe cuts of a text for a tokenizer.json: the ids of the parts, joined, are the ids of the whole text.

The library takes added tokens out of a text, normalises the text between them, splits it into words and looks each word
up in a model. A cut is before a space that follows a letter, a digit or a punctuation sign: it cuts "one two" into
"one" and " two". It is safe where no added token and no replacement can cross it, and where it is the border of two
words (or, without words, where no token of the model can cross it). This is known for the normalizers, word splitters
and models named here, with the options named here; for all others a text must be encoded whole.

An example of an unsafe cut is the cut after a newline, with GPT-2's words. The words of "\n\nb" are "\n", "\n" and "b",
because whitespace leaves its last character to a word that follows; "\n\n" is one word.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]

# The space itself, SentencePiece's character for it, and GPT-2's character for its byte.
SPACES = " \u2581\u0120"
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_SPACES_FIRST = re.compile(f"[{SPACES}]*[^{SPACES}]*")
_KEEP_SPACES = re.compile(f"[{SPACES}]+|[^{SPACES}]+")
# These change a character, or a character with the marks that combine with it, whatever its neighbours are.
_LOCAL_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "StripAccents",
}
_WORDS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_SPLITS = {"CharDelimiterSplit", "Digits", "Punctuation"}
# The word patterns of GPT-2, GPT-4, Llama 3 and Qwen: alternatives that match a space only at their beginning.
_WORD_PATTERNS = (
    {r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?+\p{L}+"},
    {r" ?\p{N}+", r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", r"\p{N}{1,3}+"},
    {r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]++[\r\n]*"},
    {r"\s+"},
)
_OTHER_PATTERNS = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
}


@dataclasses.dataclass(frozen=True)
class SafeCuts:
    """The positions where texts may be cut, and the tokenizer for the parts after the first.

    Attributes:
      later_tokenizer: the tokenizer.json for these parts; None where it is the same.
      cut_after: the characters after which a text may be cut; None for every letter, digit and ASCII sign.
    """

    later_tokenizer: Json | None = dataclasses.field(repr=False)
    cut_after: frozenset[str] | None

    def is_safe(self, before: str, after: str) -> bool:
        """Whether a text may be cut between two characters."""
        if after != " ":
            return False
        if self.cut_after is not None:
            return before in self.cut_after
        if before.isascii():
            return before.isprintable() and before != " "
        # Signs and marks may be normalised to nothing, some letters to a space with a mark, and U+0D4E joins the space.
        plain = before <= "\uffff" and unicodedata.category(before)[0] in "LN" and before not in SPACES + "\u0d4e"
        return plain and " " not in unicodedata.normalize("NFKD", before)


def safe_cuts(tokenizer_json: Json) -> SafeCuts | None:
    """The safe cuts for a tokenizer.json; None where no position is known to be safe."""
    normalizers, splits = (list(flatten_sequence(tokenizer_json.get(part))) for part in ("normalizer", "pre_tokenizer"))
    has_prefix = any(n["type"] == "Prepend" for n in normalizers)
    if not _added_tokens_allow_cuts(tokenizer_json, has_prefix):
        return None
    if not (all(map(_is_local, normalizers)) and all(map(_splits_locally, splits))):
        return None
    replacements = [n for n in normalizers if n["type"] == "Replace"]
    keeps_spaces = all(n["content"].strip(SPACES) or n["content"] == " " for n in replacements)
    if not keeps_spaces and any(_needs_plain_spaces(split) for split in splits):
        return None
    # BERT's normalizer adds spaces around a Chinese character, which join a space that follows.
    cut_after = LETTERS if any(n["type"] == "BertNormalizer" for n in normalizers) else None
    if not any(map(_splits_at_spaces, splits)):
        cut_after = LETTERS & _vocabulary_without_crossing_tokens(tokenizer_json["model"])
        if not cut_after or any(n["pattern"].get("String") != " " for n in replacements):
            return None
    later_tokenizer = None
    if has_prefix:
        later_tokenizer = copy.deepcopy(tokenizer_json)
        kept = [n for n in normalizers if n["type"] != "Prepend"]
        later_tokenizer["normalizer"] = {"type": "Sequence", "normalizers": kept}
    return SafeCuts(later_tokenizer, cut_after)


def flatten_sequence(part: Any) -> Iterator[Json]:
    """Yields a normalizer or a word splitter itself, or the parts of a sequence of them in order."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
    for inside in part.get("normalizers", part.get("pretokenizers", [])):
        yield from flatten_sequence(inside)


def _added_tokens_allow_cuts(tokenizer_json: Json, has_prefix: bool) -> bool:
    """Whether the text on one side of a cut never decides if an added token is found on the other side."""
    tokens = tokenizer_json.get("added_tokens", [])
    found = [token for token in tokens if not token["special"]]  # the others are text here
    if not found:
        return True
    is_local = not any(token["rstrip"] or token["single_word"] for token in found)
    # A prefix is put before every text between added tokens, except the first text of a later part.
    return is_local and not has_prefix and _begin_with_spaces(token["content"] for token in tokens)


def _begin_with_spaces(texts: Iterable[str]) -> bool:
    """Whether no text has a space after another character."""
    return all(map(_SPACES_FIRST.fullmatch, texts))


def _is_local(normalizer: Json) -> bool:
    """Whether a normalizer treats the two sides of a cut independently."""
    kind, pattern = normalizer["type"], normalizer.get("pattern", {})
    if kind == "Replace":
        text = " " if pattern.get("Regex") == " {2,}" else pattern.get("String", "")
        pair = _KEEP_SPACES.fullmatch(text) and _KEEP_SPACES.fullmatch(normalizer["content"])
        return bool(pair) and (text[0] in SPACES) == (normalizer["content"][0] in SPACES)
    return kind in _LOCAL_NORMALIZERS or kind == "Prepend"


def _splits_locally(split: Json) -> bool:
    """Whether the words on one side of a cut are the same without the other side."""
    kind = split["type"]
    if kind == "Split":
        text = split["pattern"].get("String")
        return _splits_at_spaces(split) or bool(text and _KEEP_SPACES.fullmatch(text))
    if kind == "Metaspace":
        return bool(split["replacement"] == "\u2581")
    return kind in _WORDS or kind in _LOCAL_SPLITS or kind == "ByteLevel"


def _splits_at_spaces(split: Json) -> bool:
    """Whether a word ends before every space that follows another character."""
    kind = split["type"]
    if kind == "Split":
        alternatives = set(_alternatives(split["pattern"].get("Regex", "")))
        kept = split["behavior"] == "Isolated" or (split["behavior"] == "Removed" and split.get("invert", False))
        needed = [alternatives & patterns for patterns in _WORD_PATTERNS]
        return kept and all(needed) and alternatives <= _OTHER_PATTERNS.union(*needed)
    if kind == "ByteLevel":
        return bool(split.get("use_regex", True))
    return kind in _WORDS or (kind == "Metaspace" and bool(split.get("split", True)))


def _needs_plain_spaces(split: Json) -> bool:
    """Whether a word splitter misses a space that a normalizer has replaced by another character."""
    return split["type"] == "ByteLevel" or (split["type"] != "Metaspace" and _splits_at_spaces(split))


def _alternatives(pattern: str) -> list[str]:
    """The alternatives of a pattern: its parts between bars outside parentheses."""
    found, depth = [""], 0
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and not depth:
            found.append("")
        else:
            found[-1] += character
    return found


def _vocabulary_without_crossing_tokens(model: Json) -> frozenset[str]:
    """The vocabulary, if byte-pair encoding can form no token across a cut; else an empty set."""
    if model.get("type") != "BPE" or model.get("ignore_merges"):
        return frozenset()
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return frozenset()
    if not _begin_with_spaces(model["vocab"]):
        return frozenset()
    return frozenset(model["vocab"])
