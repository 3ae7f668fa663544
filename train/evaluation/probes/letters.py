"""Counting letters: "How many r are in strawberry?", asked of words as the tokenizer splits them and spelled out.

A token hides its letters from the model. If the accuracy on spelled words, whose letters are tokens, is far above that
on whole words, tokenization is the obstacle, not counting.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from model.errors import UserError
from train.evaluation.probes.interface import Curve, Findings, Prepared, Probe, Reader, Sequences, at_least

WORDS = [
    "banana",
    "strawberry",
    "mississippi",
    "committee",
    "balloon",
    "coffee",
    "pepper",
    "letter",
    "kitten",
    "rabbit",
    "summer",
    "winter",
    "garden",
    "window",
    "pillow",
    "yellow",
    "bottle",
    "butter",
    "cheese",
    "tomato",
    "potato",
    "pencil",
    "paper",
    "school",
    "teacher",
    "student",
    "doctor",
    "farmer",
    "engineer",
    "river",
    "mountain",
    "valley",
    "forest",
    "island",
    "bridge",
    "castle",
    "village",
    "market",
    "station",
    "airport",
    "bicycle",
    "railway",
    "elephant",
    "tiger",
    "monkey",
    "giraffe",
    "penguin",
    "dolphin",
    "eagle",
    "parrot",
    "butterfly",
    "spider",
    "dragon",
    "music",
    "guitar",
    "violin",
    "piano",
    "theatre",
    "cinema",
    "picture",
]
COUNTS = ("zero", "one", "two", "three", "four")
FORMS = ("whole", "spelled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters(Probe):
    """Questions about words and letters after `num_examples` answered ones; the answer is the likeliest of five counts.

    Every question is asked in both forms, and in each form once for every count from zero to four, whose tokens are the
    counted targets. Half of the letters occur in their word. It needs a model of text.

    Attributes:
      num_examples: answered questions before each question.
    """

    num_examples: int = 4

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, num_examples=0)

    @classmethod
    def for_model(cls, reader: Reader) -> "Letters":
        """See `Probe`: with as many examples as the context holds, four at most."""
        for num_examples in (4, 2, 1):
            if reader.encode is not None and _longest(num_examples, reader) <= reader.length:
                return cls(num_examples=num_examples)
        return cls(num_examples=0)

    def prepare(self, reader: Reader) -> "AskedLetters":
        """See `Probe`."""
        if reader.encode is None:
            raise UserError("letters: this model's tokens are not text, and the probe asks about words; leave it out")
        length = _longest(self.num_examples, reader)
        if length > reader.length:
            raise UserError(
                f"letters: a question with num_examples={self.num_examples} has up to {length} tokens, more than the "
                f"{reader.length} that the model reads; take fewer examples, or a model with a longer context"
            )
        return AskedLetters(self, reader, length)


def _longest(num_examples: int, reader: Reader) -> int:
    """The tokens of the longest prompt: spelled words, the longest of them, with the longest count."""
    assert reader.encode is not None
    question = max((_question("spelled", word, "r", "three") for word in WORDS), key=len)
    return len(reader.encode(question * (num_examples + 1))) + num_examples + 1


def _question(form: str, word: str, letter: str, count: str) -> str:
    shown = " ".join(word) if form == "spelled" else word
    return f"How many times does the letter {letter} occur in {shown}? {count}\n"


class AskedLetters(Prepared):
    """`Letters` in the tokens of a model: the sequences of a generator are one question in all forms and counts."""

    num_symbols = None

    def __init__(self, option: Letters, reader: Reader, length: int) -> None:
        """Args: the option, the model, the length of the sequences."""
        assert reader.encode is not None
        self.option, self.length, self._encode = option, length, reader.encode
        self._asked: list[tuple[str, str, int]] = []

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`: 2 x 5 sequences for each generator, forms outside, counts inside."""
        shape = (len(draws) * len(FORMS) * len(COUNTS), self.length)
        made = Sequences(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        self._asked, row = [], 0
        for draw in draws:
            *examples, (word, letter) = self._draw(draw)
            self._asked.append((word, letter, word.count(letter)))
            for form in FORMS:
                prompt = "".join(_question(form, w, x, COUNTS[w.count(x)]) for w, x in examples)
                question = _question(form, word, letter, "").rstrip()
                known = len(self._encode(prompt + question))
                for count in COUNTS:
                    ids = self._encode(f"{prompt}{question} {count}")
                    end = len(ids) - 1
                    made.tokens[row, :end], made.targets[row, :end] = ids[:-1], ids[1:]
                    made.weights[row, known - 1 : end] = 1
                    row += 1
        return made

    def _draw(self, draw: np.random.Generator) -> list[tuple[str, str]]:
        """Words with letters, the question last; half of the letters occur in their word."""
        words = [WORDS[i] for i in draw.choice(len(WORDS), self.option.num_examples + 1, replace=False)]
        found = []
        for word in words:
            others = [x for x in "abcdefghijklmnopqrstuvwxyz" if x not in word]
            letters = list(word) if draw.random() < 0.5 else others
            found.append((word, letters[int(draw.integers(len(letters)))]))
        return found

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`; the loss is that of the right count among the five."""
        nll = (nll_NT * made.weights).sum(1).reshape(-1, len(FORMS), len(COUNTS))
        right = np.array([count for _, _, count in self._asked])
        log_p = (
            -nll - np.log(np.exp(-nll + nll.min(-1, keepdims=True)).sum(-1, keepdims=True)) + nll.min(-1, keepdims=True)
        )
        loss = -np.take_along_axis(log_p, right[:, None, None], axis=-1)[..., 0]
        hits = nll.argmin(-1) == right[:, None]
        common = np.bincount(right, minlength=len(COUNTS)) / len(right)
        pieces = np.array([len(self._encode(f" {word}")) for word, _, _ in self._asked])
        numbers = {"loss": float(loss.mean()), "accuracy": float(hits.mean())}
        for name, values in (("loss", loss), ("accuracy", hits.astype(np.float64))):
            numbers[f"{name}_standard_error"] = _error(values.mean(1))
            for form, of_form in zip(FORMS, values.T, strict=True):
                numbers |= {f"{name}_{form}": float(of_form.mean()), f"{name}_{form}_standard_error": _error(of_form)}
        numbers |= {"accuracy_of_the_commonest_count": float(common.max()), "tokens_of_a_word": float(pieces.mean())}
        sizes = tuple(sorted(set(pieces.tolist())))
        lines: dict[str, tuple[float | None, ...]] = {
            form: tuple(float(hits[pieces == size, f].mean()) for size in sizes) for f, form in enumerate(FORMS)
        }
        lines["the commonest count"] = (float(common.max()),) * len(sizes)
        curve = Curve(
            title="Accuracy by the tokens of a word",
            x_label="tokens of the whole word",
            y_label="share of questions",
            x=tuple(float(size) for size in sizes),
            lines=lines,
        )
        frequencies = -float(np.sum(common[common > 0] * np.log(common[common > 0])))
        baselines = {"frequencies of counts": frequencies, "uniform": math.log(len(COUNTS))}
        return Findings(numbers=numbers, baselines=baselines, pictures=(curve,))


def _error(values: np.ndarray) -> float:
    """The standard error of a mean; NaN of one value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
