"""A run as the harness asks it: ids of texts, log-likelihoods of continuations, generated texts.

Begin tokens and truncation are those of the harness's Hugging Face backend (train/evaluation/harness/marks.py).
"""

from collections.abc import Callable, Sequence

import numpy as np

from model.errors import UserError
from model.inference.generate import generate, prepare_params
from train.evaluation.harness.marks import marks_of
from train.evaluation.harness.requests import Continuation, Generation, cut
from train.evaluation.harness.shared_prefixes import PrefixScorer
from train.evaluation.perplexity import default_batch_size
from train.evaluation.token_scores import compile_token_scores
from train.generation.texts import TextStream
from train.parallel import feed
from train.run.loading import LoadedRun

MIN_LENGTH = 32  # tokens of the shortest rows: every length of rows is a program to compile
GENERATED_TOGETHER = 16  # texts
Advance = Callable[[int], None]


def _ignore(count: int) -> None:
    pass


class HarnessModel:
    """A loaded run behind the functions that the harness needs.

    Attributes:
      max_length: the model's context.
      marks: the ids that begin and end texts.
    """

    def __init__(self, run: LoadedRun) -> None:
        """Args: the run. Raises UserError when its tokenizer has no mark that could come before a text."""
        self._run, self._tokenizer = run, run.tokenizer
        self._prefixes = PrefixScorer(run.experiment.model, run.params, run.layout)
        self.max_length, self.marks = run.experiment.model.context_length, marks_of(run)

    def encode(self, text: str, add_begin: bool | None = None) -> list[int]:
        """The ids of a text. None adds the begin token where the model is used to it, unless the text has it."""
        marks = self.marks
        given = marks.prefix_text is not None and text.startswith(marks.prefix_text)
        ids: list[int]
        if given:
            assert marks.prefix_text is not None
            ids = [marks.prefix, *self._tokenizer.encode(text[len(marks.prefix_text) :]).tolist()]
        else:
            ids = self._tokenizer.encode(text).tolist()
        add = marks.adds_begin and not given if add_begin is None else add_begin and marks.adds_begin
        return [marks.prefix, *ids] if add else ids

    def score(self, requests: Sequence[Continuation], advance: Advance = _ignore) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation in nats, and whether greedy decoding would give it.

        Contexts that are too long lose their beginning. The inference engine reads contexts that begin alike once,
        where this takes less time. Other requests are batched by length: rows are as long as the next power of two, so
        that few programs are compiled. `advance` is told of every scored request. Raises UserError for a continuation
        that is longer than the model's context.
        """
        for request in requests:
            if len(request.continuation) > self.max_length:
                raise UserError(
                    f"a continuation has {len(request.continuation)} tokens, more than the model's context of "
                    f"{self.max_length}; take a task with shorter ones"
                )
        texts = [self._ids(request) for request in requests]
        if self._prefixes.pays(texts, sum(map(self._row_length, requests))):
            return self._prefixes.score(texts, [len(request.continuation) for request in requests], advance)
        return self._score_batches(requests, advance)

    def _ids(self, request: Continuation) -> list[int]:
        """The ids of a request, of which the last is not read; a context that is too long loses its beginning."""
        return [*request.context, *request.continuation][-(self.max_length + 1) :]

    def _score_batches(self, requests: Sequence[Continuation], advance: Advance) -> list[tuple[float, bool]]:
        by_length: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            by_length.setdefault(self._row_length(request), []).append(number)
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for length in sorted(by_length, reverse=True):  # the largest batches come first: memory fails early or not
            numbers = by_length[length]
            size = self._rows(length, len(numbers))
            for first in range(0, len(numbers), size):
                some = numbers[first : first + size]
                for number, result in zip(
                    some, self._score_rows([requests[i] for i in some], size, length), strict=True
                ):
                    found[number] = result
                advance(len(some))
        return found

    def _row_length(self, request: Continuation) -> int:
        inputs = min(len(request.context) + len(request.continuation) - 1, self.max_length)
        return min(self.max_length, max(MIN_LENGTH, 1 << (inputs - 1).bit_length()))

    def _rows(self, length: int, count: int) -> int:
        """The rows of a batch: no more than there are, to the next power of two, on every device."""
        ways = self._run.layout.ways("batch")
        return ways * min(default_batch_size(length), 1 << (-(-count // ways) - 1).bit_length())

    def _score_rows(self, requests: Sequence[Continuation], size: int, length: int) -> list[tuple[float, bool]]:
        batch = {name: np.zeros((size, length), np.int32) for name in ("tokens", "targets", "segment_ids")}
        batch["positions"] = np.broadcast_to(np.arange(length, dtype=np.int32), (size, length))
        stops = []
        for row, request in enumerate(requests):
            ids = self._ids(request)
            stop = len(ids) - 1
            batch["tokens"][row, :stop], batch["targets"][row, :stop] = ids[:-1], ids[1:]
            batch["segment_ids"][row, :stop] = 1
            stops.append(stop)
        model, layout = self._run.experiment.model, self._run.layout
        placement = layout.placement(("batch", None))
        mine = feed.local_rows(placement, size)
        batch = {name: x[mine] for name, x in batch.items()}
        on_mesh = feed.to_devices(batch, placement, size, with_segments=model.reads_lengths)
        nll_BT, hits_BT = map(np.asarray, compile_token_scores(model, layout)(self._run.params, on_mesh))
        results = []
        for row, (request, stop) in enumerate(zip(requests, stops, strict=True)):
            scored = slice(stop - len(request.continuation), stop)
            results.append((-float(nll_BT[row, scored].sum(dtype=np.float64)), bool(hits_BT[row, scored].all())))
        return results

    def generate(
        self, requests: Sequence[tuple[str, Generation]], advance: Advance = _ignore, where: str = "the harness"
    ) -> list[str]:
        """The text after each context, before the first of its stop strings.

        A context loses its beginning if it leaves no room for the new tokens. Raises UserError for more new tokens than
        the model's context has.
        """
        groups: dict[Generation, list[int]] = {}
        for number, (_, generation) in enumerate(requests):
            groups.setdefault(generation, []).append(number)
        contexts = [self.encode(context) for context, _ in requests]
        found = [""] * len(requests)
        model, layout = self._run.experiment.model, self._run.layout
        params = prepare_params(model, self._run.params, layout)
        for generation, numbers in groups.items():
            room = self.max_length - generation.sampling.max_tokens
            if room < 1:
                raise UserError(
                    f"{where}: {generation.sampling.max_tokens} new tokens leave no room for a prompt in the model's "
                    f"context of {self.max_length}; set generation_kwargs.max_gen_toks of the task to fewer"
                )
            numbers = sorted(numbers, key=lambda i: -len(contexts[i]))
            ways = layout.ways("batch")
            size = -(-min(GENERATED_TOGETHER, len(numbers)) // ways) * ways
            for first in range(0, len(numbers), size):
                some = numbers[first : first + size]
                prompts = [contexts[i][-room:] or [self.marks.prefix] for i in some]
                streams = [TextStream(self._tokenizer, [], generation.until) for _ in some]

                def ended(row: int, token: int, streams: list[TextStream] = streams) -> bool:
                    streams[row].push(token)
                    return streams[row].stopped or token in self.marks.stops

                rows = generate(
                    model, params, prompts, generation.sampling, on_token=ended, layout=layout, row_multiple=size
                )
                for i, ids in zip(some, rows, strict=True):
                    kept = [token for token in ids if token not in self.marks.stops]
                    found[i] = cut(self._tokenizer.decode(kept), generation.until)
                advance(len(some))
        return found
