"""The inference engine: many requests at once, each answered as if it were alone.

    engine = Engine(config, params, EngineOptions(rows=16))
    engine.compile()
    number = engine.submit(Request(prompt=(1, 2, 3), sampling=Sampling(max_tokens=20)))
    while engine.num_unfinished:
        for update in engine.step(): ...

Exactness. On a CPU the tokens and log-probabilities of a request are the same bits whatever other requests run beside
it, however its prompt is cut into parts, whichever of its pages were found in the cache, and however often it gave way
and was read again (programs.py and model/kernels/xla/pages.py say how; tests/model/inference/engine/test_exactness.py
tries random schedules). Guesses at the next tokens (speculation.py) change none of them. They are the tokens of
`generate`, up to rounding. On accelerators sums may depend on the number of rows of a program; there
`EngineOptions.invariant` keeps the promise, at a price (programs.py).

The host works while the device computes: a step hands its programs to the device before it has the tokens of the step
before, which stay there to be read. A call of a program may also take several steps of every text, while no prompt is
read and no row could be given to a request that waits (`EngineOptions.steps_per_call`). So a text that ends with a
certain token is read for some steps more, and the tokens after its end are dropped. A step is alone, and waits for its
own tokens, where the next one needs them on the host: for guesses, a repetition penalty, a constraint, and positions
that depend on the length of a text.

One thread calls an engine; it has no threads, reads no clock and writes no text.
"""

import dataclasses
from collections.abc import Callable

from model.attention.directions import refuse_without_chunks
from model.config import ModelConfig
from model.errors import UserError
from model.inference.constraint import Follower
from model.inference.engine import programs
from model.inference.engine.capacity import capacity_of, plan_of, shares_pages
from model.inference.engine.device import Chosen, Decoding, token_score
from model.inference.engine.draft import DraftModel, DraftProposer
from model.inference.engine.modules import ModulesProposer
from model.inference.engine.ngram import NGramProposer
from model.inference.engine.options import EngineOptions, EngineStatistics
from model.inference.engine.page_pool import PagePool
from model.inference.engine.scheduler import Scheduler, Span
from model.inference.engine.sequence import ON_DEVICE
from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.sources import check_source, refuse_other_encoders
from model.inference.engine.speculation import Draft, Modules, NGram, Proposer, accepted, check_rolls_back
from model.inference.engine.tried_device import TriedDevice
from model.inference.generate import PreparedParams, prepare_params
from model.inference.prompts import check_ids, check_length
from model.inference.request import EndedBy, Request, Update
from model.layout import ONE_DEVICE, Layout
from model.options.tree import check
from model.transformer import Params

DEFAULT_OPTIONS = EngineOptions()


