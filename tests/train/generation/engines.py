"""An engine of ids without a model: the same interface, tokens by a rule, so that what is around it can be tested."""

import dataclasses
import time

import numpy as np

from model.errors import UserError
from model.inference.constraint import Follower
from model.inference.request import TokenScore, Update
from tests.model.inference.constraints import bits


@dataclasses.dataclass
class Statistics:
    steps: int = 0
    running: int = 0
    waiting: int = 0


def counting(request):
    """The letters of the alphabet in order, from the one after the prompt's last; other samples begin further on."""
    place = request.prompt[-1] + request.sample_index
    while True:
        place += 1
        yield ord("a") + (place - ord("a")) % 26


def constrained(request, vocab_size=257):
    """Random tokens that a constraint allows, then the reason for the end of the text."""
    follower = Follower(request.constraint, (request.end, *request.stop_tokens), vocab_size)
    rng = np.random.default_rng(request.sample_index)
    while follower.ended_by is None:
        token = int(rng.choice(bits(follower.allowed_W)))
        yield token
        follower.accept(token)
    yield follower.ended_by


def spelling(text, end=None):
    """A rule by which every request gets the bytes of a text."""
    return lambda request: [*text.encode(), *([] if end is None else [end])]


class FakeEngine:
    """Draws a token for each of `rows` requests in a step; the log-probability of id i is -i / 100.

    Under a constraint it draws at random among the tokens that may come.
    """

    def __init__(self, rule=counting, *, rows=4, context=64, per_step=1, seconds=0.0):
        self.rule, self.rows, self.context, self.per_step, self.seconds = rule, rows, context, per_step, seconds
        self.live, self.cancelled, self.number = {}, set(), 0
        self.statistics, self.seen, self.fails = Statistics(), [], None

    @property
    def num_unfinished(self):
        return len(self.live)

    def submit(self, request):
        if len(request.prompt) > self.context:
            raise UserError(f"the prompt has {len(request.prompt)} tokens; {self.context} fit")
        self.number += 1
        tokens = self.rule(request) if request.constraint is None else constrained(request)
        self.live[self.number] = (request, iter(tokens), [])
        self.seen.append(request)
        return self.number

    def cancel(self, number):
        if number in self.live:
            self.cancelled.add(number)

    def step(self):
        if self.fails is not None:
            raise self.fails
        time.sleep(self.seconds)
        self.statistics.steps += 1
        updates = [Update(number, (), ended_by="cancelled") for number in self.cancelled]
        for number in self.cancelled:
            del self.live[number]
        self.cancelled.clear()
        for number in sorted(self.live)[: self.rows]:
            updates.append(self._advance(number, *self.live[number]))
            if updates[-1].ended_by is not None:
                del self.live[number]
        self.statistics.running = min(len(self.live), self.rows)
        self.statistics.waiting = len(self.live) - self.statistics.running
        return updates

    def _advance(self, number, request, tokens, drawn):
        prompt = None
        if not drawn and request.num_prompt_logprobs is not None:
            prompt = tuple(_score(token, request.num_prompt_logprobs) for token in request.prompt[1:])
        new, ended_by = [], None
        while len(new) < self.per_step and ended_by is None:
            if isinstance(token := next(tokens), str):
                ended_by = token
                break
            new.append(_score(token, request.num_logprobs))
            drawn.append(token)
            if token == request.end:
                ended_by = "end_mark"
            elif token in request.stop_tokens:
                ended_by = "stop_token"
            elif len(drawn) == request.sampling.max_tokens:
                ended_by = "max_tokens"
            elif len(request.prompt) + len(drawn) > self.context:
                ended_by = "context"
        return Update(number, tuple(new), prompt, ended_by)


def _score(token, count):
    if count is None:
        return TokenScore(token)
    return TokenScore(token, -token / 100, tuple((97 + k, -(97 + k) / 100) for k in range(count)))
