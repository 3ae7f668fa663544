"""Adapters against matrices that are made whole, in NumPy: products, gradients, what is frozen, what a program holds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.options.tree import find_problems, find_warnings
from model.parameters.adapters import DoRA, LoRA, branches, merge_adapters, on_base
from model.parameters.names import flatten, unflatten
from model.parameters.precision import Precision
from model.parameters.quantized_weights import QuantizedWeights
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, forward, init, specs
from tests.model.conftest import drawn_params, small_config
from tests.tiers import representatives

TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 17, (2, 8)))
OPTIONS = {
    "lora": LoRA(rank=3, alpha=6.0),
    "sqrt": LoRA(rank=4, alpha=6.0, scaling="sqrt_rank"),
    "dora": DoRA(rank=3, alpha=6.0),
}


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params):
    return forward(config, params, TOKENS).logits_BTV


@functools.cache
def model(name):
    """A model with the adapters, and parameters of which none is 0."""
    config = small_config(adapters=OPTIONS[name])
    return config, drawn_params(config, scale=0.2)


def whole_matrices(config, params):
    """The matrices that the papers' equations multiply by, in float64, in the model without adapters."""
    option, given = config.adapters, {name: np.asarray(x, np.float64) for name, x in flatten(params).items()}
    scale = option.alpha / (option.rank if option.scaling == "rank" else np.sqrt(option.rank))
    for name in [name.removesuffix(".base") for name in given if name.endswith(".base")]:
        w, a, b = (given.pop(f"{name}.{part}") for part in ("base", "lora_a", "lora_b"))
        magnitude = given.pop(f"{name}.magnitude", None)
        layers = []
        for layer in range(len(w)):
            inputs = a[layer].ndim - 1
            v = w[layer] + scale * np.tensordot(a[layer], b[layer], 1)
            if magnitude is not None:
                v = magnitude[layer] * v / np.sqrt((v**2).sum(axis=tuple(range(inputs))))
            layers.append(v)
        given[name] = np.stack(layers)
    plain = dataclasses.replace(config, adapters=None)
    return plain, unflatten(abstract_params(plain), {name: jnp.asarray(x, jnp.float32) for name, x in given.items()})


@pytest.mark.parametrize("name", OPTIONS)
def test_products_are_those_of_the_whole_matrices(name):
    config, params = model(name)
    plain, whole = whole_matrices(config, params)
    np.testing.assert_allclose(logits(config, params), logits(plain, whole), rtol=2e-4, atol=2e-5)
    merged = merge_adapters(params, specs(config), config.adapters)
    for path, x in flatten(merged).items():
        np.testing.assert_allclose(x, flatten(whole)[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_model_starts_as_the_model_without_them():
    """B is 0, and all else is drawn from the same keys."""
    plain, key = small_config(), jax.random.key(3)
    start = logits(plain, init(plain, key))
    for name, option in OPTIONS.items():
        config = small_config(adapters=option)
        found = logits(config, init(config, key))
        if name == "dora":
            np.testing.assert_allclose(found, start, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, start)


@pytest.mark.parametrize("name", representatives(["lora", "dora"], "dora"))
def test_gradients_of_the_factors_are_those_of_the_whole_matrix(name):
    """dA = s dW B^T and dB = s A^T dW, for the gradient dW of the whole matrix; for DoRA its norm is a constant."""
    config, params = model(name)
    plain, whole = whole_matrices(config, params)

    def total(config, params):
        return jnp.sum(jnp.sin(forward(config, params, TOKENS).logits_BTV))

    grads, of_whole = (
        flatten(jax.jit(jax.grad(functools.partial(total, c)))(p)) for c, p in ((config, params), (plain, whole))
    )
    arrays, scale = flatten(params), config.adapters.alpha / config.adapters.rank
    for path in branches(specs(config)):
        for layer in range(2):
            dw, w, a, b = (
                np.asarray(x[layer], np.float64)
                for x in (of_whole[path], *(arrays[f"{path}.{part}"] for part in ("base", "lora_a", "lora_b")))
            )
            inputs, scaled = a.ndim - 1, dw
            if name == "dora":
                v = w + scale * np.tensordot(a, b, 1)
                norms = np.sqrt((v**2).sum(axis=tuple(range(inputs))))
                scaled = dw * np.asarray(arrays[f"{path}.magnitude"][layer]) / norms
                expected = (dw * v / norms).sum(axis=tuple(range(inputs)))
                np.testing.assert_allclose(grads[f"{path}.magnitude"][layer], expected, rtol=2e-3, atol=2e-4)
            da = scale * np.tensordot(scaled, b, (range(inputs, dw.ndim), range(1, b.ndim)))
            db = scale * np.tensordot(a, scaled, (range(inputs), range(inputs)))
            np.testing.assert_allclose(grads[f"{path}.lora_a"][layer], da, rtol=2e-3, atol=2e-4, err_msg=path)
            np.testing.assert_allclose(grads[f"{path}.lora_b"][layer], db, rtol=2e-3, atol=2e-4, err_msg=path)


def test_all_but_adapters_is_frozen_by_its_spec():
    config, _ = model("dora")
    for name, spec in specs_by_name(specs(config)).items():
        assert spec.trained == (name.split(".")[-1] in ("lora_a", "lora_b", "magnitude")), name
    for name, spec in specs_by_name(specs(small_config())).items():
        assert spec.trained, name


@pytest.mark.parametrize(
    ("roles", "chosen"),
    [
        (("projection:heads", "value:kv_heads"), {"mixer.query", "mixer.value"}),
        (("residual:ffn",), {"ffn.down"}),
        (("projection", "residual"), {"mixer.query", "mixer.key", "mixer.output", "ffn.gate", "ffn.down"}),
    ],
)
def test_roles_and_axes_choose_matrices(roles, chosen):
    config = small_config(adapters=LoRA(roles=roles))
    assert {path.removeprefix("blocks.") for path in branches(specs(config))} == chosen


def test_axes_of_factors_are_those_of_the_matrix():
    known = specs_by_name(specs(model("lora")[0]))
    assert known["blocks.mixer.output.lora_a"].axes == ("layer", "heads", "head_dim", None)
    assert known["blocks.mixer.output.lora_b"].axes == ("layer", None, "embed")
    assert known["blocks.mixer.query.lora_b"].axes == ("layer", None, "heads", "head_dim")


def test_experts_keep_their_matrices_and_the_config_says_so():
    config = small_config(ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=8)), adapters=LoRA())
    assert {path.split(".")[-2] for path in branches(specs(config))} == {"mixer"}
    assert any("matrices of experts have none" in line for line in find_warnings(config, "model"))


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (LoRA(rank=0), "model.adapters.rank: must be at least 1, got 0"),
        (LoRA(alpha=0.0), "model.adapters.alpha: must be above 0, got 0.0"),
        (LoRA(roles=()), "model.adapters.roles: names nothing to adapt; give some of projection, value, residual"),
        (LoRA(roles=("value:heads", "residul")), "'residul' is no role of matrices with adapters"),
    ],
)
def test_bad_options(option, problem):
    assert any(problem in line for line in find_problems(small_config(adapters=option), "model"))


