"""Constraints of ids without a grammar, for tests."""

import dataclasses

import numpy as np

from model.inference.constraint import WORD


def set_bits(allowed_W, tokens):
    for token in tokens:
        allowed_W[token // WORD] |= np.uint32(1 << token % WORD)


def bits(allowed_W):
    return [token for token in range(WORD * len(allowed_W)) if allowed_W[token // WORD] >> np.uint32(token % WORD) & 1]


@dataclasses.dataclass(frozen=True)
class Texts:
    """Some texts of ids, each of which may come; one that begins another may end there."""

    texts: tuple

    def begin(self):
        return OfTexts(self.texts)


class OfTexts:
    def __init__(self, texts):
        self.texts, self.text = texts, ()

    def _rests(self):
        return [text[len(self.text) :] for text in self.texts if text[: len(self.text)] == self.text]

    def fill(self, allowed_W):
        set_bits(allowed_W, {rest[0] for rest in self._rests() if rest})
        return () in self._rests()

    def accept(self, token):
        self.text = (*self.text, token)
        return bool(self._rests())

    def undo(self, count):
        self.text = self.text[: len(self.text) - count]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Every token is one more than that before it, modulo `modulus`; a text has `least` to `most` tokens."""

    modulus: int
    least: int = 2
    most: int = 7
    vocab_size: int = 61

    def begin(self):
        return OfSteps(self)


class OfSteps:
    def __init__(self, steps):
        self.steps, self.text = steps, []

    def fill(self, allowed_W):
        if len(self.text) < self.steps.most:
            modulus = self.steps.modulus
            tokens = range(self.steps.vocab_size)
            set_bits(allowed_W, [t for t in tokens if not self.text or t % modulus == (self.text[-1] + 1) % modulus])
        return len(self.text) >= self.steps.least

    def accept(self, token):
        self.text.append(token)
        return True

    def undo(self, count):
        del self.text[len(self.text) - count :]
