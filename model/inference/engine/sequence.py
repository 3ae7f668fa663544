"""A request on its way through the engine: its tokens, how many of them were read, and the pages that hold them."""

import dataclasses

import numpy as np

from model.inference.constraint import Follower
from model.inference.engine.page_pool import next_digest
from model.inference.prompts import hash_of
from model.inference.request import EndedBy, Request, TokenScore

ON_DEVICE = -1  # in place of a token that the device has chosen and the host has not yet


@dataclasses.dataclass(eq=False)
class Sequence:
    """One request.

    Attributes:
      request_id: its number, in order of arrival.
      request: the request.
      budget: the most new tokens.
      budget_ends_by: the reason if it has that many.
      tokens: the prompt and all new tokens; the last ones may be ON_DEVICE.
      num_read: how many of these the cache holds.
      source_read: whether its row holds its source, or it has none.
      row: the number of its row while it runs; None while it waits.
      pages: of every group of layers, the pages of the tokens read; NO_PAGE before a window.
      digests: of the full pages of `tokens`, as far as they were needed.
      num_published: the pages that others can find.
      proposed: guesses at the tokens after `tokens`, which the next step reads with them.
      by_modules: guesses of the model's own modules at the tokens after `tokens`, if it guesses by these.
      follower: the text under its constraint; None without one.
      allowed_after_guesses: the tokens that may come after each guess, under a constraint.
      scores: of the prompt's tokens, as far as they are asked for and known.
      ended_by: the reason why it ended.
    """

    request_id: int
    request: Request
    budget: int
    budget_ends_by: EndedBy
    tokens: list[int]
    pages: list[list[int]]
    num_read: int = 0
    source_read: bool = dataclasses.field(init=False)
    row: int | None = None
    digests: list[bytes] = dataclasses.field(default_factory=list)
    num_published: int = 0
    proposed: list[int] = dataclasses.field(default_factory=list)
    by_modules: tuple[int, ...] = ()
    follower: Follower | None = None
    allowed_after_guesses: list[np.ndarray] = dataclasses.field(default_factory=list)
    scores: list[TokenScore] = dataclasses.field(default_factory=list)
    scores_sent: bool = False
    ended_by: EndedBy | None = None

    def __post_init__(self) -> None:
        """Computes what the draws of this request depend on, as `generate` does."""
        source, prompt = self.request.source, self.request.prompt
        self.prompt_hash = hash_of(prompt if source is None else (*source, *prompt[1:]))
        self.source_read = source is None

    @property
    def rank(self) -> tuple[int, int]:
        """Requests with a lower rank are served first."""
        return self.request.priority, self.request_id

    @property
    def num_new(self) -> int:
        """The number of new tokens."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_known(self) -> int:
        """The number of tokens before the first that is ON_DEVICE."""
        count = len(self.tokens)
        while count and self.tokens[count - 1] == ON_DEVICE:
            count -= 1
        return count

    @property
    def needs_tokens(self) -> bool:
        """Whether the choice of its next token needs the earlier ones on the host."""
        request = self.request
        return request.sampling.rules()["repetition_penalty"] is not None or request.constraint is not None

    @property
    def may_decode(self) -> bool:
        """Whether all tokens but the last were read, and those on the device leave room for another."""
        has_room = self.tokens[-1] != ON_DEVICE or self.num_new < self.budget
        return self.source_read and self.num_to_read == 0 and has_room

    @property
    def num_to_read(self) -> int:
        """The tokens to read before the last, which the decoding step reads."""
        return len(self.tokens) - 1 - self.num_read

    @property
    def next_score(self) -> int | None:
        """The place of the next token whose score is asked for and not known; None if there is none."""
        if self.request.num_prompt_logprobs is None:
            return None
        place = self.request.first_prompt_logprob + len(self.scores)
        return place if place < len(self.request.prompt) else None

    def known_or_proposed(self, first: int, end: int) -> list[int]:
        """Returns some of the tokens; the proposed ones follow the known."""
        length = len(self.tokens)
        if end <= length:
            return self.tokens[first:end]
        return self.tokens[first:] + self.proposed[max(0, first - length) : end - length]

    def allowed_after(self, place: int) -> np.ndarray | None:
        """Returns the mask of the tokens that may come after a place of the known or proposed text; None for all."""
        if self.follower is None:
            return None
        guesses = place + 1 - len(self.tokens)
        return self.allowed_after_guesses[guesses - 1] if guesses else self.follower.allowed_W

    def propose(self, guesses: list[int]) -> None:
        """Takes guesses, as many as the constraint allows."""
        if self.follower is not None:
            self.allowed_after_guesses = self.follower.after(guesses)
            guesses = guesses[: len(self.allowed_after_guesses)]
        self.proposed = guesses

    def digest(self, index: int, page_size: int) -> bytes:
        """Returns the digest of the page with this index, whose tokens are known; it depends on the source too."""
        while len(self.digests) <= index:
            first = len(self.digests) * page_size
            of_source = b"" if self.request.source is None else next_digest(b"source", self.request.source)
            before = self.digests[-1] if self.digests else of_source
            self.digests.append(next_digest(before, self.tokens[first : first + page_size]))
        return self.digests[index]

    def add(self, score: TokenScore) -> None:
        """Adds a new token, and ends the text if it is the last."""
        self.tokens.append(score.token)
        if score.token == self.request.end:
            self.ended_by = "end_mark"
        elif score.token in self.request.stop_tokens:
            self.ended_by = "stop_token"
        elif self.follower is not None:
            self.follower.accept(score.token)
            self.ended_by = self.follower.ended_by
        if self.ended_by is None and self.num_new == self.budget:
            self.ended_by = self.budget_ends_by
