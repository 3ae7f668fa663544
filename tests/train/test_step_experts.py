"""Experts while training: what is minimised and logged, what padding and micro-batches change, how biases move."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.parameters.names import flatten
from model.transformer import abstract_params, forward
from tests.tiers import representatives
from train.evaluation.validation import compile_eval_step
from train.objectives.next_token import NextToken, with_model_losses
from train.optimizers.options import SGD, AdamW, Muon, ScheduleFreeAdamW
from train.parallel.mesh import Mesh, make_mesh
from train.state import StateConfig, evaluation_params, init_state
from train.step import train_step

FFN = "Experts(num_experts=4, top_k=2, expert=Gated(width=16), {})"
LOGGED = {"expert_load_entropy", "expert_load_max", "router_entropy"}


@functools.cache
def compiled(experiment):
    return jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))


drawn = functools.cache(jax.jit(init_state, static_argnums=0))


def start(experiment, scale=5.0):
    """The first state, its routers sharpened so that loads are uneven."""
    state = drawn(StateConfig.of(experiment), 0)
    blocks = state.params["blocks"]
    ffn = blocks["ffn"] | {"router": scale * blocks["ffn"]["router"]}
    return dataclasses.replace(state, params=state.params | {"blocks": blocks | {"ffn": ffn}})


@functools.cache
def collected(experiment):
    """The losses and measurements of a forward pass."""

    def collect(params, batch):
        named = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}
        output = forward(experiment.model, params, batch["tokens"], weights_BT=batch["weights"], **named)
        return output.losses, output.measurements

    return jax.jit(collect)


@pytest.fixture(scope="module")
def make(tiny_experiment):
    """Plain gradient descent at rate 1, by which a step shows its gradient."""

    def made(ffn="", **changes):
        plain = {"optimizer": SGD(momentum=0.0), "schedule": "Constant(peak=1.0)", "training__clip_norm": "None"}
        return tiny_experiment(model__ffn=FFN.format(ffn), **(plain | changes))

    return made


ALL = "balance_loss=BalanceLoss(coefficient=0.1, over='sequence'), router_z_loss=0.01, load_bias=LoadBias(rate=0.5)"


def test_the_models_losses_are_minimised_and_reported_by_themselves(make, random_batch):
    without, with_losses = make(), make(ALL)
    batch = random_batch(without)
    (one, plain), (other, metrics) = (compiled(e)(start(e), batch) for e in (without, with_losses))
    assert set(metrics) - set(plain) == {"balance_loss", "router_z_loss"}
    assert set(plain) >= LOGGED
    assert float(metrics["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-6)
    losses, _ = collected(with_losses)(start(with_losses).all_params, batch)
    for name, total in losses.items():
        assert float(metrics[name]) == pytest.approx(float(total) / batch["weights"].sum(), rel=1e-5)
    routers = [np.asarray(state.params["blocks"]["ffn"]["router"]) for state in (one, other)]
    assert not np.allclose(*routers, atol=1e-4)


def test_validation_is_cross_entropy_alone(make, random_batch):
    without, with_losses = make(), make("balance_loss=BalanceLoss(coefficient=9.0), router_z_loss=9.0")
    batch, mesh = random_batch(without), make_mesh(Mesh(), jax.devices()[:1])
    sums = [compile_eval_step(e, mesh)(start(e), batch) for e in (without, with_losses)]
    assert set(sums[1]) == {"nll", "end_nll", "tokens"}
    assert float(sums[0]["nll"]) == float(sums[1]["nll"])


def test_what_the_mask_leaves_out_changes_no_load_and_no_gradient(make, random_batch):
    """Padding of other tokens: nothing sees it, since it is a document by itself."""
    experiment = make(ALL)
    batch = random_batch(experiment)
    padding = batch["segment_ids"] == 0
    assert padding.any()
    assert not batch["weights"][padding].any()
    other = batch | {"tokens": np.where(padding, 7, batch["tokens"])}
    (one, metrics), (two, same) = (compiled(experiment)(start(experiment), b) for b in (batch, other))
    for name in metrics:
        assert float(metrics[name]) == float(same[name]), name
    for name, value in flatten(one.all_params).items():
        np.testing.assert_allclose(flatten(two.all_params)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_batch_of_padding_moves_nothing(make, random_batch):
    experiment = make(ALL)
    batch = random_batch(experiment)
    batch["weights"] = np.zeros_like(batch["weights"])
    state, metrics = compiled(experiment)(start(experiment), batch)
    assert float(metrics["grad_norm"]) == 0
    for name, value in flatten(start(experiment).all_params).items():
        np.testing.assert_array_equal(flatten(state.all_params)[name], value, err_msg=name)


def test_accumulation_equals_the_large_batch(make, random_batch):
    """Losses over sequences, the z-loss, all that is logged and the biases, with as uneven masks as can be."""
    experiment = make(ALL)
    batch = random_batch(experiment)
    batch["weights"][1::2] = 0
    batch["weights"][1, :3] = 1
    split = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, gradient_accumulation=2))
    (whole, expected), (summed, metrics) = (compiled(e)(start(experiment), batch) for e in (experiment, split))
    assert set(metrics) == set(expected)
    for name in metrics:
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    for name, value in flatten(whole.all_params).items():
        np.testing.assert_allclose(flatten(summed.all_params)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.unique(np.asarray(whole.untrained["blocks"]["ffn"]["load_bias"])).tolist() == [-0.5, 0.0, 0.5]


DECAY = {"weight_decay": 0.5, "decay_also": ("*",)}


@pytest.mark.parametrize(
    "optimizer",
    representatives([AdamW(**DECAY), Muon(**DECAY), ScheduleFreeAdamW()], AdamW(**DECAY)),
    ids=lambda option: type(option).__name__,
)
def test_a_load_bias_is_moved_by_the_load_alone(optimizer, make, random_batch):
    """Over two steps: it is state, of which the optimizer knows nothing, and comes along when the run is evaluated."""
    experiment = make("load_bias=LoadBias(rate=0.5)", optimizer=optimizer, schedule="Constant(peak=0.01)")
    state, expected, moved = start(experiment), np.zeros((2, 4)), 0
    for n in range(2):
        batch = random_batch(experiment, n)
        load = np.asarray(collected(experiment)(state.all_params, batch)[1]["0"]["load"])
        moved += (load.mean(axis=1, keepdims=True) != load).sum()
        expected = expected + 0.5 * np.sign(load.mean(axis=1, keepdims=True) - load)
        state, _ = compiled(experiment)(state, batch)
        np.testing.assert_array_equal(state.untrained["blocks"]["ffn"]["load_bias"], expected)
    assert moved > 8
    evaluated = evaluation_params(optimizer, state)
    np.testing.assert_array_equal(evaluated["blocks"]["ffn"]["load_bias"], expected)
    assert jax.tree.structure(evaluated) == jax.tree.structure(abstract_params(experiment.model))
    assert "blocks.ffn.load_bias" not in flatten(state.params)
    assert not [name for name in flatten(state.opt_state) if "load_bias" in name]


def test_evaluation_chooses_experts_by_the_biases(make, random_batch):
    experiment = make("load_bias=LoadBias()")
    batch, state, mesh = random_batch(experiment), start(experiment), make_mesh(Mesh(), jax.devices()[:1])
    bias = state.untrained["blocks"]["ffn"]["load_bias"].at[:, :2].set(9.0)  # the first two, whatever the scores are
    biased = dataclasses.replace(state, untrained={"blocks": {"ffn": {"load_bias": bias}}})
    evaluate = compile_eval_step(experiment, mesh)
    plain, moved = (float(evaluate(s, batch)["nll"]) for s in (state, biased))
    settings = {"dropout_key": None, "layout": ONE_DEVICE}
    expected, _ = NextToken().loss(experiment.model, biased.all_params, batch, **settings)
    assert abs(moved - plain) > 1e-3
    assert moved == pytest.approx(float(expected), rel=1e-6)


def test_a_refused_step_moves_no_bias(make, random_batch):
    experiment = make(ALL)
    state = start(experiment)
    table = state.params["embedding"]["table"].at[3].set(np.nan)
    broken = dataclasses.replace(state, params=state.params | {"embedding": {"table": table}})
    after, metrics = compiled(experiment)(broken, random_batch(experiment))
    assert int(metrics["skipped"]) == 1
    assert not np.asarray(after.untrained["blocks"]["ffn"]["load_bias"]).any()


def test_biases_even_out_the_load(make, random_batch):
    """Of a model that does not learn: a bias makes every token choose the first expert, and the load undoes it."""
    experiment = make("load_bias=LoadBias(rate=0.02)", schedule="Constant(peak=1e-9)")
    state, busiest, batch = start(experiment), [], random_batch(experiment)
    bias = state.untrained["blocks"]["ffn"]["load_bias"].at[:, 0].set(0.3)
    state.untrained["blocks"]["ffn"]["load_bias"] = bias
    for _ in range(30):
        state, metrics = compiled(experiment)(state, batch)
        busiest.append(float(metrics["expert_load_max"]))
    assert busiest[0] == 2  # half of all choices of two, which is twice the mean of four
    assert max(busiest[-3:]) < 1.5


def test_the_share_that_is_dropped_is_logged(make, random_batch):
    experiment = make("dispatch=Capacity(factor=0.5)")
    _, metrics = compiled(experiment)(start(experiment), random_batch(experiment))
    assert 0.3 < float(metrics["experts_dropped"]) < 0.8


def test_losses_add_up():
    assert with_model_losses(1.0, {}) == 1.0
    assert with_model_losses(1.0, {"one": 2.0, "two": 3.0}) == 6.0
