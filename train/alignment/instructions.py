"""A small language of instructions whose right answers are known: text to pre-train on, demonstrations, preferences.

    copy dbca      dbca
    reverse dbca   acbd
    sort dbca      abcd
    add 7 15       22

Example n is a pure function of the seed, the split and n, and no instruction is in two splits. A model of half a
million parameters learns it in minutes on two cores, so that methods of post-training can be compared where the truth
is known.

    grammar = Instructions(length=5)
    grammar.example(0)                          # Example(prompt='sort ecba', answer='abce')
    grammar.check("reverse abc", "cba")         # Verdict(strict=True, lenient=True)
    write_all(grammar, pathlib.Path("data/instructions"), Counts())
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from model.errors import UserError
from train.alignment.answers import Verdict, judge
from train.files.files import replace_file

Task = Literal["copy", "reverse", "sort", "add"]
Split = Literal["train", "test"]
TASKS: tuple[Task, ...] = ("copy", "reverse", "sort", "add")
SPLITS: tuple[Split, ...] = ("train", "test")
SYMBOLS = "abcdefgh"
TEST_SHARE = 10  # one instruction in so many is of the test split
_TRANSFORMS: dict[str, Callable[[str], str]] = {
    "copy": lambda word: word,
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
}


class Example(NamedTuple):
    """An instruction and its right answer."""

    prompt: str
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions:
    """The grammar.

    Attributes:
      seed: the seed of all examples.
      tasks: the kinds of instructions, all equally frequent.
      length: the most symbols of a word, which has at least two; at most 8.
      largest: the largest number to add.
    """

    seed: int = 0
    tasks: tuple[Task, ...] = TASKS
    length: int = 5
    largest: int = 20

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.seed < 0:
            yield "seed", f"must be 0 or more, got {self.seed}"
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or not set(self.tasks) <= set(TASKS):
            yield "tasks", f"must be different ones of {', '.join(TASKS)}, got {self.tasks}"
        if not 3 <= self.length <= len(SYMBOLS):
            yield "length", f"must be from 3 to {len(SYMBOLS)}, got {self.length}"
        if not 9 <= self.largest < 1000:
            yield "largest", f"must be from 9 to 999, got {self.largest}"

    def example(self, n: int, split: Split = "train") -> Example:
        """Example n of a split; others of the split may be equal to it, and none of another split is."""
        draw = self._draw(n, split)
        while True:
            prompt = self._prompt(draw)
            if split_of(prompt) == split:
                return Example(prompt, self.answer(prompt))

    def answer(self, prompt: str) -> str:
        """The right answer to an instruction. Raises UserError for a text that is none of this grammar."""
        task, _, rest = prompt.partition(" ")
        if task in self.tasks:
            if task == "add":
                numbers = rest.split(" ")
                if len(numbers) == 2 and all(one.isascii() and one.isdigit() for one in numbers):
                    return str(sum(map(int, numbers)))
            elif rest and set(rest) <= set(SYMBOLS):
                return _TRANSFORMS[task](rest)
        raise UserError(
            f"{prompt[:80]!r} is no instruction of this grammar; expected one of {', '.join(self.tasks)}, then a word "
            f"of the letters {SYMBOLS[0]} to {SYMBOLS[-1]}, or two numbers to add: 'reverse dbca', 'add 7 15'"
        )

    def check(self, prompt: str, answer_text: str) -> Verdict:
        """The judgement of an answer to an instruction. Raises UserError for a text that is no instruction."""
        return judge(answer_text, self.answer(prompt))

    def wrong_answer(self, n: int, split: Split = "train") -> str:
        """A wrong answer to example n, as a model gives them: the answer to another task, or with a slip."""
        prompt, answer = self.example(n, split)
        draw = np.random.default_rng([self.seed, n, SPLITS.index(split), 1])
        while True:
            wrong = self._slip(draw, prompt, answer)
            if wrong and not judge(wrong, answer).lenient:
                return wrong

    def _draw(self, n: int, split: Split) -> np.random.Generator:
        return np.random.default_rng([self.seed, n, SPLITS.index(split)])

    def _prompt(self, draw: np.random.Generator) -> str:
        task = self.tasks[int(draw.integers(len(self.tasks)))]
        if task == "add":
            return f"add {draw.integers(self.largest + 1)} {draw.integers(self.largest + 1)}"
        length = int(draw.integers(2, self.length + 1))
        return f"{task} {''.join(SYMBOLS[i] for i in draw.integers(len(SYMBOLS), size=length))}"

    def _slip(self, draw: np.random.Generator, prompt: str, answer: str) -> str:
        """An answer with one fault, which may happen to be right."""
        rest, at = prompt.partition(" ")[2], int(draw.integers(len(answer)))
        if answer.isdigit():
            return str(max(int(answer) + int(draw.choice([-10, -2, -1, 1, 2, 10])), 0))
        kind = int(draw.integers(4))
        if kind == 0:  # the answer to another task
            return _TRANSFORMS[str(draw.choice(list(_TRANSFORMS)))](rest)
        if kind == 1:  # another symbol
            return answer[:at] + SYMBOLS[int(draw.integers(len(SYMBOLS)))] + answer[at + 1 :]
        if kind == 2:  # a symbol left out
            return answer[:at] + answer[at + 1 :]
        return answer[:at] + answer[at : at + 2][::-1] + answer[at + 2 :]  # two symbols swapped


def split_of(prompt: str) -> Split:
    """The split to which an instruction belongs, whatever the grammar's seed."""
    number = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest(), "big")
    return "test" if number % TEST_SHARE == 0 else "train"


