import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from model.layout import Layout
from model.parameters.names import flatten
from model.transformer import forward
from train.evaluation.validation import compile_eval_step
from train.objectives.next_token import NextToken
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of
from train.state import StateConfig, abstract_state, init_sharded, init_state, state_shardings
from train.step import compile_train_step, train_step

ONE = functools.cache(lambda: make_mesh(Mesh(), jax.devices()[:1]))


@functools.cache
def compiled(experiment):
    """The step of an experiment on one device, without donation, so that a state can be used again."""
    return jax.jit(functools.partial(train_step, experiment, Layout()))


def start(experiment, seed=0):
    return _start(StateConfig.of(experiment), seed)


@functools.cache
def _start(state_config, seed):
    return jax.jit(init_state, static_argnums=0)(state_config, seed)


def assert_trees_close(one, other, **tolerance):
    for name, value in flatten(one).items():
        np.testing.assert_allclose(flatten(other)[name], value, err_msg=name, **tolerance)


@pytest.fixture(scope="module")
def plain(tiny_experiment):
    """Plain gradient descent at rate 1, by which a step shows its gradient."""
    return tiny_experiment(optimizer=SGD(momentum=0.0), schedule="Constant(peak=1.0)", training__clip_norm="None")


def test_tokens_are_the_targets_that_count(tiny_experiment, random_batch):
    for parts in (1, 2):
        experiment = tiny_experiment(training__gradient_accumulation=parts)
        batch = random_batch(experiment)
        _, metrics = compiled(experiment)(start(experiment), batch)
        assert int(metrics["tokens"]) == int(batch["weights"].sum()) < batch["tokens"].size


def test_the_loss_is_the_mean_over_counted_tokens(plain, random_batch):
    batch, state = random_batch(plain), start(plain)
    _, metrics = compiled(plain)(state, batch)
    named = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}
    logits = np.asarray(forward(plain.model, state.params, batch["tokens"], **named).logits_BTV, np.float64)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
    expected = (nll * batch["weights"]).sum() / batch["weights"].sum()
    assert 0 < batch["weights"].mean() < 1
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_what_the_mask_leaves_out_changes_nothing(plain, random_batch):
    batch = random_batch(plain)
    other = batch | {"targets": np.where(batch["weights"] > 0, batch["targets"], 5)}
    assert np.any(other["targets"] != batch["targets"])
    one, two = compiled(plain)(start(plain), batch), compiled(plain)(start(plain), other)
    assert_trees_close(one[0].params, two[0].params, rtol=0, atol=0)
    assert float(one[1]["loss"]) == float(two[1]["loss"])


def test_a_batch_of_padding_moves_nothing(plain, random_batch):
    batch = random_batch(plain)
    state, metrics = compiled(plain)(start(plain), batch | {"weights": np.zeros_like(batch["weights"])})
    assert np.isnan(metrics["loss"])  # 0 would be the loss of a perfect model
    assert float(metrics["grad_norm"]) == 0.0
    assert int(metrics["skipped"]) == 1
    assert_trees_close(start(plain).params, state.params, rtol=0, atol=0)


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_equals_the_large_batch(parts, plain, random_batch):
    """With as uneven masks as can be: a mean of the micro-batches' means would be another number."""
    batch = random_batch(plain)
    batch["weights"][1::2] = 0
    batch["weights"][1, :3] = 1
    training = dataclasses.replace(plain.training, gradient_accumulation=parts)
    split = dataclasses.replace(plain, training=training)
    whole, expected = compiled(plain)(start(plain), batch)
    summed, metrics = compiled(split)(start(plain), batch)
    for name in ("loss", "grad_norm"):
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5)
    assert_trees_close(whole.params, summed.params, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_update_and_not_the_report(plain, random_batch):
    batch, before = random_batch(plain), start(plain)
    _, metrics = compiled(plain)(before, batch)
    norm = float(metrics["grad_norm"])
    for limit, expected in ((norm / 4, norm / 4), (norm * 4, norm)):
        clipped = dataclasses.replace(plain, training=dataclasses.replace(plain.training, clip_norm=limit))
        after, metrics = compiled(clipped)(before, batch)
        moved = [np.asarray(a) - np.asarray(b) for a, b in zip(*map(jax.tree.leaves, (after.params, before.params)))]
        assert math.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in moved)) == pytest.approx(expected, rel=1e-4)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-6)


def test_z_loss_is_minimised_and_not_reported(plain, random_batch):
    with_z = dataclasses.replace(plain, objective=NextToken(z_loss=0.1))
    (one, reported), (other, same) = (compiled(e)(start(plain), random_batch(plain)) for e in (plain, with_z))
    assert float(reported["loss"]) == pytest.approx(float(same["loss"]), rel=1e-6)
    table = [np.asarray(state.params["embedding"]["table"]) for state in (one, other)]
    assert not np.allclose(*table, atol=1e-4)


