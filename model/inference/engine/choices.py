"""How the next tokens of rows are chosen, as inputs of the programs that decode."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.inference.constraint import ALL, num_words
from model.inference.engine.programs import Choices
from model.inference.engine.scheduler import Span
from model.inference.prompts import seen_tokens
from model.inference.sampling import NEUTRAL, Sampling, rules_of_rows


class ChoiceMaker:
    """Makes the `Choices` of rows, and keeps those of the step before, on the device."""

    def __init__(self, vocab_size: int, sizes: Sequence[int]) -> None:
        """Makes the arrays of rows without bias, constraint and penalty.

        Args:
          vocab_size: V.
          sizes: the numbers of rows of the programs.
        """
        self._vocab_size = vocab_size
        self._no_bias = {size: jnp.zeros((size, vocab_size), jnp.float32) for size in sizes}
        self._all_allowed = {size: jnp.full((size, num_words(vocab_size)), ALL, jnp.uint32) for size in sizes}
        self._not_seen = {size: jnp.zeros((size, vocab_size), bool) for size in sizes}
        self._last: tuple[Any, Choices] | None = None

    def of_rows(self, size: int, spans: Sequence[Span]) -> Choices:
        """Returns how the tokens after the first of each span are chosen; rows without a span are greedy.

        They are those of the step before if the spans are of the same texts, and none of them needs its tokens.
        """
        texts = [span.sequence for span in spans]
        if self._last is not None and self._last[0] == (size, texts):
            return self._last[1]
        choices = self._made(size, spans)
        self._last = None
        if not any(text.needs_tokens for text in texts):
            choices = jax.device_put(choices)  # once for all steps
            self._last = (size, texts), choices
        return choices

    def _made(self, size: int, spans: Sequence[Span]) -> Choices:
        requests = [span.sequence.request for span in spans]
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
        drawn = np.full(size, -1, np.int32)
        return Choices(rules, seed, prompt, sample, bias, allowed, scale, drawn, seen, wants_logprob, wants_likeliest)

    def of_prompts(self, size: int, spans: Sequence[Span], *, scored: bool) -> Choices:
        """Returns choices for rows of prompts: nothing is drawn, and the known next token of each may be scored."""
        known = np.full(size, -1, np.int32)
        if scored:
            known[: len(spans)] = [span.sequence.tokens[span.first + 1] for span in spans]
        likeliest = scored and any(span.sequence.request.num_prompt_logprobs for span in spans)
        return dataclasses.replace(
            self._made(size, []), known_B=known, wants_logprob=np.array(scored), wants_likeliest=np.array(likeliest)
        )
