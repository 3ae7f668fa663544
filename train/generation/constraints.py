"""Constraints of texts: JSON of a schema, a regular expression, a list of choices, a grammar; by llguidance.

The library tells which bytes may come next; this module tells it the bytes of each token. It follows a text by its
tokens, so that any way to cut a text into tokens is allowed, except where the grammar leaves one text alone: there it
takes the tokens by which the tokenizer encodes it.
"""

import functools
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model.errors import UserError
from model.inference.constraint import Constraint, Matcher, num_words
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.token_bytes import bytes_of_tokens, encode_inside

MISSING = (
    "constraints of texts (JSON, regular expressions, grammars) need the package llguidance: pip install "
    "'cairn-lm[constrained]', or, in a checkout, pip install -e '.[constrained]'"
)
# Between two tokens of JSON; a model that likes spaces would otherwise write nothing else until its budget ends.
_JSON_SPACE = r"[\x20\x0A\x0D\x09]{0,32}"
_KEPT = 64  # compiled constraints
_COPIED = re.compile(r"\d+ \| ")

Kind = Literal["json", "regex", "choice", "grammar"]


@dataclass(frozen=True)
class Form:
    """The texts that may be drawn.

    Attributes:
      kind: "json" of a schema, a whole "regex", one "choice" of a list, or all texts of a "grammar".
      source: the schema as JSON, the expression (of Rust's crate `regex`), the list as JSON, or the grammar (Lark as
        llguidance reads it, or GBNF as llama.cpp does).
    """

    kind: Kind
    source: str

    @classmethod
    def json(cls, schema: Mapping[str, Any] | bool) -> "Form":
        """The JSON that a schema allows."""
        return cls("json", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> "Form":
        """One of some texts."""
        return cls("choice", json.dumps(list(texts), ensure_ascii=False))


ANY_OBJECT = Form.json({"type": "object"})


class Constraints:
    """Makes the constraints of one tokenizer's tokens; any thread may call it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiled = functools.lru_cache(_KEPT)(self._compile)

    def of(self, form: Form) -> Constraint:
        """The constraint of a form; that of an equal form is kept.

        Raises UserError without llguidance, for a form that is none, and for one that llguidance cannot serve.
        """
        with self._lock:  # the table of tokens is made once
            return self._compiled(form)

    def _compile(self, form: Form) -> Constraint:
        library, tokens = _library(), self._tokens
        grammar = _grammar_of(form)
        is_error, problems = library.LLMatcher.validate_grammar_with_warnings(grammar, tokens)
        if is_error:
            raise UserError(f"the {_NAMES[form.kind]} cannot be used: {_readable(problems[0])}")
        made = _Compiled(library.LLMatcher(tokens, grammar, log_level=0), self._tokenizer.vocab_size)
        first_W = np.zeros(num_words(self._tokenizer.vocab_size), np.uint32)
        may_end = made.begin().fill(first_W)
        if not first_W.any():
            allowed = "only the empty text" if may_end else "no text that this model's tokens can write"
            raise UserError(f"the {_NAMES[form.kind]} allows {allowed}")
        return made

    @functools.cached_property
    def _tokens(self) -> Any:
        return _library().LLTokenizer(_Tokens(self._tokenizer))


_NAMES: Mapping[Kind, str] = {
    "json": "JSON schema",
    "regex": "regular expression",
    "choice": "list of choices",
    "grammar": "grammar",
}


class _Tokens:
    """The tokenizer as llguidance asks for it: tokens of no bytes are never allowed."""

    is_tokenizer_wrapper = True
    eos_token_id = bos_token_id = None  # one past the vocabulary is the library's own end of a text
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.tokens = tokenizer, bytes_of_tokens(tokenizer)

    @functools.cached_property
    def _longest_first(self) -> dict[bytes, int]:
        return {text: token for token, text in reversed(list(enumerate(self.tokens))) if text}

    def __call__(self, text: str) -> list[int]:
        """The ids of a text inside a text."""
        found = encode_inside(self._tokenizer, self.tokens, text)
        return self._greedy(text.encode("utf-8")) if found is None else found

    def _greedy(self, text: bytes) -> list[int]:
        """Ids of bytes, each the longest that fits; ends where there is none."""
        ids: list[int] = []
        while text:
            length = next((n for n in range(len(text), 0, -1) if text[:n] in self._longest_first), None)
            if length is None:
                break
            ids.append(self._longest_first[text[:length]])
            text = text[length:]
        return ids


class _Compiled:
    """A constraint: a matcher before its first token, which every text copies."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def begin(self) -> Matcher:
        """See `Constraint`."""
        return _Matcher(self._matcher.deep_copy(), self._vocab_size)


class _Matcher:
    """See `Matcher`."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def fill(self, allowed_W: np.ndarray) -> bool:
        """See `Matcher`."""
        if self._matcher.is_error():
            return False
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        if self._matcher.is_error():  # the text has become too intricate for the library
            return False
        whole, rest = divmod(self._vocab_size, 32)
        allowed_W[:whole] = words[:whole]
        if rest:
            allowed_W[whole] = words[whole] & np.uint32((1 << rest) - 1)
        return bool(self._matcher.is_accepting())

    def accept(self, token: int) -> bool:
        """See `Matcher`."""
        return bool(self._matcher.consume_token(token))

    def undo(self, count: int) -> None:
        """See `Matcher`."""
        if count:
            self._matcher.rollback(count)


def _grammar_of(form: Form) -> str:
    """A form as llguidance writes grammars. Raises UserError."""
    library = _library()
    try:
        if form.kind == "json":
            options = {"whitespace_flexible": True, "whitespace_pattern": _JSON_SPACE}
            grammar: str = library.LLMatcher.grammar_from_json_schema(form.source, defaults=options)
        else:
            grammar = library.grammar_from(form.kind, form.source)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the {_NAMES[form.kind]} cannot be used: {error}") from None
    return grammar


def _readable(problem: str) -> str:
    """The library's words on one line, without its copy of the lines around the place."""
    lines = [line.strip() for line in problem.strip().splitlines()]
    return " ".join(line for line in lines if line and set(line) != {"^"} and not _COPIED.match(line))


def _library() -> Any:
    """The package. Raises UserError when it is not installed."""
    try:
        import llguidance
    except ImportError:
        raise UserError(MISSING) from None
    return llguidance