# --------------------------------------------------------------------------------------------------------- rows


def text_row(grammar: Instructions, n: int, split: Split, lines: int = 8, noise: float = 0.0) -> dict[str, Any]:
    """Document n to pre-train on: `lines` instructions with answers, of which a share `noise` is wrong."""
    found = []
    for k in range(n * lines, (n + 1) * lines):
        prompt, answer = grammar.example(k, split)
        found.append(f"{prompt} = {grammar.wrong_answer(k, split) if _is_noisy(grammar, k, split, noise) else answer}")
    return {"text": "\n".join(found) + "\n"}


def conversation_row(grammar: Instructions, n: int, split: Split) -> dict[str, Any]:
    """Demonstration n: the user's instruction, and the right answer of the assistant."""
    prompt, answer = grammar.example(n, split)
    return {"messages": [_message("user", prompt), _message("assistant", answer)]}


def preference_row(grammar: Instructions, n: int, split: Split, noise: float = 0.0) -> dict[str, Any]:
    """Pair n: a right and a wrong answer; in a share `noise` of all pairs the wrong one is the chosen one."""
    prompt, answer = grammar.example(n, split)
    pair = [answer, grammar.wrong_answer(n, split)]
    chosen, rejected = reversed(pair) if _is_noisy(grammar, n, split, noise) else pair
    return pair_row([_message("user", prompt)], chosen, rejected)


def pair_row(messages: Sequence[Mapping[str, Any]], chosen: str, rejected: str) -> dict[str, Any]:
    """A prompt with the answer that is chosen and the one that is not: a row of train/data/preferences."""
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": list(messages)} | {name: [_message("assistant", text)] for name, text in answers.items()}


def prompt_row(grammar: Instructions, n: int, split: Split) -> dict[str, Any]:
    """Prompt n with its right answer, for rewards that a checker decides, and for accuracies."""
    prompt, answer = grammar.example(n, split)
    return {"prompt": [_message("user", prompt)], "answer": answer}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _is_noisy(grammar: Instructions, n: int, split: Split, noise: float) -> bool:
    return bool(np.random.default_rng([grammar.seed, n, SPLITS.index(split), 2]).random() < noise)


# -------------------------------------------------------------------------------------------------------- files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """How many rows each file gets, and how noisy they are.

    Attributes:
      texts: documents to pre-train on.
      text_noise: the share of wrong answers in them.
      conversations: demonstrations.
      preferences: pairs.
      preference_noise: the share of pairs whose wrong answer is the chosen one.
      prompts: prompts with answers.
      tests: the rows of each file of the test split.
    """

    texts: int = 20_000
    text_noise: float = 0.0
    conversations: int = 4_000
    preferences: int = 4_000
    preference_noise: float = 0.1
    prompts: int = 8_000
    tests: int = 256

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("texts", "conversations", "preferences", "prompts", "tests"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        for name in ("text_noise", "preference_noise"):
            if not 0 <= getattr(self, name) <= 1:
                yield name, f"must be a share from 0 to 1, got {getattr(self, name)}"


def write_rows(path: pathlib.Path, rows: Iterator[Mapping[str, Any]]) -> pathlib.Path:
    """Writes a .jsonl file, a row on each line, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return path


def write_all(grammar: Instructions, folder: pathlib.Path, counts: Counts) -> list[pathlib.Path]:
    """Writes texts, conversations, preferences and prompts into a folder, each of both splits: NAME.SPLIT.jsonl."""
    written = []
    for split in SPLITS:
        noise = counts.preference_noise if split == "train" else 0.0  # which accuracies on the test split would include
        makers: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
            "texts": (counts.texts, functools.partial(text_row, grammar, split=split, noise=counts.text_noise)),
            "conversations": (counts.conversations, functools.partial(conversation_row, grammar, split=split)),
            "preferences": (counts.preferences, functools.partial(preference_row, grammar, split=split, noise=noise)),
            "prompts": (counts.prompts, functools.partial(prompt_row, grammar, split=split)),
        }
        for name, (count, make) in makers.items():
            numbers = range(counts.tests if split == "test" else count)
            written.append(write_rows(folder / f"{name}.{split}.jsonl", map(make, numbers)))
    return written
