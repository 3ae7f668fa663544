"""The device's side of an engine: parameters, arrays, compiled programs, and the inputs of these from texts."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.inference.engine import programs
from model.inference.engine.choices import ChoiceMaker
from model.inference.engine.device_state import CachePlan, Rows
from model.inference.engine.page_pool import NO_PAGE
from model.inference.engine.programs import Choices, Drawn, Scores
from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.sources import read_source
from model.inference.request import Request, TokenScore
from model.inference.sampling import Sampling
from model.layout import Layout
from model.transformer import Params

PROBE = 8  # tokens of the text with which programs are made, and tried (tried_device.py)


@dataclasses.dataclass(frozen=True)
class ScoredPart:
    """A part of a prompt, and the scores of the tokens after its tokens: row `row` of `scores`."""

    span: Span
    scores: Scores
    row: int


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A token that a program chose.

    Attributes:
      token: its id.
      scores, at: the scores of its place are those at the index `at` (step, row).
      guesses: of modules of multi-token prediction, at the tokens after it.
    """

    token: int
    scores: Scores
    at: tuple[int, int]
    guesses: tuple[int, ...] = ()

    def own_scores(self) -> Scores:
        """Returns the scores of its place."""
        scores: Scores = jax.tree.map(lambda x: x[self.at], self.scores)
        return scores


def token_score(token: Any, scores: Scores, at: tuple[int, ...], count: int | None) -> TokenScore:
    """Returns a token with its log-probability and those of the `count` likeliest; without any for None."""
    if count is None:
        return TokenScore(int(token))
    ids, values = scores.likeliest[at][:count], scores.likeliest_logprob[at][:count]
    likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenScore(int(token), float(scores.logprob[at]), likeliest)


class Decoding:
    """Tokens that programs of the device choose, while the host goes on."""

    def __init__(self) -> None:
        self._calls: list[tuple[list[int], list[int], Drawn]] = []

    def add(self, places: list[int], steps: list[int], drawn: Drawn) -> None:
        """Adds what a program draws; row i belongs to the span with the number places[i], and has steps[i]."""
        for x in jax.tree.leaves(drawn):
            x.copy_to_host_async()
        self._calls.append((places, steps, drawn))

    def chosen(self) -> list[list[Chosen]]:
        """Waits for the tokens; returns those of every span, in order."""
        found: dict[int, list[Chosen]] = {}
        for places, steps, on_device in self._calls:
            drawn = jax.tree.map(np.asarray, on_device)
            tokens = drawn.token.tolist()
            guesses = [[()] * len(each) for each in tokens] if drawn.guesses is None else drawn.guesses.tolist()
            for row, (place, count) in enumerate(zip(places, steps, strict=True)):
                found[place] = [
                    Chosen(tokens[s][row], drawn.scores, (s, row), tuple(guesses[s][row])) for s in range(count)
                ]
        return [found[place] for place in range(len(found))]


