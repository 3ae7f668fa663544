"""The gradient noise scale against a quadratic with normal gradients, whose noise scale is known exactly."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.options.tree import check
from train import noise_scale
from train.noise_scale import estimate
from train.objectives.interface import Sums
from train.parallel.mesh import Mesh
from train.state import StateConfig, abstract_state
from train.statistics import Statistics, statistics_rows
from train.step import train_step

SIZE, DEVIATION = 32, 0.5  # of the vector that is fitted, and of each element of a draw around its mean
MEAN = np.linspace(-0.2, 0.4, SIZE)


class Quadratic:
    """The sum over rows of w |x - v|^2 / 2 for draws v: its gradient is that of x - mean of v, its covariance that of v."""

    fields = ("draws", "weights")

    def tokens(self, batch):
        return jnp.sum(batch["weights"] > 0)

    def weight(self, batch):
        return jnp.sum(batch["weights"])

    def loss(self, model, params, batch, *, dropout_key, layout, taps=()):
        x = params["final_norm"]["scale"] - 1.0  # which starts at 0
        total = jnp.sum(batch["weights"] * jnp.sum((x - batch["draws"]) ** 2, axis=1)) / 2
        return total, Sums(total, {}, {}, {})


def batch_of(draw, weights):
    draws = MEAN + DEVIATION * draw.normal(size=(len(weights), SIZE))
    return {"draws": draws.astype(np.float32), "weights": weights.astype(np.float32)}


def state_of(experiment):
    """A state whose arrays are all ones, without drawing a model."""
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_state(StateConfig.of(experiment)))


@pytest.fixture(scope="module", params=[1, 4])
def measured(request, tiny_experiment):
    """The number of micro-batches, batches, and the values of a step for each, its parameters left as they are.

    The rows of the first five batches have different weights, those of the others three tokens each.
    """
    experiment = tiny_experiment(training__gradient_accumulation=request.param, data__batch_size=8)
    experiment = dataclasses.replace(experiment, objective=Quadratic())
    asked = Statistics(noise_scale=True, stream=False)
    step = jax.jit(lambda *given: train_step(experiment, ONE_DEVICE, *given, statistics=asked)[1]["statistics"])
    state, draw = state_of(experiment), np.random.default_rng(0)
    given = [batch_of(draw, draw.integers(1, 5, 8)) for _ in range(5)]
    given += [batch_of(draw, np.full(8, 3)) for _ in range(400)]
    return request.param, given, jax.device_get([step(state, batch)[noise_scale.ROLE] for batch in given])


def test_a_step_measures_what_the_equations_say(measured):
    """Gradients of each micro-batch by hand: row r is in micro-batch r % parts; two where nothing is accumulated."""
    parts, given, found = measured
    parts = max(parts, 2)
    for batch, values in zip(given[:5], found, strict=False):
        v, w = batch["draws"].astype(np.float64), batch["weights"].astype(np.float64)
        own = [slice(i, None, parts) for i in range(parts)]
        squares = [np.sum(np.square(w[rows] @ v[rows] / w[rows].sum())) for rows in (*own, slice(None))]
        small, whole, inverse = np.mean(squares[:-1]), squares[-1], np.mean([1 / w[rows].sum() for rows in own])
        noise = (small - whole) / (inverse - 1 / w.sum())
        assert values["noise"] == pytest.approx(noise, rel=1e-4)
        assert values["signal"] == pytest.approx(whole - noise / w.sum(), rel=1e-3, abs=1e-4)
        assert values["tokens"] == w.sum()


def test_the_mean_over_steps_is_the_true_noise_scale(measured):
    """tr(S) is d sigma^2 for a row, which here counts as three tokens; |G|^2 is that of the mean of the draws."""
    lines = [{"role": noise_scale.ROLE} | {name: float(x) for name, x in values.items()} for values in measured[2][5:]]
    truth = {"noise": 3 * SIZE * DEVIATION**2, "signal": MEAN @ MEAN}
    for name, true in truth.items():
        values = np.array([line[name] for line in lines])
        assert abs(values.mean() - true) < 4 * values.std() / math.sqrt(len(values))  # no bias
    found = estimate(lines)
    assert found.low < truth["noise"] / truth["signal"] < found.high
    assert found.high / found.low < 1.5


def test_a_line_of_statistics(measured, tiny_experiment):
    values = measured[2][0]
    sums = {"parameters": {}, "gradients": {}, "updates": {}, "taps": {}, "maxima": {}, noise_scale.ROLE: values}
    (line,) = statistics_rows(tiny_experiment().model, {}, {}, sums)
    assert (line["part"], line["layer"], line["role"]) == ("model", None, "noise_scale")
    assert [line[name] for name in ("noise", "signal", "tokens")] == [
        float(values[n]) for n in ("noise", "signal", "tokens")
    ]


def test_without_the_option_the_step_has_one_gradient(tiny_experiment):
    """The halves are another pass: a step that is not asked for the noise scale does not compute it."""
    experiment = dataclasses.replace(tiny_experiment(), objective=Quadratic())
    state, batch = state_of(experiment), batch_of(np.random.default_rng(0), np.full(8, 3))
    for asked, present in ((Statistics(stream=False), False), (Statistics(stream=False, noise_scale=True), True)):
        step = functools.partial(train_step, experiment, ONE_DEVICE, statistics=asked)
        assert (noise_scale.ROLE in jax.eval_shape(step, state, batch)[1]["statistics"]) == present


def test_estimates_of_few_or_other_lines():
    assert estimate([]) is None
    assert estimate([{"role": "projection", "noise": 1.0, "signal": 1.0}]) is None
    line = {"role": "noise_scale", "noise": 8.0, "signal": 2.0}
    assert estimate([line, {"role": "noise_scale", "noise": math.nan, "signal": 1.0}, line]) == (4.0, 4.0, 4.0)
    assert estimate([line, line | {"signal": -3.0}]) is None
    low, high = estimate([line] * 3 + [line | {"signal": -1.0}])[1:]
    assert low < 8.0 / 1.25 < high == math.inf


def test_a_batch_that_cannot_be_halved_is_refused(tiny_experiment):
    asked = Statistics(noise_scale=True)
    check(tiny_experiment(statistics=asked))
    with pytest.raises(UserError, match="statistics.noise_scale: halves the batch, and data.batch_size=7 is odd"):
        tiny_experiment(statistics=asked, data__batch_size=7)
    tiny_experiment(statistics=asked, data__batch_size=9, training__gradient_accumulation=3)
    with pytest.raises(UserError, match=r"statistics\.noise_scale: a pipeline adds up"):
        tiny_experiment(statistics=asked, mesh=Mesh(stage=2), training__gradient_accumulation=2, samples__prompts=())
