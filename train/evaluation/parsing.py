"""The share of generated files that are valid Python.

A sample is a file that the model generates without a prompt. It is whole when the model ended it. A whole sample counts
when `ast.parse` accepts it. A sample that a limit cut off loses its last line, which may be half a line. It counts when
the parser finds no error before the end of the text: its complete statements parse, and the last statement is the
beginning of a valid statement. A blank sample does not count.
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
        """`parsed` divided by `count`; 0 for no samples."""
        return self.parsed / self.count if self.count else 0.0


def parse_share(samples: Iterable[Sample]) -> ParseShare:
    """Counts the samples that are Python, by the rule in the module docstring."""
    verdicts = [is_python(sample.text, sample.ended) for sample in samples]
    return ParseShare(len(verdicts), sum(verdicts))


def is_python(text: str, ended: bool) -> bool:
    """Whether a text is Python, or, if it was cut off, the beginning of a Python file."""
    if not ended:
        text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return False
    incomplete_flag = 0 if ended else codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
    flags = ast.PyCF_ONLY_AST | incomplete_flag  # as ast.parse compiles
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a string is only a warning
            compile(text, "<sample>", "exec", flags=flags, dont_inherit=True)
    except SyntaxError as error:
        return not ended and error.msg.startswith("incomplete input")
    except (ValueError, RecursionError, MemoryError):  # null characters; nesting too deep for the parser
        return False
    return True
