"""Configs that compute the same agree; one that does not is found, and its layer named."""

import math

import numpy as np
import pytest

from train.lab.parity.inputs import Inputs
from train.lab.parity.parity import Parity, TensorDifference, _difference, bound_of, compare_configs

INPUTS = Inputs(documents=2, batch_size=8)


@pytest.fixture(scope="module")
def same(tiny_experiment):
    """The base, and the same with another kernel, mesh, kind of loop, remat and number of micro-batches."""
    base = tiny_experiment(mesh="Mesh(data=1)")
    other = tiny_experiment(
        mesh="Mesh(data=1, fsdp=4)",
        model__kernels__attention="('plain',)",
        model__scan_layers=False,
        model__remat="full",
        training__gradient_accumulation=2,
    )
    return compare_configs(base, other, INPUTS)


def test_another_kernel_mesh_loop_and_remat_agree(same):
    assert same.agree
    assert (same.first, same.first_gradient) == (None, None)
    assert [(item.place, item.tensor) for item in same.stream] == [
        ("embedding", "stream"),
        ("layer 0", "stream"),
        ("layer 1", "stream"),
        ("final norm", "stream"),
        ("unembedding", "logits"),
    ]
    assert [item.place for item in same.gradients] == ["embedding", "layer 0", "layer 1", "final_norm"]
    assert max(item.largest for item in [*same.stream, *same.gradients]) < same.bound / 5
    assert max(item.largest for item in same.gradients) > 0  # they are other programs
    assert same.losses[0] == pytest.approx(same.losses[1], rel=1e-6)
    assert same.shape == (8, 16)
    assert "plain" in same.kernels[1][0]


def test_the_layer_that_differs_is_named_although_layers_are_grouped_otherwise(tiny_experiment):
    base = tiny_experiment(mesh="Mesh(data=1)")
    exceptions = "(Except(layers='1', position=Rotary(theta=9000.0)),)"
    found = compare_configs(base, tiny_experiment(mesh="Mesh(data=1)", model__exceptions=exceptions), INPUTS)
    assert not found.agree
    assert found.first.place == "layer 1"
    assert [item.largest == 0 for item in found.stream[:2]] == [True, True]
    assert found.first.largest > 10 * found.bound
    assert found.as_json()["first"] == "layer 1"


def parity(stream, gradients=(), bound=1.0):
    items = [[TensorDifference(f"layer {n}", "stream", *x) for n, x in enumerate(x)] for x in (stream, gradients)]
    return Parity(
        bound=bound,
        bound_in_words="",
        stream=items[0],
        gradients=items[1],
        losses=(0.0, 0.0),
        shape=(1, 1),
        kernels=([], []),
    )


def test_which_differences_count():
    assert parity([(1.0, 0.125)]).agree
    assert parity([(0.5, 0.1), (1.1, 0.1), (9.0, 1.0)]).first.place == "layer 1"
    assert parity([(0.5, 0.13)]).first.place == "layer 0"  # many small ones
    assert parity([(math.nan, math.nan)]).first.place == "layer 0"
    found = parity([(0.5, 0.1)], [(0.1, 0.1), (3.0, 0.1), (2.0, 0.1), (0.1, 0.1)])
    assert not found.agree
    assert (found.first, found.first_gradient.place) == (None, "layer 2")


def test_a_difference_is_in_deviations_and_padding_does_not_count():
    a = np.random.default_rng(0).normal(0, 5, (4, 6, 3)).astype(np.float32)
    b = a.copy()
    real = np.ones((4, 6), bool)
    assert _difference("x", "y", a, b, real) == TensorDifference("x", "y", 0.0, 0.0)
    b[1, 2, 0] += 10
    found = _difference("x", "y", a, b, real)
    deviation = a.astype(np.float64).std()
    assert found.largest == pytest.approx(10 / deviation, rel=1e-6)
    assert found.typical == pytest.approx(10 / math.sqrt(a.size) / deviation, rel=1e-6)
    real[1, 2] = False
    assert _difference("x", "y", a, b, real).largest == 0
    assert _difference("x", "y", np.zeros(3), np.full(3, 1e-3)).largest > 1e100
    assert _difference("x", "y", np.full(3, 2.0), np.full(3, 3.0)).largest == 0.5  # equal numbers: their size
    assert math.isnan(_difference("x", "y", a, b * np.nan).largest)


def test_a_large_row_of_a_gradient_is_measured_by_its_own_size():
    """The rounding of a frequent token's row is no mistake, and a row twice as large as it should be is one."""
    table = np.full((100, 4), 0.01) * [1, -1, 1, -1]
    table[7] *= 1000
    other = table.copy()
    other[7] *= 1.01
    assert _difference("x", "y", table, other).largest == pytest.approx(0.1, rel=0.01)
    assert _difference("x", "y", table, other, by_row=True).largest == pytest.approx(0.01)
    other[3] *= 3
    assert _difference("x", "y", table, other, by_row=True).largest == pytest.approx(0.02, rel=0.03)
    other[7] *= 2
    assert _difference("x", "y", table, other, by_row=True).largest > 1


def test_the_bound_is_that_of_the_coarser_format(tiny_experiment):
    fine, coarse = tiny_experiment(), tiny_experiment(model__precision__compute="bfloat16")
    assert bound_of(fine, fine) == (1024 * 2.0**-23, "1024 x 2^-23, for float32 on a cpu")
    assert bound_of(fine, coarse) == bound_of(coarse, fine) == (1.0, "128 x 2^-7, for bfloat16 on a cpu")
