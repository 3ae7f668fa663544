import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE, Layout
from model.parameters import cpu_matmul
from model.parameters.projections import matmul


class Elsewhere(Layout):
    """The layout of one device of another platform."""

    platform = "tpu"


class InParts(Layout):
    """The layout of CPUs that split one axis."""

    def __init__(self, axis):
        object.__setattr__(self, "axis", axis)

    def ways(self, axis):
        return 2 if axis == self.axis else 1


def test_it_serves_cpus_that_have_rows_and_positions_whole():
    assert cpu_matmul.applies_to(ONE_DEVICE)
    assert cpu_matmul.applies_to(InParts("heads"))
    assert not cpu_matmul.applies_to(Elsewhere())
    for axis in ("batch", "sequence", "query_sequence", "key_sequence", "ffn_sequence", "vocab_sequence"):
        assert not cpu_matmul.applies_to(InParts(axis))


SHAPES = {"widens": (8, (12,)), "narrows": (12, (8,)), "heads": (8, (3, 4))}


def products(layout, inner, outputs):
    """Returns the operations of a product and its gradients."""
    x, w = jnp.ones((2, 3, inner)), jnp.ones((inner, *outputs))
    loss = lambda x, w: jnp.sum(jnp.sin(matmul(x, w, layout)))  # noqa: E731
    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, w).eqns


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_three_products_are_of_matrices_and_the_weights_gradient_has_its_shorter_axis_in_front(shape):
    inner, outputs = shape
    found = products(ONE_DEVICE, inner, outputs)
    dots = [e for e in found if e.primitive.name == "dot_general"]
    assert [len(v.aval.shape) for e in dots for v in e.invars] == [2] * 6
    (formed,) = [e for e in found if e.primitive.name == "optimization_barrier"]
    assert formed.invars[0].aval.shape == tuple(sorted((inner, int(np.prod(outputs)))))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", [Elsewhere(), InParts("sequence")], ids=["another platform", "positions split"])
def test_elsewhere_nothing_of_it_is_traced(layout, shape):
    found = products(layout, *shape)
    assert not {"reshape", "optimization_barrier"} & {e.primitive.name for e in found}
    dots = [e for e in found if e.primitive.name == "dot_general"]
    assert next(e.invars[0].aval.shape for e in dots) == (2, 3, shape[0])


@pytest.mark.parametrize("contract", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_product(contract):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)[: 2 + contract]).astype(np.float32)
    w = rng.normal(size=(*x.shape[2:], 6, 7)).astype(np.float32)
    towards = rng.normal(size=(2, 3, 6, 7)).astype(np.float32)

    def both(layout):
        y, pull = jax.vjp(lambda x, w: matmul(x, w, layout, contract), x, w)
        return y, *pull(towards)

    for one, other in zip(both(ONE_DEVICE), both(Elsewhere()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_result_has_the_dtype_asked_for():
    x, w = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((4, 5), jnp.bfloat16)
    for layout in (ONE_DEVICE, Elsewhere()):
        assert matmul(x, w, layout).dtype == jnp.bfloat16
        assert matmul(x, w, layout, dtype=jnp.float32).dtype == jnp.float32
