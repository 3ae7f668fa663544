import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.parameters import Constant
from model.precision import Precision, for_compute
from model.specs import Spec
from model.transformer import abstract_params, forward

MIXED = Precision(parameters="float32", compute="bfloat16", reductions="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_parameter_is_stored_in_its_dtype(small, dtype):
    leaves = jax.tree.leaves(abstract_params(small(precision=Precision(parameters=dtype))))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_for_compute_casts_and_gradients_come_back_in_the_stored_dtype():
    params = {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray(3.0)}}
    specs = {
        "a": Spec(role="scale", axes=(None,), start=Constant(1.0)),
        "b": {"c": Spec(role="bias", axes=(), start=Constant(0.0))},
    }
    cast = for_compute(params, specs, MIXED)
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype("bfloat16")}
    gradient = jax.grad(lambda p: jnp.sum(for_compute(p, specs, MIXED)["a"] ** 2).astype(jnp.float32))(params)
    assert gradient["a"].dtype == jnp.float32
    np.testing.assert_allclose(gradient["a"], [2.0, 4.0])


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize(
    ("compute", "reductions"), list(itertools.product(["float32", "bfloat16"], ["float32", "bfloat16"]))
)
def test_which_dtype_each_operation_has(small, tokens, compute, reductions):
    config = small(precision=Precision(compute=compute, reductions=reductions))
    taps = ("embedding", "attention_weights", "attention_output", "ffn_hidden", "block_output", "final_norm")

    def run(params, tokens):
        output = forward(config, params, tokens, taps=taps)
        return output.logits_BTV, output.taps

    logits, kept = jax.eval_shape(run, abstract_params(config), tokens)
    assert logits.dtype == reductions
    assert {name: x.dtype for name, x in kept.items()} == dict.fromkeys(taps, jnp.dtype(compute))
    found = list(equations(jax.make_jaxpr(run)(abstract_params(config), tokens).jaxpr))
    products = [e for e in found if e.primitive.name == "dot_general"]
    assert len(products) == 2 + 1 + 4 + 3 + 1  # attention, its tap, its projections, the gated layer, logits
    assert {v.aval.dtype for e in products for v in e.invars} == {jnp.dtype(compute)}
    for name in ("exp", "rsqrt"):  # softmax, norms
        assert {e.outvars[0].aval.dtype for e in found if e.primitive.name == name} == {jnp.dtype(reductions)}


def test_mixed_precision_is_close_to_full_precision(small, drawn, run, tokens):
    params = drawn(small())
    full = np.asarray(run(small(), params, tokens)[0])
    mixed = np.asarray(run(small(precision=MIXED), params, tokens)[0])
    error = np.abs(mixed - full).max() / np.abs(full).max()
    assert 1e-4 < error < 0.05