def test_entries_that_choose_nothing_are_named():
    option = LoRA(roles=("projection", "value:heads"))
    problems = list(option.problems_with(specs(small_config(adapters=option))))
    assert [field for field, _ in problems] == ["roles"]
    assert (
        "'value:heads' chooses no matrix of this model; axes of those chosen are embed, ffn, head_dim, heads"
        in (problems[0][1])
    )


def test_in_bfloat16_products_round_as_those_of_the_whole_matrices():
    option, half = LoRA(rank=3, alpha=6.0), Precision(parameters="bfloat16", compute="bfloat16")
    config = small_config(adapters=option, precision=half)
    params = drawn_params(config, scale=0.2)
    assert {x.dtype.name for name, x in flatten(params).items() if "lora" in name} == {"float32"}
    plain, whole = whole_matrices(config, params)
    exact = logits(dataclasses.replace(plain, precision=Precision()), whole)
    found = logits(config, params).astype(jnp.float32)
    assert float(jnp.max(jnp.abs(found - exact))) < 0.1 * float(jnp.std(exact))


def test_magnitudes_are_the_norms_of_the_matrices_that_are_read():
    config, params = model("dora")
    base = {name.removesuffix(".base"): x for name, x in flatten(params).items() if name.endswith(".base")}
    plain = dataclasses.replace(config, adapters=None)
    rest = {name: x for name, x in flatten(params).items() if name in flatten(abstract_params(plain))}
    given = unflatten(abstract_params(plain), base | rest)
    started = on_base(init(config, jax.random.key(0)), specs(config), given)
    np.testing.assert_allclose(logits(config, started), logits(plain, given), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize(
    "weights",
    [QuantizedWeights(format="int4", group=16), pytest.param(QuantizedWeights(format="int8"), marks=pytest.mark.sweep)],
)
def test_a_quantised_base_and_its_gradients(weights):
    """As the model whose matrices are the dequantised ones plus the change; few rows are multiplied in integers."""
    config = small_config(adapters=OPTIONS["lora"], precision=Precision(weights=weights))
    params = drawn_params(small_config(adapters=OPTIONS["lora"]), scale=0.2)
    quantised = init(config, jax.random.key(0))
    params = unflatten(
        abstract_params(config), flatten(quantised) | {n: x for n, x in flatten(params).items() if "lora" in n}
    )
    plain = dataclasses.replace(config.unquantized(), adapters=None)
    whole = merge_adapters(params, specs(config), config.adapters)
    np.testing.assert_allclose(logits(config, params), logits(plain, whole), rtol=1e-3, atol=1e-4)

    def total(embedding, config, params):
        moved = {**params, "embedding": {**params["embedding"], "table": embedding}}
        return jnp.sum(jnp.sin(forward(config, moved, TOKENS).logits_BTV))

    table = params["embedding"]["table"]
    found, expected = (
        jax.jit(jax.grad(total), static_argnums=1)(table, c, p) for c, p in ((config, params), (plain, whole))
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
