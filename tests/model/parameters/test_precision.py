import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.context import Context
from model.errors import UserError
from model.options.assignments import override
from model.options.tree import check
from model.parameters.maker import ConstantValue
from model.parameters.precision import Precision, for_compute, for_inference
from model.parameters.specs import Spec
from model.transformer import abstract_params, forward
from tests.tiers import representatives

MIXED = Precision(parameters="float32", compute="bfloat16", reductions="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_parameter_is_stored_in_its_dtype(small, dtype):
    leaves = jax.tree.leaves(abstract_params(small(precision=Precision(parameters=dtype))))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
def test_parameters_are_given_in_the_format_of_gradients_which_come_back_in_the_stored_one(parameters, gradients):
    precision = Precision(parameters=parameters, compute="bfloat16", gradients=gradients)
    params = {"a": jnp.asarray([1.0, 2.0], parameters), "b": {"c": jnp.asarray(3.0, parameters)}}
    specs = {
        "a": Spec(role="scale", axes=(None,), initializer=ConstantValue(1.0)),
        "b": {"c": Spec(role="bias", axes=(), initializer=ConstantValue(0.0))},
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(for_compute(params, specs, precision))} == {jnp.dtype(gradients)}
    assert {leaf.dtype for leaf in jax.tree.leaves(for_inference(params, specs, precision))} == {jnp.dtype("bfloat16")}
    gradient = jax.grad(lambda p: jnp.sum(for_compute(p, specs, precision)["a"] ** 2).astype(jnp.float32))(params)
    assert gradient["a"].dtype == parameters
    np.testing.assert_allclose(gradient["a"], [2.0, 4.0])


def test_gradients_are_no_narrower_than_what_they_are_formed_of():
    with pytest.raises(UserError, match="gradients: bfloat16 is narrower than compute=float32; use 'float32'"):
        check(Precision(gradients="bfloat16"))


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
    taps = ("embedding", "attention_weights", "mixer_output", "ffn_hidden", "block_output", "final_norm")

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


NONE = "position=NoPositions()"
MECHANISMS = {
    "biases, gains, sinks, gate": [
        "mixer=GroupedQuery(num_heads=4, qkv_bias=True, output_bias=True, sinks=True, output_gate=channel)",
        "mixer.qk_norm=QKNorm(over='each_head')",
        "ffn=MLP(width=8, bias=True)",
        "norm=LayerNorm()",
        "layer_scale=0.5",
        "position=Learned()",
        "unembedding=Untied(bias=True)",
    ],
    "hyper-connections": ["residual=HyperConnections(streams=2)", "layer_scale=0.5"],
    "hyper-connections that follow": ["residual=HyperConnections(streams=2, dynamic=Dynamic())"],
    "value residuals": ["mixer.value_residual=ValueResidual(trained=True)"],
    "state space": ["position=NoPositions()", "mixer=StateSpace(num_heads=4, state_dim=5)"],
    "latent": ["mixer=Latent(num_heads=3, kv_rank=5, query_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=6)"],
    "dropless experts": ["ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=8, bias=True))"],
    "experts with slots": [
        "ffn=Experts(num_experts=4, top_k=2, expert=MLP(width=8, bias=True), dispatch=Capacity())",
        "ffn.shared=Shared(ffn=MLP(width=8), gate=True)",
        "ffn.router=SigmoidRouter(bias=True)",
    ],
    "relative positions": ["position=RelativeBias(buckets=4, max_distance=8)"],
    "linear attention": [NONE, "mixer=LinearAttention(num_heads=4)"],
    "gated delta": [NONE, "mixer=GatedDelta(num_heads=4)"],
    "LSTM": [NONE, "mixer=LSTM(num_heads=2)"],
    "GRU": [NONE, "mixer=GRU(num_heads=2)"],
    "GRU, reset before": [NONE, "mixer=GRU(num_heads=2, reset='before')"],
    "multi-token": ["multi_token=MultiToken()", "embedding_norm=RMSNorm()"],
}


@pytest.mark.parametrize(
    "changes", representatives(MECHANISMS.values(), *list(MECHANISMS.values())[::4]), ids=MECHANISMS
)
def test_wide_gradients_widen_no_operation_of_the_forward_pass(changes, small, tokens, monkeypatch):
    """Each use of a parameter rounds it: products, taps and logits have the formats that a rounded copy gives."""

    def formats(gradients):
        precision = Precision(compute="bfloat16", gradients=gradients)
        config = functools.reduce(override, changes, small(precision=precision))
        tapped = {}
        monkeypatch.setattr(Context, "tap", lambda self, name, x: tapped.setdefault(name, set()).add(x.dtype) or x)

        def run(params):
            output = forward(config, params, tokens, weights_BT=jnp.ones(tokens.shape), targets_BT=tokens)
            return output.logits_BTV, output.losses

        program = jax.make_jaxpr(run)(abstract_params(config))
        products = [e for e in equations(program.jaxpr) if e.primitive.name in ("dot_general", "ragged_dot_general")]
        read = collections.Counter(tuple(str(v.aval.dtype) for v in (*e.invars[:2], *e.outvars)) for e in products)
        return tapped, read, [x.dtype for x in program.out_avals]

    assert formats("float32") == formats("bfloat16")
