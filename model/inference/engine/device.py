"""The device's side of an engine: parameters, arrays, compiled programs, and the inputs of these from texts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.inference.constraint import ALL, num_words
from model.inference.engine import programs
from model.inference.engine.device_state import CachePlan, DeviceState, Rows
from model.inference.engine.page_pool import NO_PAGE
from model.inference.engine.programs import Choices, Scores
from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.prompts import seen_tokens
from model.inference.request import Request
from model.inference.sampling import NEUTRAL, Sampling, rules_of_rows
from model.layout import Layout
from model.transformer import Params

PROBE = 8  # tokens that `Device.compile` reads with each program


@dataclasses.dataclass(frozen=True)
class ScoredPart:
    """A part of a prompt, and the scores of the tokens after its tokens: row `row` of `scores`."""

    span: Span
    scores: Scores
    row: int


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A token that a program chose, and the scores of its place: row `row` of `scores`."""

    token: int
    scores: Scores
    row: int


class Decoding:
    """Tokens that programs of the device choose, while the host goes on."""

    def __init__(self) -> None:
        self._calls: list[tuple[list[int], Any]] = []

    def add(self, places: list[int], results: Any) -> None:
        """Adds a program's tokens and scores; row i belongs to the span with the number places[i]."""
        for x in jax.tree.leaves(results):
            x.copy_to_host_async()
        self._calls.append((places, results))

    def chosen(self) -> list[Chosen]:
        """Waits for the tokens; returns them in the order of their spans."""
        found: dict[int, Chosen] = {}
        for places, results in self._calls:
            tokens, scores = jax.tree.map(np.asarray, results)
            for row, (place, token) in enumerate(zip(places, tokens.tolist(), strict=False)):
                found[place] = Chosen(token, scores, row)
        return [found[place] for place in range(len(found))]