def test_dropout_is_drawn_anew_at_every_step_and_not_in_evaluation(tiny_experiment, random_batch):
    experiment = tiny_experiment(model__dropout="Dropout(residual=0.3)")
    step, state, batch = compiled(experiment), start(experiment), random_batch(experiment)
    losses = [float(step(dataclasses.replace(state, step=np.int32(n)), batch)[1]["loss"]) for n in (0, 1, 2, 0)]
    assert len(set(losses)) == 3
    assert losses[0] == losses[3]  # drawn from the step's number alone, so that a resumed run draws the same
    other_seed = dataclasses.replace(state, key=start(experiment, seed=1).key)
    assert float(step(other_seed, batch)[1]["loss"]) not in losses
    evaluate = compile_eval_step(experiment, ONE())
    sums = [evaluate(dataclasses.replace(state, step=np.int32(n)), batch) for n in (0, 1)]
    assert float(sums[0]["nll"]) == float(sums[1]["nll"])
    assert float(sums[0]["tokens"]) == batch["weights"].sum()


def test_evaluation_takes_the_averaged_parameters(tiny_experiment, random_batch):
    """Of a schedule-free run: the point between the two sequences, not the one whose gradient is taken."""
    experiment = tiny_experiment(optimizer=ScheduleFreeAdamW())
    plain = tiny_experiment()
    state, batch = start(experiment), random_batch(experiment)
    for n in range(3):
        state, _ = compiled(experiment)(state, random_batch(experiment, n))
    trained = dataclasses.replace(start(plain), params=state.params)
    measured = [float(compile_eval_step(e, ONE())(s, batch)["nll"]) for e, s in ((experiment, state), (plain, trained))]
    assert abs(measured[0] - measured[1]) > 1e-3


def test_the_old_state_is_given_away_and_one_program_serves_all_steps(tiny_experiment, random_batch):
    experiment = tiny_experiment()
    state_config = StateConfig.of(experiment)
    state = init_sharded(state_config, 0, state_shardings(state_config, ONE(), experiment.sharding))
    rows = layout_of(ONE(), experiment.sharding).placement(("batch", "sequence"))
    step = compile_train_step(experiment, ONE())
    for n in range(3):
        old = state
        state, _ = step(state, jax.device_put(random_batch(experiment, n), rows))
        kept = {name for name, x in flatten(old).items() if not x.is_deleted()}
        assert kept <= {"opt_state.hyperparams.learning_rate"}  # which the step does not read
    assert step._cache_size() == 1


def test_the_step_never_asks_the_host(tiny_experiment, random_batch):
    experiment = tiny_experiment(
        training__gradient_accumulation=2, training__guard="Guard(outliers=Outliers(sigma=3.0))"
    )
    traced = jax.jit(functools.partial(train_step, experiment, Layout())).trace(
        abstract_state(StateConfig.of(experiment)), random_batch(experiment)
    )
    assert "callback" not in str(traced.jaxpr)
    lowered = traced.lower().as_text()
    assert "dot_general" in lowered  # it is the program
    for word in ("callback", "outfeed", "infeed", "send", "recv"):
        assert word not in lowered


OPTIMIZERS = (AdamW(), Adafactor(momentum=0.9), Lion(), Muon(), SGD(), ScheduleFreeAdamW())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda option: type(option).__name__)
def test_a_step_keeps_every_shape_and_format(optimizer, dtype, tiny_experiment, random_batch):
    experiment = tiny_experiment(
        optimizer=optimizer, model__precision__parameters=dtype, training__gradient_accumulation=2
    )
    before = abstract_state(StateConfig.of(experiment))
    after, metrics = jax.eval_shape(
        functools.partial(train_step, experiment, Layout()), before, random_batch(experiment)
    )
    expected = {name: (x.shape, x.dtype) for name, x in flatten(before).items()}
    assert {name: (x.shape, x.dtype) for name, x in flatten(after).items()} == expected
    assert len(flatten(before)) == len(jax.tree.leaves(before))  # no two arrays share a name
    assert {str(metrics[name].dtype) for name in ("loss", "grad_norm", "learning_rate")} == {"float32"}


def test_bfloat16_compute_trains(tiny_experiment, random_batch):
    experiment = tiny_experiment(model__precision="Precision(compute='bfloat16')")
    exact = tiny_experiment()
    state, losses, batch = start(experiment), [], random_batch(experiment)
    for _ in range(20):
        state, metrics = compiled(experiment)(state, batch)
        losses.append(float(metrics["loss"]))
    _, in_float32 = compiled(exact)(start(exact), batch)
    assert losses[0] == pytest.approx(float(in_float32["loss"]), rel=1e-2)
    assert losses[0] != float(in_float32["loss"])
    assert losses[-1] < losses[0] - 1
    assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
