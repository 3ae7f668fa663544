import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.layout import ONE_DEVICE
from model.parameters.projections import project

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [((6,), (4,)), ((6,), (2, 3)), ((2, 3), (5,)), ((2, 3), (4, 2))],
)
@pytest.mark.parametrize("biased", [False, True])
def test_values(inputs, outputs, biased):
    x, w, b = RNG.normal(size=(2, 3, *inputs)), RNG.normal(size=(*inputs, *outputs)), RNG.normal(size=outputs)
    expected = np.zeros((2, 3, *outputs))
    for place in np.ndindex(2, 3):
        for i in np.ndindex(*inputs):
            expected[place] += x[place][i] * w[i]
    bias = nnx.Param(jnp.asarray(b, jnp.float32)) if biased else None
    got = project(jnp.asarray(x, jnp.float32), nnx.Param(jnp.asarray(w, jnp.float32)), ONE_DEVICE, bias, len(inputs))
    np.testing.assert_allclose(got, expected + (b if biased else 0), rtol=1e-5, atol=1e-5)


def test_all_three_products_contract_one_axis():
    x, w = jnp.ones((2, 3, 2, 4)), jnp.ones((2, 4, 5))
    loss = lambda x, w: jnp.sum(jnp.sin(project(x, nnx.Param(w), ONE_DEVICE, contract=2)))  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, w)
    contracted = [e.params["dimension_numbers"][0] for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(contracted) == 3
    assert all(len(left) == len(right) == 1 for left, right in contracted)