class Device:
    """See the module docstring.

    Attributes:
      params: the parameters, prepared for the layout.
      is_exact: whether all programs gave equal results for the same tokens; None before `compile`.
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
        """
        self._config, self._layout, self._plan, self.params = config, layout, plan, params
        self._rows, self._num_likeliest, self._vocab_size = rows, num_likeliest, config.vocab_size
        self._decode_sizes = programs.decode_sizes(decoded) if decoded else []
        self._decode_width = programs.decode_width(config)
        self._read_sizes = programs.read_sizes(config, tokens_per_step)
        self._programs: dict[tuple[str, int, int], Callable[..., Any]] = {}
        self._empty = jax.jit(plan.empty, static_argnums=0)
        self._state = self._empty(layout)
        self._last_R = jax.jit(lambda: layout.constrain(jnp.zeros(rows, jnp.int32), (None,)))()
        self._last_choices: tuple[Any, Choices] | None = None
        self._no_bias = {size: jnp.zeros((size, config.vocab_size), jnp.float32) for size in self._decode_sizes}
        self._all_allowed = {
            size: jnp.full((size, num_words(config.vocab_size)), ALL, jnp.uint32) for size in self._decode_sizes
        }
        self._not_seen = {size: jnp.zeros((size, config.vocab_size), bool) for size in self._decode_sizes}
        self.is_exact: bool | None = None

    # ------------------------------------------------------------------------------------------------------- passes

    def read(self, spans: Sequence[Span]) -> None:
        """Reads parts of texts."""
        for parts in self._in_rows(spans):
            self._state = self._program("read", *self._read_sizes[0])(
                self.params, self._state, self._inputs(self._read_sizes[0], parts)
            )

    def score(self, spans: Sequence[Span]) -> list[ScoredPart]:
        """Reads parts of texts whose next tokens are known; returns the scores of these, in order."""
        pending: list[tuple[list[Span], Scores]] = []
        for parts in self._in_rows(spans):
            next_BT = np.zeros(self._read_sizes[0], np.int32)
            for i, part in enumerate(parts):
                next_BT[i, : part.count] = part.sequence.tokens[part.first + 1 : part.first + 1 + part.count]
            wants_likeliest = np.array(any(part.sequence.request.num_prompt_logprobs for part in parts))
            inputs = self._inputs(self._read_sizes[0], parts), next_BT, wants_likeliest
            result = self._program("score", *self._read_sizes[0])(self.params, self._state, *inputs)
            self._state = result[0]
            pending.append((parts, result[1]))
        scored: list[ScoredPart] = []
        for parts, on_device in pending:  # fetched when all programs are under way
            scores = jax.tree.map(np.asarray, on_device)
            scored += [ScoredPart(part, scores, row) for row, part in enumerate(parts)]
        return scored

    def decode(self, spans: Sequence[Span]) -> Decoding:
        """Reads a token of each span, and chooses the token after it; does not wait for these.

        Several may be of one text, in order: each is a row of a program, and sees the rows before it.
        """
        decoding = Decoding()
        for first in range(0, len(spans), self._decode_sizes[-1]) if spans else ():
            some = spans[first : first + self._decode_sizes[-1]]
            order = sorted(range(len(some)), key=lambda i: some[i].first, reverse=True)  # neighbours read as many keys
            some = [some[i] for i in order]
            size = next(size for size in self._decode_sizes if size >= len(some))
            rows = self._inputs((size, self._decode_width), some)
            self._state, *results, self._last_R = self._program("decode", size, self._decode_width)(
                self.params, self._state, rows, self._choices(size, some), self._last_R
            )
            decoding.add([first + i for i in order], results)
        return decoding

    def unscored(self, span: Span) -> int:
        """Returns how many of a span's first tokens to read without logits: whole rows before the first score."""
        place, width = span.sequence.next_score, self._read_sizes[0][1]
        if place is None or place > span.first + span.count:
            return span.count
        return (place - 1 - span.first) // width * width

    def _in_rows(self, spans: Sequence[Span]) -> list[list[Span]]:
        """Cuts parts of texts to the size of a program's rows; returns those of each call, in order of each text."""
        rows, size = self._read_sizes[0]
        queue = [
            Span(span.sequence, first, min(size, span.first + span.count - first))
            for span in spans
            for first in range(span.first, span.first + span.count, size)
        ]
        calls: list[list[Span]] = []
        while queue:
            now: list[Span] = []
            for part in queue:
                waits = self._plan.has_states and any(part.sequence is other.sequence for other in now)
                if len(now) < rows and not waits:
                    now.append(part)
            calls.append(now)
            queue = [part for part in queue if part not in now]
        return calls

    # ------------------------------------------------------------------------------------------------------- inputs

    def _inputs(self, shape: tuple[int, int], parts: Sequence[Span]) -> Rows:
        """Returns the tokens of some rows. A row without tokens has the position of the first, to see no more keys."""
        size, _ = shape
        tokens = np.zeros(shape, np.int32)
        first, count = np.full(size, parts[0].first, np.int32), np.zeros(size, np.int32)
        text_length, state = np.ones(size, np.int32), np.full(size, self._rows, np.int32)
        tables = tuple(np.zeros((size, self._plan.pages_of_text), np.int32) for _ in self._plan.reaches)
        for i, part in enumerate(parts):
            text = part.sequence
            tokens[i, : part.count] = part.tokens
            first[i], count[i] = part.first, part.count
            text_length[i] = max(len(text.tokens), part.first + part.count)
            state[i] = self._rows if text.row is None else text.row
            for table, pages in zip(tables, text.pages, strict=True):
                table[i, : len(pages)] = [0 if page == NO_PAGE else page for page in pages]
        return Rows(tokens, first, count, text_length, state, tables)

    def _choices(self, size: int, spans: Sequence[Span]) -> Choices:
        """Returns how the tokens after spans of one token are chosen; rows without a span are greedy.

        They are those of the step before if the spans are of the same texts, and none of them needs its tokens.
        """
        texts = [span.sequence for span in spans]
        if self._last_choices is not None and self._last_choices[0] == (size, texts):
            return self._last_choices[1]
        requests = [text.request for text in texts]
        samplings = [request.sampling for request in requests]
        samplings += [Sampling(temperature=0)] * (size - len(spans))
        seed, prompt, sample = np.zeros((3, size), np.uint32)
        for i, (span, request) in enumerate(zip(spans, requests, strict=True)):
            seed[i], prompt[i], sample[i] = request.sampling.seed, span.sequence.prompt_hash, request.sample_index
        bias: Any = self._no_bias[size]
        allowed: Any = self._all_allowed[size]
        seen: Any = self._not_seen[size]
        if any(request.logit_bias for request in requests):
            bias = np.zeros((size, self._vocab_size), np.float32)
            for i, request in enumerate(requests):
                bias[i, list(request.logit_bias)] = list(request.logit_bias.values())
        if any(request.constraint is not None for request in requests):
            allowed = np.full(allowed.shape, ALL, np.uint32)
            for i, span in enumerate(spans):
                if (mask := span.sequence.allowed_after(span.first)) is not None:
                    allowed[i] = mask
        scale = np.ones(size, np.float32)
        for i, request in enumerate(requests):
            scale[i] = request.sampling.temperature if request.scaled_logprobs else 1.0
        rules = rules_of_rows(samplings)
        if (rules["repetition_penalty"] != NEUTRAL["repetition_penalty"]).any():
            marks = [[mark for mark in (request.begin, request.end) if mark is not None] for request in requests]
            known = [span.sequence.known_or_proposed(0, span.first + 1) for span in spans]
            seen = seen_tokens(known, marks, self._vocab_size, rows=size)
        wanted = [request.num_logprobs for request in requests]
        wants_logprob = np.array(any(each is not None for each in wanted))
        wants_likeliest = np.array(any(wanted))
        choices = Choices(rules, seed, prompt, sample, bias, allowed, scale, seen, wants_logprob, wants_likeliest)
        self._last_choices = None if any(text.needs_tokens for text in texts) else ((size, texts), choices)
        return choices

    # ------------------------------------------------------------------------------------------------------ programs

    @property
    def num_programs(self) -> int:
        """The programs of which `compile` tells."""
        return len(self._decode_sizes) + 2

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compiles all programs, and tries whether they give the same results for the same tokens.

        On a CPU it takes the largest programs that do. `progress` is called with the programs done, and of all.
        """
        sizes, total = list(self._decode_sizes), self.num_programs
        count = min(PROBE, self._plan.longest_text)
        chooses, all_agree = self._layout.platform == "cpu", True
        if sizes:
            whole, first = self._probe_decode(sizes[0], count), self._probe_decode(sizes[0], 1)
        else:
            whole = self._probe_read(count)[0]
        for done, size in enumerate(sizes):
            agrees = _equal(first, self._probe_decode(size, 1))
            all_agree &= agrees
            if chooses and not agrees:
                self._decode_sizes.remove(size)
            progress(done + 1, total)
        while True:
            agrees = all(_equal(whole, each) for each in self._probe_read(count))
            if agrees or not chooses or len(self._read_sizes) == 1:
                break
            left_out = self._read_sizes.pop(0)
            del self._programs["read", *left_out], self._programs["score", *left_out]
        progress(total, total)
        self._state = self._emptied()
        self.is_exact = agrees and (all_agree or chooses)

    def _probe_text(self, count: int) -> Text:
        """Returns a text of random tokens, in the first pages and the first row."""
        tokens = np.random.default_rng(0).integers(0, self._vocab_size, count).tolist()
        request = Request(
            prompt=tuple(tokens),
            sampling=Sampling(temperature=0),
            num_logprobs=self._num_likeliest,
            num_prompt_logprobs=self._num_likeliest,
        )
        pages = [list(range(-(-count // self._plan.page_size))) for _ in self._plan.reaches]
        return Text(0, request, 1, "max_tokens", tokens, pages, row=0)

    def _probe_decode(self, size: int, count: int) -> dict[str, Any]:
        """Reads a text with the program of `size` rows; returns its scores and its part of the cache."""
        text, self._state, sizes = self._probe_text(count), self._emptied(), self._decode_sizes
        tokens, text.tokens, self._decode_sizes = text.tokens, [], [size]
        scores = []
        for token in tokens:
            text.tokens.append(token)
            chosen = self.decode([Span(text, len(text.tokens) - 1, 1)]).chosen()[0]
            scores.append(jax.tree.map(lambda x, row=chosen.row: x[row], chosen.scores))
        self._decode_sizes = sizes
        return self._results(text, scores)

    def _probe_read(self, count: int) -> list[dict[str, Any]]:
        """Reads a text with the programs that read and that score; returns the results of each."""
        results = []
        for run in (self.read, self.score):
            text, self._state = self._probe_text(count), self._emptied()
            text.tokens.append(0)  # the last score is that of some token
            parts = run([Span(text, 0, count)])
            places = [(part, place) for part in parts or () for place in range(part.span.count)]
            scores = [jax.tree.map(lambda x, part=part, t=t: x[part.row, t], part.scores) for part, t in places]
            results.append(self._results(text, scores))
        return results

    def _results(self, text: Text, scores: list[Scores]) -> dict[str, Any]:
        used = max([1, *(len(pages) for pages in text.pages)])
        cached = jax.tree.map(lambda x: np.asarray(x[:used]), self._state)
        return {"cached": cached, "scores": [(each.likeliest, each.likeliest_logprob) for each in scores]}

    def _emptied(self) -> DeviceState:
        del self._state
        return self._empty(self._layout)

    def _program(self, name: str, rows: int, tokens: int) -> Callable[..., Any]:
        """Returns a compiled program, and compiles it if that was not done yet."""
        key = (name, rows, tokens)
        if key not in self._programs:
            span = Span(self._probe_text(1), 0, 1)
            inputs: tuple[Any, ...] = (self.params, self._state, self._inputs((rows, tokens), [span]))
            options: tuple[Any, ...] = (self._config, self._layout, self._plan)
            if name == "score":
                inputs += np.zeros((rows, tokens), np.int32), np.array(False)
            elif name == "decode":
                inputs += self._choices(rows, [span]), self._last_R
            options += () if name == "read" else (self._num_likeliest,)
            function = getattr(programs, name)
            self._programs[key] = programs.compiled(function, *options, *inputs, platform=self._layout.platform)
        return self._programs[key]


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results have the same bits; scores that one of them lacks are not compared."""
    one, other = ({name: x for name, x in each.items() if one[name] and other[name]} for each in (one, other))
    equal = jax.tree.map(np.array_equal, one, other)
    return all(jax.tree.leaves(equal))