class Engine:
    """See the module docstring.

    Attributes:
      options: the sizes.
      capacity: how much fits into the cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params | PreparedParams,
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        layout: Layout = ONE_DEVICE,
        draft: DraftModel | None = None,
    ) -> None:
        """Prepares the parameters and makes the cache.

        Args:
          config: the model's options.
          params: its parameters, or the result of `prepare_params`.
          options: the sizes of the engine.
          layout: the layout of activations over devices.
          draft: the model that guesses, with `Draft` as the option of speculation.

        Raises:
          UserError: for invalid options, and for a model whose cache cannot give back a wrong guess.
        """
        check(options, "engine")
        refuse_without_chunks(config, "engine")
        refuse_other_encoders(config)
        self.options, self._config, self._layout = options, config, layout
        self._vocab_size, self._context = config.vocab_size, config.context_length
        self._plan = plan_of(config, options)
        self.capacity = capacity_of(self._plan)
        self._positions = {layer.position for layer in config.layers if layer.position.reads_lengths}
        pools = [PagePool(count) for count in self._plan.num_pages]
        shares = options.prefix_cache and bool(pools) and shares_pages(config)
        self._scheduler = Scheduler(
            options.rows, options.tokens_per_step, options.page_size, pools, list(self._plan.reaches), shares=shares
        )
        self._num_likeliest = max(1, min(options.max_logprobs, config.vocab_size))
        self._proposer = self._make_proposer(draft)
        guesses = 0 if options.speculation is None else options.speculation.tokens
        self._device = TriedDevice(
            programs.serving_config(config),
            layout,
            self._plan,
            prepare_params(config, params, layout).params,
            rows=options.rows,
            decoded=0 if options.only_scores else options.rows * (1 + guesses),
            tokens_per_step=options.tokens_per_step,
            num_likeliest=self._num_likeliest,
            most_steps=options.steps_per_call if self._proposer is None else 1,
            invariant=options.invariant,
        )
        self._in_flight: tuple[list[Text], Decoding] | None = None
        self._texts: dict[int, Text] = {}
        self._cancelled: list[Text] = []
        self._num_submitted = 0
        self._statistics = EngineStatistics(pages=sum(pool.num_pages for pool in pools))

    def _make_proposer(self, draft: DraftModel | None) -> Proposer | None:
        """Returns the part that guesses tokens, by the option of speculation."""
        speculation = self.options.speculation
        if isinstance(speculation, Draft) != (draft is not None):
            raise UserError(
                "engine.speculation: Draft() needs a draft model, and none is given"
                if draft is None
                else f"a draft model is given, and engine.speculation={speculation} does not use it; set it to Draft()"
            )
        if speculation is None:
            return None
        check_rolls_back(self._config, "the model")
        if isinstance(speculation, NGram):
            return NGramProposer(speculation)
        if isinstance(speculation, Modules):
            return ModulesProposer(speculation, self._config)
        assert draft is not None
        proposer = DraftProposer(draft, self._config, self.options, self.capacity.longest_text, self._layout)
        total = self.capacity.cache_bytes + proposer.cache_bytes
        self.capacity = dataclasses.replace(self.capacity, cache_bytes=total)
        return proposer

    # ------------------------------------------------------------------------------------------------------ requests

    @property
    def num_unfinished(self) -> int:
        """The number of requests whose last update is still to come."""
        return len(self._texts) + len(self._cancelled)

    @property
    def statistics(self) -> EngineStatistics:
        """The counts until now."""
        scheduler = self._scheduler
        return dataclasses.replace(
            self._statistics,
            prefix_tokens=scheduler.prefix_tokens,
            preemptions=scheduler.preemptions,
            evictions=sum(pool.evictions for pool in scheduler.pools),
            pages_in_use=sum(pool.num_pages - pool.available for pool in scheduler.pools),
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
        )

    def submit(self, request: Request) -> int:
        """Adds a request. Returns its number, for updates.

        Raises:
          UserError: for invalid options, and for a request that this engine can never serve.
        """
        check(request.sampling, "sampling")
        for name, problem in request.problems():
            raise UserError(f"request.{name}: {problem}")
        prompt, new = request.prompt, request.sampling.max_tokens
        check_ids("request.prompt:", prompt, self._vocab_size)
        check_source(self._plan.sources, request, self._vocab_size)
        check_ids("request.logit_bias:", tuple(request.logit_bias), self._vocab_size)
        for name in ("num_logprobs", "num_prompt_logprobs"):
            if (getattr(request, name) or 0) > self._num_likeliest:
                raise UserError(
                    f"request.{name}: this engine gives at most {self._num_likeliest} likeliest tokens, got "
                    f"{getattr(request, name)}; ask for fewer, or raise engine.max_logprobs"
                )
        if self.options.only_scores and not request.only_scores:
            raise UserError("request.only_scores: this engine chooses no token; set it, or engine.only_scores=False")
        check_length("the prompt", prompt[1:] if request.only_scores else prompt, self._context)
        room = self._context - len(prompt) + 1  # the last token needs no place in the cache
        budget = 0 if request.only_scores else min(new, room)
        if (needed := len(prompt) + budget - 1) > self.capacity.longest_text:
            raise UserError(
                f"the prompt of {len(prompt)} tokens with {budget} new ones needs {needed} places in the cache, and "
                f"the cache has {self.capacity.longest_text}; ask for fewer tokens, or raise engine.cache_tokens"
            )
        follower = None
        if request.constraint is not None:
            ends = (*request.stop_tokens, *([] if request.end is None else [request.end]))
            follower = Follower(request.constraint, ends, self._vocab_size)
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        pages: list[list[int]] = [[] for _ in self._plan.reaches]
        reason: EndedBy = "max_tokens" if request.only_scores or budget == new else "context"
        text = Text(number, request, budget, reason, list(prompt), pages, follower=follower)
        self._texts[number] = text
        self._scheduler.add(text)
        return number

    def cancel(self, request_id: int) -> None:
        """Ends a request; its last update comes with the next step. Without effect if it is unknown or has ended."""
        if (text := self._texts.pop(request_id, None)) is not None:
            self._forget(text)
            text.ended_by = "cancelled"
            self._cancelled.append(text)

    def replace_params(self, params: Params | PreparedParams) -> None:
        """Takes other parameters of the same model, as after a step of training, and forgets the pages of ended texts.

        Raises:
          UserError: while requests are unfinished, which would mix two models.
        """
        if self.num_unfinished:
            raise UserError(
                f"{self.num_unfinished} requests are unfinished; finish or cancel them before new parameters"
            )
        self._device.replace_params(prepare_params(self._config, params, self._layout).params)
        for pool in self._scheduler.pools:
            pool.forget()

    # --------------------------------------------------------------------------------------------------------- steps

    def compile(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compiles all programs, so that later steps compile none; without this call the first step does it.

        It also tries them on a few tokens (`is_exact`). `progress` is called with the programs done, and of all.

        Raises:
          UserError: if results depend on a row's place and the options are invariant.
        """
        if self._device.is_exact is not None:
            return
        parts: list[TriedDevice | Proposer] = (
            [self._device] if self._proposer is None else [self._device, self._proposer]
        )
        total = sum(part.num_programs for part in parts)
        before = 0

        def show(done: int, _: int) -> None:
            if progress is not None:
                progress(before + done, total)

        for part in parts:
            part.compile(show)
            before += part.num_programs

    @property
    def is_exact(self) -> bool | None:
        """Whether all programs gave the same results for the same tokens, to the bit; None before they are compiled."""
        return self._device.is_exact

    def step(self) -> list[Update]:
        """Calls the programs once. Returns the new tokens that are known, and the requests that ended.

        The tokens of a call may be known with the next (see the module docstring). Returns [] if there is no request.
        """
        self.compile()
        updates = [Update(text.request_id, (), ended_by="cancelled") for text in self._cancelled]
        self._cancelled.clear()
        plan = self._scheduler.plan()
        self._statistics.source_tokens += self._device.read_sources(plan.sources)
        if not plan.decoding and not plan.reading:
            assert plan.sources or not self._texts or self._in_flight is not None, "requests wait and none can run"
            return updates + self._land()
        self._statistics.steps += not plan.decoding
        updates += self._read(plan.reading)
        self._propose(plan.decoding, self.options.tokens_per_step - sum(span.count for span in plan.reading))
        return updates + self._decode(plan.decoding, alone=not plan.reading and not plan.sources)

    def _read(self, spans: list[Span]) -> list[Update]:
        """Reads parts of prompts, and keeps the scores that are asked for; returns updates of texts that end so."""
        counts = [self._device.unscored(span) for span in spans]
        both = list(zip(spans, counts, strict=True))
        self._device.read([Span(span.sequence, span.first, count) for span, count in both if count])
        scored = [Span(s.sequence, s.first + count, s.count - count) for s, count in both if count < s.count]
        for part in self._device.score(scored):
            text, first = part.span.sequence, part.span.first
            while (place := text.next_score) is not None and place <= first + part.span.count:
                at = part.row, place - 1 - first
                text.scores.append(token_score(text.tokens[place], part.scores, at, text.request.num_prompt_logprobs))
        for span in spans:
            self._statistics.prompt_tokens += span.count
            self._scheduler.was_read(span.sequence, span.count)
        ended = [text for span in spans if (text := span.sequence).request.only_scores and text.next_score is None]
        for text in ended:
            text.ended_by = text.budget_ends_by
            self._forget(text)
            del self._texts[text.request_id]
        return [Update(text.request_id, (), tuple(text.scores), text.ended_by) for text in ended]

    def _propose(self, texts: list[Text], budget: int) -> None:
        """Guesses the next tokens of texts, as many as the budget of the step leaves and the free pages hold.

        Texts that are yet to be read are shown too: a draft reads them in the meantime.
        """
        if self._proposer is None:
            return
        left, counts = budget - len(texts), []
        for text in texts:
            counts.append(min(self._most_guesses(text), left))
            left -= counts[-1]
        others = [text for text in self._scheduler.running if text not in texts]
        proposed = self._proposer.propose(texts + others, counts + [0] * len(others))
        for text, guesses in zip(texts, proposed[: len(texts)], strict=True):
            text.propose(guesses[: self._scheduler.lengthen(text, len(guesses))])

    def _most_guesses(self, text: Text) -> int:
        """Returns how many tokens may be guessed: fewer than its budget, and none after its positions change."""
        assert self.options.speculation is not None
        most = max(0, min(self.options.speculation.tokens, text.budget - text.num_new - 1))
        lengths = range(len(text.tokens) + 1, len(text.tokens) + most + 1)
        changes = (i for i, n in enumerate(lengths) if any(position.changes_at(n) for position in self._positions))
        return next(changes, most)

    def _decode(self, texts: list[Text], *, alone: bool) -> list[Update]:
        """Reads the last token of every text, and the guesses after it; returns the updates that are known.

        These are those of the step before, and its own if the next step needs them. `alone` tells that the step reads
        no prompt; then it may go on for some tokens of every text.
        """
        if not texts:
            return self._land()
        waits = self._proposer is not None or bool(self._positions) or any(text.needs_tokens for text in texts)
        if waits:
            spans = [Span(text, len(text.tokens) - 1 + i, 1) for text in texts for i in range(1 + len(text.proposed))]
        else:
            steps = self._scheduler.steps(texts, self.options.steps_per_call if alone else 1)
            spans = [Span(text, len(text.tokens) - 1, count) for text, count in zip(texts, steps, strict=True)]
        self._statistics.steps += max(span.count for span in spans)
        decoding = self._device.decode(spans)
        updates = self._land()
        if waits:
            chosen = iter(decoding.chosen())
            of_texts = [[each for _ in range(1 + len(text.proposed)) for each in next(chosen)] for text in texts]
            both = zip(texts, of_texts, strict=True)
            return updates + [self._took(text, some) for text, some in both if text.ended_by is None]
        for span in spans:
            if (text := span.sequence).ended_by is None:
                self._scheduler.was_read(text, span.count)
                text.tokens += [ON_DEVICE] * span.count
                if self._scheduler.waiting and text.num_new == text.budget:
                    self._scheduler.remove(text)  # its last tokens are on their way, and others need its row
        self._in_flight = (texts, decoding) if self._texts else None
        return updates

    def _land(self) -> list[Update]:
        """Waits for the tokens that are on the device alone; returns the updates of texts that have not ended."""
        if self._in_flight is None:
            return []
        (texts, decoding), self._in_flight = self._in_flight, None
        updates = []
        for text, chosen in zip(texts, decoding.chosen(), strict=True):
            if text.ended_by is None:
                del text.tokens[-len(chosen) :]
                updates.append(self._took(text, chosen, was_read=True))
        return updates

    def _took(self, text: Text, chosen: list[Chosen], *, was_read: bool = False) -> Update:
        """Adds the tokens that were chosen after the last one; returns the update.

        `was_read` tells that the tokens before them are counted as read, and that each was chosen in a step of its own.
        Otherwise the first follows the last token, and the others the guesses: they count up to the first wrong guess.
        """
        if not was_read:
            chosen = chosen[: accepted(text.proposed, [each.token for each in chosen]) + 1]
        self._statistics.proposed_tokens += len(text.proposed)
        text.proposed, new = [], []
        for each in chosen:
            text.by_modules = each.guesses
            new.append(token_score(each.token, each.scores, each.at, text.request.num_logprobs))
            text.add(new[-1])
            if text.ended_by is not None:
                break
        self._statistics.text_steps += len(new) if was_read else 1
        self._statistics.accepted_tokens += 0 if was_read else min(len(chosen) - 1, len(new))
        self._scheduler.was_read(text, 0 if was_read else len(new))
        self._statistics.new_tokens += len(new)
        prompt = None
        if text.request.num_prompt_logprobs is not None and not text.scores_sent:
            prompt, text.scores_sent = tuple(text.scores), True
        if text.ended_by is not None:
            self._forget(text)
            del self._texts[text.request_id]
        elif any(position.changes_at(len(text.tokens)) for position in self._positions):
            self._scheduler.give_way(text)  # its keys are those of a shorter text
        return Update(text.request_id, tuple(new), prompt, text.ended_by)

    def _forget(self, text: Text) -> None:
        """Lets go of a text that ended."""
        self._scheduler.remove(text)
        if self._proposer is not None:
            self._proposer.forget(text)
