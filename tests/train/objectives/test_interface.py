"""The training step works with any objective: another kind of objective trains without a change of the step."""

import dataclasses
import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.options import alternatives, fields_of
from model.transformer import forward
from train import step
from train.experiment import Experiment
from train.objectives.interface import Objective, Sums
from train.objectives.next_token import NextToken
from train.state import StateConfig, init_state
from train.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shorten:
    """Makes logits short: half the mean of their squares over all places. It reads tokens alone."""

    scale: float = 1.0
    fields = ("tokens",)

    def tokens(self, batch):
        return jnp.int32(batch["tokens"].size)

    def weight(self, batch):
        return jnp.float32(batch["tokens"].size)

    def loss(self, model, params, batch, *, dropout_key, layout, taps=()):
        output = forward(model, params, batch["tokens"], dropout_key=dropout_key, layout=layout, taps=taps)
        total = 0.5 * jnp.sum(jnp.mean(jnp.square(output.logits_BTV), axis=-1))
        return self.scale * total, Sums(total, {"half": total / 2}, output.measurements, output.taps)


@pytest.mark.parametrize("parts", [1, 4])
def test_another_objective_is_minimised_and_reported(parts, tiny_experiment, random_batch):
    base = tiny_experiment(
        optimizer="SGD(momentum=0.0)",
        schedule="Constant(peak=1.0)",
        training__clip_norm="None",
        training__gradient_accumulation=parts,
    )
    experiment = dataclasses.replace(base, objective=Shorten(scale=3.0))
    batch = {"tokens": random_batch(base)["tokens"]}
    state = jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), 0)
    after, metrics = jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))(state, batch)
    size = batch["tokens"].size

    def mean(params):
        return Shorten().loss(base.model, params, batch, dropout_key=None, layout=ONE_DEVICE)[0] / size

    expected, grads = jax.jit(jax.value_and_grad(mean))(state.all_params)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["half"]) == pytest.approx(float(expected) / 2, rel=1e-5)
    assert int(metrics["tokens"]) == size
    for one, before, grad in zip(*map(jax.tree.leaves, (after.params, state.params, grads)), strict=True):
        np.testing.assert_allclose(one, before - 3.0 * grad, rtol=1e-4, atol=1e-6)


def signature(member):
    """The parameters of a method, with their kinds and defaults; None for a property."""
    if isinstance(member, property):
        return None
    return [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]


def test_every_objective_of_an_experiment_has_the_interface():
    """Its members are called as the protocol says; mypy compares the types where train/step.py takes one."""
    classes = alternatives(fields_of(Experiment)["objective"])
    members = {name: member for name, member in vars(Objective).items() if not name.startswith("_")}
    assert members.keys() == {"fields", "tokens", "weight", "loss"}
    assert NextToken in classes
    for cls in classes:
        for name, member in members.items():
            assert signature(getattr(cls, name)) == signature(member), (cls, name)
    assert typing.get_type_hints(step.sums_and_grads)["objective"] is Objective


def test_the_step_names_no_objective():
    assert "NextToken" not in vars(step)
    assert "next_token" not in str([getattr(x, "__module__", "") for x in vars(step).values()])
