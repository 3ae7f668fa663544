"""What an engine is asked for, and what it answers: requests of token ids, and updates with new tokens.

A request's tokens and log-probabilities are a function of the model, the source, the prompt, the options and
`sample_index`. They do not depend on the requests beside it, on when it was submitted, or on the contents of the
engine's caches.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

from model.inference.constraint import Constraint
from model.inference.sampling import Sampling

EndedBy = Literal["end_mark", "stop_token", "constraint", "dead_end", "max_tokens", "context", "cancelled"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One text to continue.

    Attributes:
      prompt: the ids of the prompt, at least one. With an encoder it is the beginning of the target: its start token.
      source: the ids that an encoder reads; None for a model without one.
      sampling: the number of new tokens, and the rules that choose them.
      begin, end: the ids that begin and end a text; None for none. The end mark ends the text, and the repetition
        penalty counts neither.
      stop_tokens: other ids that end the text; such an id is the last of the text.
      sample_index: the number of this text among those with the same prompt and seed: each has draws of its own.
      num_logprobs: the number of likeliest tokens whose log-probabilities are given with each new token; 0 gives that
        of the token alone, None gives none. They are those of the model, before temperature, filters and bias.
      scaled_logprobs: whether those of new tokens are at the temperature of `sampling`, still before filters and bias:
        the policy that reinforcement learning improves (train/objectives/policy.py).
      num_prompt_logprobs: the same for the tokens of the prompt after its first, never scaled.
      first_prompt_logprob: the place of the first of these tokens; the prompt before it is read without logits, or
        found in the cache. 1 is the first place that has a score.
      only_scores: whether the text ends with the scores of its prompt, without a new token; the last token of such a
        prompt is not read, and may be one more than the context holds.
      logit_bias: numbers added to the logits of some tokens before any filter, by id.
      constraint: the texts that may be drawn, of which the text ends as one ("constraint" if nothing may follow);
        None for all. `end` and `stop_tokens` come only where such a text may end. A text that reaches another limit
        is the beginning of one. "dead_end" tells that no token of the vocabulary led on.
      priority: requests with a lower number are served first; equal ones in order of arrival.
    """

    prompt: tuple[int, ...]
    source: tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    begin: int | None = None
    end: int | None = None
    stop_tokens: tuple[int, ...] = ()
    sample_index: int = 0
    num_logprobs: int | None = None
    scaled_logprobs: bool = False
    num_prompt_logprobs: int | None = None
    first_prompt_logprob: int = 1
    only_scores: bool = False
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    constraint: Constraint | None = None
    priority: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not self.prompt:
            yield "prompt", "has no tokens; expected at least one, such as the id that ends documents"
        if self.source is not None and not self.source:
            yield "source", "has no tokens; expected at least one, or None for a model without an encoder"
        if self.sample_index < 0:
            yield "sample_index", f"must be 0 or more, got {self.sample_index}"
        for name in ("num_logprobs", "num_prompt_logprobs"):
            if (number := getattr(self, name)) is not None and number < 0:
                yield name, f"must be 0 or more, or None for none, got {number}"
        if self.scaled_logprobs and self.sampling.temperature == 0:
            yield "scaled_logprobs", "there are none at temperature=0, which draws nothing"
        if self.first_prompt_logprob < 1:
            yield "first_prompt_logprob", f"must be at least 1, got {self.first_prompt_logprob}"
        if self.only_scores and (self.num_prompt_logprobs is None or self.first_prompt_logprob >= len(self.prompt)):
            yield "only_scores", "asks for no score; give num_prompt_logprobs, and a token from first_prompt_logprob on"
        if self.only_scores and self.constraint is not None:
            yield "constraint", "has no effect with only_scores, which draws nothing; set one of them"
        for token, bias in self.logit_bias.items():
            if bias == -float("inf") and self.constraint is not None:
                yield "logit_bias", f"forbids id {token}, and may leave the constraint no token; give a finite number"
            elif not -float("inf") <= bias < float("inf"):
                yield "logit_bias", f"must be a number, or -inf to forbid the token, got {bias} for id {token}"


@dataclasses.dataclass(frozen=True)
class TokenScore:
    """One token of a text.

    Attributes:
      token: its id.
      logprob: its natural log-probability under the model; None if it was not asked for.
      likeliest: the ids and log-probabilities of the likeliest tokens at its place, the likeliest first.
    """

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Update:
    """What one call of `Engine.step` brought for one request.

    Attributes:
      request_id: the number that `Engine.submit` returned.
      tokens: the new tokens, in order; several after guesses that were right, and after a call of several steps.
      prompt: the scores of the prompt's tokens after its first, once, in the first update, if they were asked for.
      ended_by: the reason why the text is complete; None while it goes on.
    """

    request_id: int
    tokens: tuple[TokenScore, ...]
    prompt: tuple[TokenScore, ...] | None = None
    ended_by: EndedBy | None = None
