"""The pages of a pool: which are free, which hold tokens that others may share, and which are dropped first.

A page that is full never changes again, so all texts that begin with the same tokens can share it. A shared page is found
by the digest of its tokens and of all tokens before them. A page without references stays known until another text
needs its place; the page released longest ago goes first.
"""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

from model.errors import UserError

NO_PAGE = -1  # in place of a page that no query sees any more


class PagePool:
    """The counts of one pool. A page is its number."""

    def __init__(self, num_pages: int) -> None:
        """Args: the number of pages."""
        if num_pages < 1:
            raise UserError(f"a pool needs at least 1 page, got {num_pages}")
        self.num_pages = num_pages
        self.references = [0] * num_pages
        self.evictions = 0
        self._free = list(range(num_pages - 1, -1, -1))
        self._digests: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        self._unused: collections.OrderedDict[int, None] = collections.OrderedDict()  # known pages without references

    @property
    def available(self) -> int:
        """The number of pages that `take` can give."""
        return len(self._free) + len(self._unused)

    def take(self) -> int:
        """Returns a page with one reference; the caller has seen that one is available."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._unused.popitem(last=False)
            del self._known[self._digests.pop(page)]
            self.evictions += 1
        assert self.references[page] == 0
        self.references[page] = 1
        return page

    def retain(self, page: int) -> None:
        """Adds a reference to a page that `find` gave."""
        self._unused.pop(page, None)
        self.references[page] += 1

    def release(self, page: int) -> None:
        """Drops a reference. A known page without references is the last to be dropped."""
        assert self.references[page] > 0, f"page {page} has no references"
        self.references[page] -= 1
        if self.references[page] == 0:
            if page in self._digests:
                self._unused[page] = None
            else:
                self._free.append(page)

    def publish(self, page: int, digest: bytes) -> None:
        """Lets others find a full page; without effect if another page with these tokens is known."""
        if digest not in self._known and page not in self._digests:
            self._known[digest], self._digests[page] = page, digest

    def find(self, digest: bytes) -> int | None:
        """Returns the page with these tokens, or None."""
        return self._known.get(digest)

    def check(self, references: collections.Counter[int]) -> None:
        """Asserts that the pages have the references that texts hold, and that no page is lost."""
        assert all(self.references[page] == references[page] for page in range(self.num_pages)), "references"
        in_use = sum(count > 0 for count in self.references)
        assert in_use + self.available == self.num_pages, "a page is lost"
        assert len(set(self._free) | set(self._unused)) == self.available, "a page is free twice"
        assert {page: digest for digest, page in self._known.items()} == self._digests, "known pages"


def next_digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """Returns the digest of a page, from that of the page before it (b"" for none) and its tokens."""
    return hashlib.sha256(before + np.asarray(tokens, np.int32).tobytes()).digest()
