"""Decides what each step reads: which requests run, which give way, and the pages of their tokens.

The requests are served by rank: priority, then arrival. A step first takes a token of every running request whose text
was read (it decodes), then reads parts of prompts, while the budget lasts. If pages run out, the running request of the
highest rank number gives way: it loses its pages and waits, and its tokens are read again later. So the first request
always goes on. A source is read when its request gets a row, as many in a step as the budget allows, and at least one.

Full pages are shared: a request takes a page that is known in place of reading its tokens. Of several requests that are
about to read the same page, one reads it and the others wait a step for it, so that samples of one prompt read it once,
except for the tokens of its last page, which is not full. A page is written by one request alone, hence never copied.
"""

import collections
import dataclasses

from model.inference.engine.page_pool import NO_PAGE, PagePool
from model.inference.engine.sequence import Sequence


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens of a text to read in one step, known or proposed."""

    sequence: Sequence
    first: int
    count: int

    @property
    def tokens(self) -> list[int]:
        """Its ids."""
        return self.sequence.known_or_proposed(self.first, self.first + self.count)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step reads.

    Attributes:
      sources: the requests whose source it reads, before all else.
      decoding: the requests of which it reads the last token, to choose the next.
      reading: the parts of prompts, and of the texts of requests that gave way, that it reads.
    """

    sources: list[Sequence]
    decoding: list[Sequence]
    reading: list[Span]


