"""The intermediates that the backward pass keeps, and those that it recomputes."""

import contextlib
import dataclasses
import io
import re
from collections import Counter

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals

from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from model.positions.absolute import NoPositions
from model.recompute import SaveOnly, gradients_together, recomputed
from model.recurrent.gru import GRU
from model.transformer import abstract_params, forward
from model.vocabulary.multi_token import MultiToken
from tests.tiers import SWEEP, representatives

# By tap: what one layer of the small model saves of it.
SHAPES = {"query": (2, 12, 4, 4), "key": (2, 12, 2, 4), "ffn_hidden": (2, 12, 24), "mixer_output": (2, 12, 16)}
CHOICES = [("query",), ("ffn_hidden", "key"), ("mixer_output",), tuple(SHAPES)]


def loss(config, tokens):
    return lambda params: jnp.sum(forward(config, params, tokens).logits_BTV ** 2)


def equations(jaxpr):
    """Yields all equations of a program and of the programs that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def given_by_scan(config, tokens):
    """Returns the shapes that the first scan of the gradient keeps of each layer for the backward pass."""
    jaxpr = jax.make_jaxpr(jax.grad(loss(config, tokens)))(abstract_params(config)).jaxpr
    scan = next(equation for equation in equations(jaxpr) if equation.primitive.name == "scan")
    return Counter(v.aval.shape[1:] for v in scan.outvars[scan.params["num_carry"] :])


@pytest.mark.parametrize(
    "names", [CHOICES[0], *(pytest.param(names, marks=SWEEP) for names in CHOICES[1:-1]), CHOICES[-1]]
)
def test_scanned_layers_save_the_taps_named_and_no_other(names, small, tokens):
    config = small()
    full = given_by_scan(dataclasses.replace(config, remat="full"), tokens)
    named = given_by_scan(dataclasses.replace(config, remat=SaveOnly(taps=names)), tokens)
    assert full.total() < given_by_scan(config, tokens).total()
    assert named - full == Counter(SHAPES[name] for name in names)
    assert not full - named


@pytest.mark.parametrize("names", CHOICES)
def test_layers_written_out_save_the_taps_named_and_no_other(names, small, drawn, tokens):
    config = small(scan_layers=False, remat=SaveOnly(taps=names))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        print_saved_residuals(loss(config, tokens), drawn(config))
    assert Counter(re.findall(r"named '(\w+)'", said.getvalue())) == dict.fromkeys(names, 2)


@pytest.mark.parametrize("scan", representatives([True, False], True))
def test_less_is_computed_again_where_more_is_saved(scan, small, tokens):
    def products(remat):
        config = small(scan_layers=scan, remat=remat)
        text = jax.jit(jax.grad(loss(config, tokens))).lower(abstract_params(config)).compile().as_text()
        return text.count(" dot(")

    full, query, more = products("full"), products(SaveOnly(taps=("query",))), products(SaveOnly(taps=tuple(SHAPES)))
    assert more < query < full


def test_nothing_is_named_unless_a_policy_asks_for_it(small, tokens):
    def named(config):
        found = equations(jax.make_jaxpr(jax.grad(loss(config, tokens)))(abstract_params(config)).jaxpr)
        return {equation.params["name"] for equation in found if equation.primitive.name == "name"}

    for remat in ("none", "dots", "full"):
        assert named(small(remat=remat)) == set()
    assert named(small(remat=SaveOnly(taps=("query", "key")))) == {"query", "key"}


@pytest.mark.parametrize(
    "changes", [{}, {"scan_layers": False}, pytest.param({"multi_token": MultiToken(depth=2)}, marks=SWEEP)], ids=str
)
def test_gradients_are_the_same(changes, small, drawn, tokens):
    config = small(**changes)
    params, counted = drawn(config), {"weights_BT": jnp.ones(tokens.shape), "targets_BT": tokens}

    def gradient(remat):
        def total(params):
            output = forward(dataclasses.replace(config, remat=remat), params, tokens, **counted)
            return jnp.mean(output.logits_BTV**2) + sum(output.losses.values())

        return jax.jit(jax.grad(total))(params)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # noqa: E731
    jax.tree.map(close, gradient(SaveOnly(taps=("query", "ffn_output"))), gradient("none"))


def test_experts_and_recurrences_save_theirs(small, drawn, tokens):
    for changes, names in (
        ({"ffn": Experts(num_experts=4, top_k=2, expert=Gated(width=8))}, ("router_logits", "expert_weights")),
        ({"mixer": GRU(num_heads=2), "position": NoPositions()}, ("mixer_heads",)),
    ):
        config = small(**changes)
        full = given_by_scan(dataclasses.replace(config, remat="full"), tokens)
        named = given_by_scan(dataclasses.replace(config, remat=SaveOnly(taps=names)), tokens)
        assert (named - full).total() == len(names)


def test_names_that_are_not_there_are_refused(small, drawn, tokens):
    for names, message in {
        ("querry",): "remat.taps: no tap is called 'querry'; did you mean 'query'",
        ("attention_heads",): "remat.taps: no tap is called 'attention_heads'; did you mean 'mixer_heads'",
        ("attention_weights",): "remat.taps: the model computes nothing with tap 'attention_weights'; did you mean",
        ("query", "query"): "remat.taps: names 'query' twice",
        (): "remat.taps: name at least one, or take remat='full'",
    }.items():
        with pytest.raises(UserError, match=message):
            check(small(remat=SaveOnly(taps=names)))
    for name, message in {
        "latent": "no tap is called 'latent'",
        "embedding": "tap 'embedding' cannot be saved: it is outside of the layers",
    }.items():
        config = small(remat=SaveOnly(taps=("query", name)))
        with pytest.raises(UserError, match=message):
            jax.eval_shape(lambda: forward(config, drawn(config), tokens).logits_BTV)


def test_the_option_is_text_in_configs_and_on_the_command_line(small):
    config = override(small(), "remat=SaveOnly(taps=('query', 'key'))")
    assert config.remat == SaveOnly(taps=("query", "key"))
    assert from_json(ModelConfig, to_json(config)) == config
    assert override(config, "remat=full").remat == "full"


def test_a_recomputed_function_keeps_its_inputs_alone():
    function = lambda x: jnp.exp(jnp.sin(x)) * x  # noqa: E731
    x = jnp.linspace(-1.0, 2.0, 5)
    kept = jax.tree.leaves(jax.vjp(recomputed(function), x)[1])
    np.testing.assert_array_equal(np.array(kept), np.array([x]))
    assert len(jax.tree.leaves(jax.vjp(function, x)[1])) > 1
    gradient = lambda f: jax.grad(lambda x: f(x).sum())(x)  # noqa: E731
    np.testing.assert_allclose(gradient(recomputed(function)), gradient(function), rtol=1e-6)


class Product(nnx.Module):
    """tanh(x w)."""

    def __init__(self, w):
        self.w = nnx.Param(w)

    def __call__(self, x):
        return jnp.tanh(x @ self.w[...])


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_come_together(frozen):
    """The gradient of the input waits for that of the weight, by a barrier; one that is not asked for has no part."""

    def loss(x, w):
        module, x = gradients_together(Product(w), x)
        return jnp.sum(module(x))

    x, w = jnp.ones((2, 3)), jnp.full((3, 4), 0.1)
    wanted = 0 if frozen else (0, 1)
    plain = jax.grad(lambda x, w: jnp.sum(Product(w)(x)), wanted)
    jax.tree.map(np.testing.assert_array_equal, jax.grad(loss, wanted)(x, w), plain(x, w))
    program = jax.make_jaxpr(jax.grad(loss, wanted))(x, w)
    barriers = [e for e in program.eqns if e.primitive.name == "optimization_barrier"]
    assert [len(barrier.outvars) for barrier in barriers] == [1 if frozen else 2]


def test_a_feed_forward_layer_forms_its_gradients_together(small, drawn):
    """One barrier in the backward pass of a layer, over the input and all weights of its feed-forward layer."""
    config = small(ffn=Gated(width=32), num_layers=1)
    tokens = jnp.zeros((1, 4), jnp.int32)
    sum_of = lambda params: forward(config, params, tokens).logits_BTV.sum()  # noqa: E731
    program = jax.make_jaxpr(jax.grad(sum_of))(drawn(config)).jaxpr
    barriers = [e for e in equations(program) if e.primitive.name == "optimization_barrier"]
    assert [len(barrier.outvars) for barrier in barriers].count(4) == 1
