"""Pages: references, sharing, and which page makes room."""

import collections

import pytest

from model.errors import UserError
from model.inference.engine.page_pool import PagePool, next_digest


def test_a_known_page_is_found_until_its_place_is_needed():
    pool = PagePool(2)
    first, second = pool.take(), pool.take()
    assert pool.available == 0
    pool.publish(first, b"one")
    pool.release(first)
    assert pool.available == 1
    assert pool.find(b"one") == first
    pool.retain(first)
    pool.check(collections.Counter([first, second]))
    pool.release(first)
    assert pool.take() == first  # the only page without references
    assert pool.find(b"one") is None
    assert pool.evictions == 1


def test_unknown_pages_go_first_then_the_one_released_longest_ago():
    pool = PagePool(3)
    pages = [pool.take() for _ in range(3)]
    pool.publish(pages[0], b"a")
    pool.publish(pages[1], b"b")
    for page in (pages[1], pages[0], pages[2]):
        pool.release(page)
    assert [pool.take() for _ in range(3)] == [pages[2], pages[1], pages[0]]


def test_the_second_page_with_the_same_tokens_stays_unknown():
    pool = PagePool(2)
    pages = [pool.take(), pool.take()]
    for page in pages:
        pool.publish(page, b"same")
    assert pool.find(b"same") == pages[0]
    pool.release(pages[1])
    pool.release(pages[0])
    pool.forget()
    assert pool.find(b"same") is None
    pool.check(collections.Counter())


def test_a_lost_page_is_noticed():
    pool = PagePool(1)
    page = pool.take()
    with pytest.raises(AssertionError, match="references"):
        pool.check(collections.Counter())
    pool.release(page)
    with pytest.raises(AssertionError, match="no references"):
        pool.release(page)


def test_a_pool_has_pages():
    with pytest.raises(UserError, match="at least 1 page, got 0"):
        PagePool(0)


def test_digests_depend_on_all_tokens_before():
    one, other = next_digest(b"", [1, 2]), next_digest(b"", [2, 1])
    assert one != other
    assert next_digest(one, [3]) != next_digest(other, [3])
    assert next_digest(one, [3]) == next_digest(next_digest(b"", [1, 2]), [3])
