"""Every optimizer in a model that is larger than its base: rates, epsilon and decay of each parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.errors import UserError
from model.parameters.specs import Growth, Spec
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW, build, set_learning_rate

M, N = 4.0, 2.0
GROWN = Growth(inputs=M, outputs=M, layers=N, residual=1 / N)
SPECS = {
    "table": Spec(role="embedding", axes=("vocab", "embed"), inputs=(0,), outputs=(1,), growth=Growth(outputs=M)),
    "matrix": Spec(role="projection", axes=("embed", "ffn"), inputs=(0,), outputs=(1,), growth=GROWN),
    "router": Spec(
        role="router", axes=("embed", "expert"), inputs=(0,), outputs=(1,), growth=Growth(inputs=M, layers=N, residual=1 / N)
    ),
    "scale": Spec(role="scale", axes=("embed",), growth=Growth(outputs=M, layers=N, residual=1 / N)),
}  # fmt: skip
PLAIN = {name: Spec(role=s.role, axes=s.axes, inputs=s.inputs, outputs=s.outputs) for name, s in SPECS.items()}
SIZE = {"table": (5, 6), "matrix": (6, 8), "router": (6, 3), "scale": (6,)}
PARAMS = {name: jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32) for name, size in SIZE.items()}
GRADS = {name: jnp.asarray(np.random.default_rng(1).normal(size=size), jnp.float32) for name, size in SIZE.items()}
# The factor on the rate of each parameter. Adam and optimizers like it: table 8 of muP. SGD: the same table, where
# tables and norms get m and a matrix to a fixed number of outputs 1/m. Muon: spectral norms, of which an orthogonalised
# update with entries of a fixed size has the root of its longer side.
ADAM = {"table": 1, "matrix": 1 / M, "router": 1 / M, "scale": 1}
FACTORS = {
    AdamW(): ADAM,
    Lion(): ADAM,
    Adafactor(): ADAM,
    ScheduleFreeAdamW(): ADAM,
    SGD(momentum=0.0): {"table": M, "matrix": 1, "router": 1 / M, "scale": M},
    Muon(): {"table": 1, "matrix": M**-0.5, "router": 1 / M, "scale": 1},
}


def updates(option, specs, grads=GRADS, params=PARAMS, rate=0.1):
    optimizer = build(option, specs)
    state = set_learning_rate(optimizer.init(params), jnp.float32(rate))
    return optimizer.update(grads, state, params)[0]


@pytest.mark.parametrize("option", FACTORS, ids=lambda option: type(option).__name__)
def test_each_parameter_has_the_rate_of_its_growth(option):
    """CompleteP's alpha 1 leaves the rate alone: the factor on the outputs of sublayers makes up for the depth."""
    plain, grown = updates(option, PLAIN), updates(option, SPECS)
    for name, factor in FACTORS[option].items():
        np.testing.assert_allclose(grown[name], factor * np.asarray(plain[name]), rtol=2e-4, atol=1e-7, err_msg=name)


def test_a_depth_rule_of_another_power_changes_the_rate():
    growth = Growth(inputs=M, outputs=M, layers=N, residual=N**-0.5)
    specs = SPECS | {"matrix": Spec(role="projection", axes=("embed", "ffn"), inputs=(0,), outputs=(1,), growth=growth)}
    factor = updates(AdamW(), specs)["matrix"] / updates(AdamW(), PLAIN)["matrix"]
    np.testing.assert_allclose(factor, N**-0.5 / M, rtol=1e-4)


@pytest.mark.parametrize(
    "option", [AdamW(epsilon=0.5), ScheduleFreeAdamW(epsilon=0.5)], ids=lambda option: type(option).__name__
)
def test_epsilon_is_compared_with_gradients_of_the_base(option):
    """A gradient of the wide model is smaller by m and n; with epsilon scaled alike the update is that of the base."""
    sizes = {"table": 1 / M, "matrix": 1 / (M * N), "router": 1 / N, "scale": 1 / (M * N)}
    smaller = {name: GRADS[name] * size for name, size in sizes.items()}
    base, grown = updates(option, PLAIN), updates(option, SPECS, smaller)
    for name, factor in ADAM.items():
        np.testing.assert_allclose(grown[name], factor * np.asarray(base[name]), rtol=1e-4, err_msg=name)
    # By hand, for the first step: the moments are the gradient and its square, and epsilon is 0.5 / (m n).
    if isinstance(option, AdamW):
        g = np.asarray(smaller["matrix"])
        np.testing.assert_allclose(grown["matrix"], -0.1 / M * g / (np.abs(g) + 0.5 / (M * N)), rtol=1e-4)


@pytest.mark.parametrize("kind", [AdamW, Lion, SGD, Muon, Adafactor], ids=lambda kind: kind.__name__)
def test_decay_pulls_as_in_the_base(kind):
    """Rate * weight_decay per step, whatever the factor on the rate: the weight decay of CompleteP's table, times m."""
    for specs in (PLAIN, SPECS):
        with_decay, without = (updates(kind(weight_decay=x), specs) for x in (0.3, 0.0))
        for name in ("table", "matrix", "router"):
            pull = np.asarray(with_decay[name]) - np.asarray(without[name])
            np.testing.assert_allclose(pull, -0.1 * 0.3 * np.asarray(PARAMS[name]), rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(with_decay["scale"], without["scale"])


def test_nothing_is_added_in_a_base_model():
    """The state and the program are those of optax's AdamW."""
    ours, theirs = build(AdamW(weight_decay=0.1), PLAIN), optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.1)
    state = ours.init(PARAMS)
    assert jax.tree.structure(state.inner_state) == jax.tree.structure(
        optax.adamw(0.1, 0.9, 0.95, mask=dict.fromkeys(SIZE, True)).init(PARAMS)
    )
    one = updates(AdamW(weight_decay=0.1, decay_also=("scale",)), PLAIN)
    for name, update in theirs.update(GRADS, theirs.init(PARAMS), PARAMS)[0].items():
        np.testing.assert_allclose(one[name], update, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"optimizer": SGD(), "model__parametrization": "CompleteP(base_width=16, base_layers=1)"},
            "optimizer: .* SGD",
        ),
        (
            {"optimizer": Adafactor(scale_by_parameter=True), "model__parametrization": "MuP(base_width=16)"},
            "optimizer.scale_by_parameter: model.parametrization=MuP has no rule",
        ),
    ],
)
def test_optimizers_without_a_rule_are_refused_by_name(changes, expected, tiny_experiment):
    with pytest.raises(UserError, match=expected):
        tiny_experiment(**changes)
    tiny_experiment(**changes | {"model__parametrization": "Standard()"})