class Scheduler:
    """The waiting and the running requests, and the pages."""

    def __init__(
        self, rows: int, tokens_per_step: int, page_size: int, pools: list[PagePool], reaches: list[int | None],
        *, shares: bool,
    ) -> None:  # fmt: skip
        """Makes a scheduler without requests.

        Args:
          rows, tokens_per_step, page_size: see `EngineOptions`.
          pools: the pages of every group of layers.
          reaches: for every group, how many of the last tokens its queries see; None for all.
          shares: whether requests may share pages.
        """
        self.rows, self.tokens_per_step, self.page_size = rows, tokens_per_step, page_size
        self.pools, self.shares = pools, shares
        self._groups = list(zip(pools, reaches, strict=True))
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = self.prefix_tokens = 0

    # ------------------------------------------------------------------------------------------------------ requests

    def add(self, sequence: Sequence) -> None:
        """Takes a new request."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Lets go of a request that ended, if it is still here; its full pages stay known."""
        if sequence.row is not None:
            self._stop(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def give_way(self, sequence: Sequence) -> None:
        """Stops a running request, whose tokens are then read again."""
        self._stop(sequence)
        self.waiting.append(sequence)
        self.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        for pool, pages in zip(self.pools, sequence.pages, strict=True):
            for page in reversed(pages):  # the first pages of a text are the last to be dropped
                if page != NO_PAGE:
                    pool.release(page)
            pages.clear()
        self.running.remove(sequence)
        sequence.row, sequence.num_read, sequence.num_published = None, 0, 0
        sequence.source_read = sequence.request.source is None

    # ---------------------------------------------------------------------------------------------------------- plans

    def plan(self) -> Plan:
        """Chooses the tokens of the next step, and gives them pages."""
        self._admit()
        sources = self._sources()
        own_pages = {each: self._share(each) for each in self._by_rank(self.running)}
        decoding = [each for each in self._by_rank(self.running) if each.may_decode]
        decoding = [each for each in decoding if each.row is not None and self._make_room(each, len(each.tokens))]
        decoding = [each for each in decoding if each.row is not None]  # later ones may have given way
        budget, claimed = self.tokens_per_step - len(decoding) - _source_tokens(sources), set[bytes]()
        reading: list[Span] = []
        for each in self._by_rank(self.running):
            if each.row is None or budget < 1 or each.num_to_read == 0 or not each.source_read:
                continue
            if (own := own_pages[each]) in claimed:
                continue
            count = min(each.num_to_read, budget)
            if count < each.num_to_read and count > self.page_size:
                count -= (each.num_read + count) % self.page_size  # the next tokens may be shared from a full page on
            if not self._make_room(each, each.num_read + count):
                continue
            claimed |= set() if own is None else {own}
            reading.append(Span(each, each.num_read, count))
            budget -= count
        return Plan(
            [each for each in sources if each.row is not None],
            [each for each in decoding if each.row is not None],
            [span for span in reading if span.sequence.row is not None],
        )

    def lengthen(self, sequence: Sequence, count: int) -> int:
        """Gives pages to guesses after a running text, as far as any are left; returns those that have a place."""
        for pool, pages in zip(self.pools, sequence.pages, strict=True):
            while len(pages) * self.page_size < len(sequence.tokens) + count and pool.available:
                pages.append(pool.take())
            count = min(count, len(pages) * self.page_size - len(sequence.tokens))
        return count

    def steps(self, decoding: list[Sequence], most: int) -> list[int]:
        """Returns how many tokens each text decodes before the next plan, at most `most`, and gives them pages.

        If requests wait, that is until the first text has all of its tokens, so that no row is idle.
        """
        left = [each.budget - each.num_new for each in decoding]
        most = min(most, *left) if self.waiting else min(most, max(left))
        for each, own in zip(decoding, left, strict=True):
            if (wanted := min(most, own) - 1) > (held := self.lengthen(each, wanted)):
                most = held + 1
        return [min(most, own) for own in left]

    def was_read(self, sequence: Sequence, count: int) -> None:
        """Counts tokens that the cache now holds, lets others find full pages, and drops those before windows.

        Tokens that the host does not know yet may be among them; their pages are found after a later call.
        """
        sequence.num_read += count
        known = min(sequence.num_read, sequence.num_known)
        for index in range(sequence.num_published, known // self.page_size if self.shares else 0):
            digest = sequence.digest(index, self.page_size)
            for pool, pages in zip(self.pools, sequence.pages, strict=True):
                if pages[index] != NO_PAGE:
                    pool.publish(pages[index], digest)
            sequence.num_published = index + 1
        for (pool, reach), pages in zip(self._groups, sequence.pages, strict=True):
            for index in range(self._first_page(sequence.num_read, reach)):
                if pages[index] != NO_PAGE:
                    pool.release(pages[index])
                    pages[index] = NO_PAGE

    def check(self) -> None:
        """Asserts that no page is lost and no reference is wrong."""
        for group, pool in enumerate(self.pools):
            pages = (page for each in self.running for page in each.pages[group] if page != NO_PAGE)
            pool.check(collections.Counter(pages))
        assert not any(any(each.pages) or each.num_read for each in self.waiting), "a waiting request holds pages"
        rows = [each.row for each in self.running]
        assert len(set(rows) - {None}) == len(rows) <= self.rows, "rows"

    # ---------------------------------------------------------------------------------------------------------- parts

    @staticmethod
    def _by_rank(sequences: list[Sequence]) -> list[Sequence]:
        return sorted(sequences, key=lambda each: each.rank)

    def _admit(self) -> None:
        """Gives rows to waiting requests for which there is room, and takes them from others of lower priority."""
        for each in self._by_rank(self.waiting):
            while self.running and not (len(self.running) < self.rows and self._has_room(each)):
                last = self._by_rank(self.running)[-1]
                if last.request.priority <= each.request.priority:
                    return  # those after it wait too
                self.give_way(last)
            self.waiting.remove(each)
            each.row = min(set(range(self.rows)) - {other.row for other in self.running})
            self.running.append(each)

    def _sources(self) -> list[Sequence]:
        """Chooses the sources of the next step: the first by rank, and others that its tokens leave room for."""
        chosen: list[Sequence] = []
        for each in self._by_rank(self.running):
            if each.source_read:
                continue
            if chosen and _source_tokens([*chosen, each]) > self.tokens_per_step:
                break
            each.source_read = True
            chosen.append(each)
        return chosen

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether the pages suffice for all tokens of a waiting request and of the running ones."""
        for group, (pool, reach) in enumerate(self._groups):
            needed = self._pages_of(len(sequence.tokens), reach)
            if self.shares and reach is None:
                full = range((len(sequence.tokens) - 1) // self.page_size)
                for index in full:
                    page = pool.find(sequence.digest(index, self.page_size))
                    if page is None:
                        break
                    needed -= pool.references[page] > 0  # others hold it: it takes no room
            held = (sum(page != NO_PAGE for page in each.pages[group]) for each in self.running)
            wanted = (self._pages_of(len(each.tokens), reach) for each in self.running)
            promised = sum(max(0, w - h) for w, h in zip(wanted, held, strict=True))
            if needed + promised > pool.available:
                return False
        return True

    def _pages_of(self, num_tokens: int, reach: int | None) -> int:
        """Returns the most pages that a text of this length holds at once, while a step reads it."""
        whole = -(-num_tokens // self.page_size)
        return whole if reach is None else min(whole, pages_of_window(reach, self.tokens_per_step, self.page_size))

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Gives a request pages for its first tokens; others give way. Returns False if it gave way itself."""
        for group, pool in enumerate(self.pools):
            pages = sequence.pages[group]
            while len(pages) * self.page_size < num_tokens:
                while pool.available == 0:
                    last = self._by_rank(self.running)[-1]
                    self.give_way(last)
                    if last is sequence:
                        return False
                pages.append(pool.take())
        return True

    def _share(self, sequence: Sequence) -> bytes | None:
        """Takes the known pages of the next tokens; returns the digest of the next page if it is yet to be read."""
        if not self.shares or sequence.num_to_read == 0 or sequence.num_read % self.page_size:
            return None
        most = len(sequence.tokens) - 1
        if sequence.next_score is not None:  # the token before it is read, for its logits
            most = min(most, sequence.next_score - 1)
        full = most // self.page_size
        first = end = sequence.num_read // self.page_size
        windows = [group for group, (_, reach) in enumerate(self._groups) if reach is not None]
        for last in range(first, full):
            digest = sequence.digest(last, self.page_size)
            if any(reach is None and pool.find(digest) is None for pool, reach in self._groups):
                break
            if all(self._knows_window(sequence, group, last + 1) for group in windows):
                end = last + 1
        for group, (pool, reach) in enumerate(self._groups):
            pages = sequence.pages[group]
            for index in range(first, end):
                page = pool.find(sequence.digest(index, self.page_size))
                if index < self._first_page(end * self.page_size, reach) or page is None:
                    pages.append(NO_PAGE)
                else:
                    pool.retain(page)
                    pages.append(page)
        if end > first:
            self.prefix_tokens += (end - first) * self.page_size
            sequence.num_published = end
            self.was_read(sequence, (end - first) * self.page_size)
        return sequence.digest(end, self.page_size) if end < full else None

    def _knows_window(self, sequence: Sequence, group: int, end: int) -> bool:
        """Whether all pages are known or held that queries after the first `end` pages see in a group with windows."""
        (pool, reach), pages = self._groups[group], sequence.pages[group]
        for index in range(self._first_page(end * self.page_size, reach), end):
            held = index < len(pages) and pages[index] != NO_PAGE
            if not held and pool.find(sequence.digest(index, self.page_size)) is None:
                return False
        return True

    def _first_page(self, num_read: int, reach: int | None) -> int:
        """Returns the first page that the query after `num_read` tokens sees."""
        return 0 if reach is None else max(0, num_read - reach + 1) // self.page_size


def _source_tokens(sequences: list[Sequence]) -> int:
    return sum(len(each.request.source or ()) for each in sequences)


def pages_of_window(reach: int, tokens_per_step: int, page_size: int) -> int:
    """Returns the most pages that a text holds in layers that see `reach` tokens, while a step reads some."""
    return -(-(reach + tokens_per_step) // page_size) + 1
