"""Right answers: whether a generated text is the answer exactly, and whether it ends with it."""

import re
from typing import NamedTuple

# A word or a number; the sign of a number is part of it, and a dash between words is not.
_WORD = re.compile(r"(?:(?<!\w)-(?=\d))?[^\W_]+(?:[.,'-][^\W_]+)*")


class Verdict(NamedTuple):
    """The judgement of one answer.

    Attributes:
      strict: the text is the answer, character for character, apart from white space around it.
      lenient: the last word of the text is that of the answer, whatever stands before it, with letters of either case;
        of an answer of several words, the last words. Every strict answer is lenient too. The difference between the
        two accuracies is the part of a failure that is only form.
    """

    strict: bool
    lenient: bool


def judge(text: str, answer: str) -> Verdict:
    """The judgement of a generated text, given the right answer."""
    words, wanted = (_WORD.findall(one.casefold()) for one in (text, answer))
    strict = text.strip() == answer.strip()
    return Verdict(strict, strict or (bool(wanted) and words[-len(wanted) :] == wanted))
