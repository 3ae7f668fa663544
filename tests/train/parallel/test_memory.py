import ml_dtypes
import numpy as np
import pytest

from train.parallel import memory
from train.parallel.memory import ALIGNMENT, Memory, aligned, copy


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("shape", [(3, 5, 700), (300, 2, 3), (1, 400, 9), (0, 3, 2)])
@pytest.mark.parametrize(
    "formats", [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")]
)
@pytest.mark.parametrize("many", [1, 1 << 20])
def test_a_copy_has_the_same_numbers_in_any_order_of_axes(order, shape, formats, many, monkeypatch):
    monkeypatch.setattr(memory, "MANY_BYTES", many)  # with threads, and without
    source, wanted = map(np.dtype, formats)
    x = np.random.default_rng(0).normal(size=shape).astype(source).transpose(order)
    target = np.full(x.shape, -1, wanted)
    copy(target, x)
    np.testing.assert_array_equal(target, x.astype(wanted))


def test_copies_of_single_numbers_and_of_every_other_one():
    target = np.zeros((), ml_dtypes.bfloat16)
    copy(target, np.array(3, ml_dtypes.bfloat16))
    assert target == 3
    x, wide = np.arange(40, dtype=np.float32).reshape(4, 10), np.zeros((4, 5), np.float32)
    copy(wide, x[:, ::2])
    np.testing.assert_array_equal(wide, x[:, ::2])


def test_memory_is_used_again_and_aligned():
    one = Memory()
    first = one.take(100)
    assert one.take(50).ctypes.data == first.ctypes.data
    assert len(one.take(200)) == 200
    for shape in ((3,), (7, 5), ()):
        x = aligned(shape, ml_dtypes.bfloat16)
        assert (x.shape, x.dtype, x.ctypes.data % ALIGNMENT) == (shape, ml_dtypes.bfloat16, 0)
