"""How many files that a model wrote are Python.

A sample is a file written from nothing: it begins where a document begins, and it is whole when the model ended it. A
whole sample counts when `ast.parse` accepts it. A sample that a limit cut off loses its last line, which may be half a
line, and counts when the parser finds nothing wrong before it runs out of text: its complete statements parse, and the
last one is a beginning of something that would. A blank sample does not count.
"""

import ast
import codeop
import dataclasses
import warnings
from collections.abc import Iterable

from train.generation.samples import Sample


@dataclasses.dataclass(frozen=True)
class ParseShare:
    """Of `count` samples `parsed` are Python; `share` is their quotient."""

    count: int
    parsed: int

    @property
    def share(self) -> float:
        """The parsed ones by the count, 0 for no samples."""
        return self.parsed / self.count if self.count else 0.0


def parse_share(samples: Iterable[Sample]) -> ParseShare:
    """Counts the samples that are Python, by the rule at the head of this file."""
    verdicts = [is_python(sample.text, sample.ended) for sample in samples]
    return ParseShare(len(verdicts), sum(verdicts))


def is_python(text: str, ended: bool) -> bool:
    """Whether a text is Python, or the beginning of a Python file where it was cut off."""
    if not ended:
        text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return False
    beginning = 0 if ended else codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
    flags = ast.PyCF_ONLY_AST | beginning  # what ast.parse gives
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is a warning, and no error
            compile(text, "<sample>", "exec", flags=flags, dont_inherit=True)
    except SyntaxError as error:
        return not ended and error.msg.startswith("incomplete input")
    except (ValueError, RecursionError, MemoryError):  # null characters; nesting deeper than the parser goes
        return False
    return True