class Device:
    """See the module docstring.

    Attributes:
      params: the parameters, prepared for the layout.
      is_exact: whether all programs, or all rows of the only one, gave equal results for the same tokens; None before
        `compile`.
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        plan: CachePlan,
        params: Params,
        *,
        rows: int,
        decoded: int,
        tokens_per_step: int,
        num_likeliest: int,
        most_steps: int = 1,
        invariant: bool = False,
    ) -> None:
        """Makes the arrays.

        Args:
          config: the model's options, as `serving_config` returns them.
          layout: the layout of activations over devices.
          plan: the arrays.
          params: the parameters, prepared for this layout.
          rows, tokens_per_step: see `EngineOptions`.
          decoded: the most tokens that a step decodes: one of each row, and guesses at the next ones; 0 for none.
          num_likeliest: how many of the likeliest tokens programs return.
          most_steps: the most tokens of a span that `decode` reads in one call.
          invariant: see `EngineOptions`.
        """
        self._config, self._layout, self._plan, self.params = config, layout, plan, params
        self._rows, self._num_likeliest, self._vocab_size = rows, num_likeliest, config.vocab_size
        self._most_steps, self._invariant = most_steps, invariant
        self._decode_sizes = programs.decode_sizes(decoded) if decoded else []
        self._decode_width = programs.decode_width(config)
        self._read_sizes = programs.read_sizes(config, tokens_per_step)
        if invariant:
            self._decode_sizes = programs.decode_sizes(decoded or rows)[-1:]
            self._read_sizes = [(self._decode_sizes[0], 1)]
        self._programs: dict[tuple[str, int, int], Callable[..., Any]] = {}
        self._empty = jax.jit(plan.empty, static_argnums=0)
        self._state = self._empty(layout)
        self._last_R = jax.jit(lambda: layout.constrain(jnp.zeros(rows, jnp.int32), (None,)))()
        self._choices = ChoiceMaker(config.vocab_size, self._decode_sizes)
        self._sources: list[tuple[int, ...] | None] = [None] * rows  # that the rows hold
        self.is_exact: bool | None = None

    # ------------------------------------------------------------------------------------------------------- passes

    def read_sources(self, texts: Sequence[Text]) -> int:
        """Runs the encoder on the sources of texts, except where their rows hold them; returns the tokens read."""
        count = 0
        for text in texts:
            source, row, plan = text.request.source, text.row, self._plan.sources
            assert source is not None
            assert row is not None
            assert plan is not None
            if self._sources[row] != source:
                self._sources[row] = source
                inputs = self._source_inputs(plan.slots(len(source)), row, source)
                self._state = self._source_program(inputs)(self.params, self._state, *inputs)
                count += len(source)
        return count

    def replace_params(self, params: Params) -> None:
        """Takes other parameters of the same model."""
        self.params, self._sources = params, [None] * self._rows

    def read(self, spans: Sequence[Span]) -> None:
        """Reads parts of texts."""
        for parts in self._in_rows(spans):
            if self._invariant:
                self._call(parts, self._choices.of_prompts(self._decode_sizes[0], parts, scored=False))
                continue
            rows = self._with_later(self._inputs(self._read_sizes[0], parts), parts)
            self._state = self._program("read", *self._read_sizes[0])(self.params, self._state, rows)

    def score(self, spans: Sequence[Span]) -> list[ScoredPart]:
        """Reads parts of texts whose next tokens are known; returns the scores of these, in order."""
        pending: list[tuple[list[Span], Scores]] = []
        for parts in self._in_rows(spans):
            if self._invariant:
                drawn = self._call(parts, self._choices.of_prompts(self._decode_sizes[0], parts, scored=True))
                pending.append((parts, drawn.scores))
                continue
            next_BT = np.zeros(self._read_sizes[0], np.int32)
            for i, part in enumerate(parts):
                next_BT[i, : part.count] = part.sequence.tokens[part.first + 1 : part.first + 1 + part.count]
            wants_likeliest = np.array(any(part.sequence.request.num_prompt_logprobs for part in parts))
            rows = self._with_later(self._inputs(self._read_sizes[0], parts), parts)
            inputs = rows, next_BT, wants_likeliest
            result = self._program("score", *self._read_sizes[0])(self.params, self._state, *inputs)
            self._state = result[0]
            pending.append((parts, result[1]))
        scored: list[ScoredPart] = []
        for parts, on_device in pending:  # fetched when all programs are under way
            scores = jax.tree.map(np.asarray, on_device)
            if self._invariant:  # of its first step; a row has one token
                scores = jax.tree.map(lambda x: x[0][:, None], scores)
            scored += [ScoredPart(part, scores, row) for row, part in enumerate(parts)]
        return scored

    def decode(self, spans: Sequence[Span]) -> Decoding:
        """Reads the first token of each span and chooses the next, as often as the span counts; waits for nothing.

        Several may be of one text, in order: each is a row of a program, and sees the rows before it. The count of all
        but the last is 1.
        """
        decoding = Decoding()
        for first in range(0, len(spans), self._decode_sizes[-1]) if spans else ():
            some = spans[first : first + self._decode_sizes[-1]]
            order = sorted(range(len(some)), key=lambda i: some[i].first, reverse=True)  # neighbours read as many keys
            some = [some[i] for i in order]
            size = next(size for size in self._decode_sizes if size >= len(some))
            drawn = self._call(some, self._choices.of_rows(size, some))
            decoding.add([first + i for i in order], [span.count for span in some], drawn)
        return decoding

    def _call(self, spans: Sequence[Span], choices: Choices) -> Drawn:
        """Calls the program that decodes; the first token of each span is in a row."""
        size = len(choices.known_B)
        rows = self._inputs((size, self._decode_width), [Span(span.sequence, span.first, 1) for span in spans])
        steps = np.array([span.count for span in spans] + [0] * (size - len(spans)), np.int32)
        program = self._program("decode", size, self._decode_width)
        self._state, drawn, self._last_R = program(self.params, self._state, rows, choices, self._last_R, steps)
        return drawn

    def unscored(self, span: Span) -> int:
        """Returns how many of a span's first tokens to read without logits: whole rows before the first score."""
        place, width = span.sequence.next_score, self._read_sizes[0][1]
        if place is None or place > span.first + span.count:
            return span.count
        return (place - 1 - span.first) // width * width

    def _in_rows(self, spans: Sequence[Span]) -> list[list[Span]]:
        """Cuts parts of texts to the size of a program's rows; returns those of each call, in order of each text."""
        rows, size = self._read_sizes[0]
        queues = [
            [
                Span(span.sequence, first, min(size, span.first + span.count - first))
                for first in range(span.first, span.first + span.count, size)
            ]
            for span in spans
        ]
        if not self._plan.has_states:
            queue = list(itertools.chain.from_iterable(queues))
            return [queue[first : first + rows] for first in range(0, len(queue), rows)]
        waiting, calls = [collections.deque(queue) for queue in queues if queue], []
        while waiting:  # a state goes from one part of a text to the next
            calls.append([queue.popleft() for queue in waiting[:rows]])
            waiting = [queue for queue in waiting if queue]
        return calls

    # ------------------------------------------------------------------------------------------------------- inputs

    def _inputs(self, shape: tuple[int, int], parts: Sequence[Span]) -> Rows:
        """Returns the tokens of some rows. A row without tokens has the position of the first, to see no more keys."""
        size, _ = shape
        tokens = np.zeros(shape, np.int32)
        first, count = np.full(size, parts[0].first, np.int32), np.zeros(size, np.int32)
        text_length, state = np.ones(size, np.int32), np.full(size, self._rows, np.int32)
        sources = None if self._plan.sources is None else np.ones(size, np.int32)
        tables = tuple(np.zeros((size, self._plan.pages_of_text), np.int32) for _ in self._plan.reaches)
        for i, part in enumerate(parts):
            text = part.sequence
            tokens[i, : part.count] = part.tokens
            first[i], count[i] = part.first, part.count
            text_length[i] = max(len(text.tokens), part.first + part.count)
            state[i] = self._rows if text.row is None else text.row
            if sources is not None:
                sources[i] = len(text.request.source or ())
            for table, pages in zip(tables, text.pages, strict=True):
                table[i, : len(pages)] = [0 if page == NO_PAGE else page for page in pages]
        return Rows(tokens, first, count, text_length, state, tables, sources)

    def _with_later(self, rows: Rows, parts: Sequence[Span]) -> Rows:
        """Adds the later tokens that modules read; 0 for those that are not known yet."""
        if not self._plan.modules:
            return rows
        later = np.zeros((self._plan.modules, *rows.tokens_BT.shape), np.int32)
        for (k, tokens), (i, part) in itertools.product(enumerate(later, start=1), enumerate(parts)):
            text = part.sequence
            known = text.tokens[part.first + k : min(part.first + k + part.count, text.num_known)]
            tokens[i, : len(known)] = known
        return dataclasses.replace(rows, later_KBT=later)

    # ------------------------------------------------------------------------------------------------------ programs

    def _probe_text(self, count: int) -> Text:
        """Returns a text of random tokens, in the first pages and the first row."""
        tokens = np.random.default_rng(0).integers(0, self._vocab_size, count).tolist()
        sources = self._plan.sources
        request = Request(
            prompt=tuple(tokens),
            source=None if sources is None else tuple((tokens * PROBE)[: min(PROBE, sources.longest)]),
            sampling=Sampling(temperature=0),
            num_logprobs=self._num_likeliest,
            num_prompt_logprobs=self._num_likeliest,
        )
        pages = [list(range(-(-count // self._plan.page_size))) for _ in self._plan.reaches]
        return Text(0, request, 1, "max_tokens", tokens, pages, row=0)

    def _clear(self) -> None:
        """Makes the arrays anew."""
        del self._state
        self._sources = [None] * self._rows
        self._state = self._empty(self._layout)

    def _program(self, name: str, rows: int, tokens: int) -> Callable[..., Any]:
        """Returns a compiled program, and compiles it if that was not done yet."""
        key = (name, rows, tokens)
        if key not in self._programs:
            span = Span(self._probe_text(1), 0, 1)
            here = self._inputs((rows, tokens), [span])
            here = here if name == "decode" else self._with_later(here, [span])
            inputs: tuple[Any, ...] = self.params, self._state, here
            options: tuple[Any, ...] = (self._config, self._layout, self._plan)
            if name == "score":
                inputs += np.zeros((rows, tokens), np.int32), np.array(False)
            elif name == "decode":
                inputs += self._choices.of_rows(rows, [span]), self._last_R, np.ones(rows, np.int32)
            options += {"read": (), "score": (self._num_likeliest,), "decode": (self._num_likeliest, self._most_steps)}[
                name
            ]
            function = getattr(programs, name)
            self._programs[key] = programs.compiled(function, *options, *inputs, platform=self._layout.platform)
        return self._programs[key]

    def _source_inputs(self, slots: int, row: int, source: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Returns the source of a row as inputs of a program, which has as many rows as the layout splits them into."""
        rows = self._layout.ways("batch")
        tokens, lengths = np.zeros((rows, slots), np.int32), np.zeros(rows, np.int32)
        tokens[0, : len(source)], lengths[0] = source, len(source)
        return tokens, lengths, np.full(rows, row, np.int32)

    def _source_program(self, inputs: tuple[np.ndarray, ...]) -> Callable[..., Any]:
        """Returns the compiled program that reads a source of this size."""
        key = ("source", *inputs[0].shape)
        if key not in self._programs:
            options = self._config, self._layout, self._plan.sources, self.params, self._state
            self._programs[key] = programs.compiled(read_source, *options, *inputs, platform=self._layout.platform)
        return self._programs[key]
