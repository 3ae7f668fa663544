import threading

import pytest

from train.data.batches.prefetch import BLOCK_TOKENS, read_ahead


@pytest.mark.parametrize("tokens", [1, BLOCK_TOKENS // 3, 2 * BLOCK_TOKENS])
@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_values_come_in_order_and_each_once(tokens, prefetch):
    asked = []
    values = read_ahead(lambda n: asked.append(n) or n * n, range(3, 20), tokens, prefetch)
    assert list(values) == [n * n for n in range(3, 20)]
    assert asked == list(range(3, 20))


def test_without_prefetch_no_value_is_computed_before_it_is_asked_for():
    asked = []
    values = read_ahead(lambda n: asked.append(n) or n, range(10), BLOCK_TOKENS, 0)
    assert [next(values), next(values)] == [0, 1]
    assert asked == [0, 1]
    values.close()


def test_a_thread_computes_values_ahead_of_the_caller():
    third = threading.Event()
    values = read_ahead(lambda n: third.set() if n == 2 else n, range(100), BLOCK_TOKENS, 4)
    assert next(values) == 0
    assert third.wait(timeout=60)  # nobody has asked for it yet
    values.close()


def test_an_error_reaches_the_caller():
    def fail(n):
        if n == 2:
            raise ValueError("no batch 2")
        return n

    values = read_ahead(fail, range(10), BLOCK_TOKENS, 2)
    with pytest.raises(ValueError, match="no batch 2"):
        list(values)
