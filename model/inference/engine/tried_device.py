"""A device whose programs are compiled ahead, and tried: the same tokens must give the same bits in all of them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.errors import UserError
from model.inference.engine.device import PROBE, Device
from model.inference.engine.programs import Scores
from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.sources import NAME


class TriedDevice(Device):
    """See the module docstring."""

    @property
    def num_programs(self) -> int:
        """The programs of which `compile` tells."""
        sources = 0 if self._plan.sources is None else len(self._plan.sources.all_slots())
        return sources + (1 if self._invariant else len(self._decode_sizes) + 2)

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compiles all programs, and tries whether they give the same results for the same tokens.

        On a CPU it takes the largest programs that do. `progress` is called with the programs done, and of all.

        Raises:
          UserError: if the only program of an invariant engine gives other results in other rows.
        """
        if self._invariant:
            self._compile_one()
            return progress(self.num_programs, self.num_programs)
        sizes, total = list(self._decode_sizes), self.num_programs
        count = min(PROBE, self._plan.longest_text)
        chooses, all_agree = self._layout.platform == "cpu", True
        if sizes:
            [whole], [first] = self._probe_decode(sizes[0], count), self._probe_decode(sizes[0], 1)
        else:
            whole = self._probe_read(count)[0]
        for done, size in enumerate(sizes):
            agrees = _equal(first, self._probe_decode(size, 1)[0])
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
        self._compile_sources()
        progress(total, total)
        self._clear()
        self.is_exact = agrees and (all_agree or chooses)

    def _compile_one(self) -> None:
        """Compiles the only program, and tries a text alone, in all rows at once, and with its tokens side by side."""
        count, size = min(PROBE, self._plan.longest_text), self._decode_sizes[0]
        [alone], in_all_rows = (self._probe_decode(size, count, copies) for copies in (1, size))
        self._compile_sources()
        found = in_all_rows if self._plan.has_states else [*in_all_rows, self._probe_side_by_side(count)]
        self._clear()
        if not all(_equal(alone, each) for each in found):  # so that a later call raises it again
            raise UserError(
                f"engine.invariant: on this {self._layout.platform} the results of a row depend on its place or on the "
                f"other rows (a program of {size} rows, {count} tokens tried); try other engine.rows, fewer devices, "
                "or set engine.invariant=False"
            )
        self.is_exact = True

    def _compile_sources(self) -> None:
        for slots in () if self._plan.sources is None else self._plan.sources.all_slots():
            self._source_program(self._source_inputs(slots, 0, ()))

    def _probe_decode(self, size: int, count: int, copies: int = 1) -> list[dict[str, Any]]:
        """Reads a text with the program of `size` rows; returns its scores in each row, and its part of the cache."""
        text, sizes = self._begun_text(count), self._decode_sizes
        tokens, text.tokens, self._decode_sizes = text.tokens, [], [size]
        scores: list[list[Scores]] = [[] for _ in range(copies)]
        for token in tokens:
            text.tokens.append(token)
            chosen = self.decode([Span(text, len(text.tokens) - 1, 1)] * copies).chosen()
            for of_copy, [each] in zip(scores, chosen, strict=True):
                of_copy.append(each.own_scores())
        self._decode_sizes = sizes
        return [self._results(text, of_copy) for of_copy in scores]

    def _probe_side_by_side(self, count: int) -> dict[str, Any]:
        """Reads a text with the program that decodes, a token a row; returns its results."""
        text = self._begun_text(count)
        chosen = self.decode([Span(text, first, 1) for first in range(count)]).chosen()
        return self._results(text, [each.own_scores() for [each] in chosen])

    def _probe_read(self, count: int) -> list[dict[str, Any]]:
        """Reads a text with the programs that read and that score; returns the results of each."""
        results = []
        for run in (self.read, self.score):
            text = self._begun_text(count)
            text.tokens.append(0)  # the last score is that of some token
            parts = run([Span(text, 0, count)])
            places = [(part, place) for part in parts or () for place in range(part.span.count)]
            scores = [jax.tree.map(lambda x, part=part, t=t: x[part.row, t], part.scores) for part, t in places]
            results.append(self._results(text, scores))
        return results

    def _results(self, text: Text, scores: list[Scores]) -> dict[str, Any]:
        used = max([1, *(len(pages) for pages in text.pages)])
        names = [name for name in self._state if not name.startswith(NAME)]
        layers = {name: self._state[name] for name in names if int(name) < self._config.num_layers}  # no modules
        cached = jax.tree.map(lambda x: np.asarray(x[:used]), layers)
        return {"cached": cached, "scores": [(each.likeliest, each.likeliest_logprob) for each in scores]}

    def _begun_text(self, count: int) -> Text:
        """Returns a text of random tokens for empty arrays, which have its source."""
        text = self._probe_text(count)
        self._clear()
        if self._plan.sources is not None:
            self.read_sources([text])
        return text


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results have the same bits; scores that one of them lacks are not compared."""
    one, other = ({name: x for name, x in each.items() if one[name] and other[name]} for each in (one, other))
    equal = jax.tree.map(np.array_equal, one, other)
    return all(jax.tree.leaves(equal))
