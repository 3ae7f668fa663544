import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.parameters.specs import Spec
from tests.tiers import SWEEP, representatives
from train.loop import train
from train.optimizers import options as optimizers
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.optimizers.rounding import lost_updates, low_precision_arrays, share_unchanged_at, update_size, warnings
from train.report.run import headline_numbers, load
from train.run.loading import load_params
from train.run.metrics import read_metrics
from train.state import StateConfig, init_state
from train.step import train_step

BF16 = dict(model__precision__parameters="bfloat16")


def of(*numbers, dtype=jnp.bfloat16):
    return jnp.array(numbers, dtype)


def first_state(experiment):
    state_config = StateConfig.of(experiment)
    return init_state(state_config, experiment.training.seed)


# ------------------------------------------------------------------------------------------------------- the share


def test_an_update_is_lost_where_it_is_not_zero_and_changes_nothing():
    before = {"a": of(1, 1, 1, 0), "b": of(1, dtype=jnp.float32)}
    updates = {"a": of(0.001, 0.01, 0, 0.001), "b": of(1e-12, dtype=jnp.float32)}
    after = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), before, updates)
    assert float(lost_updates(before, updates, after)["lost_updates"]) == 1 / 4  # of those of low precision


def test_float32_parameters_lose_nothing_that_is_counted():
    ones = {"a": jnp.ones(3)}
    assert lost_updates(ones, ones, ones) == {}
    assert low_precision_arrays({"a": jnp.ones(3), "b": of(1), "c": jnp.ones(3, jnp.int8)}) == [of(1)]


def test_what_bfloat16_rounds_away():
    """A 512th of a number just below a power of two, a 256th of one just above it: half of the space between two."""
    below, above = of(2 - 2**-7), of(1 + 2**-7)
    assert float(share_unchanged_at({"a": below}, 2**-8 * 0.99)) == 1
    assert float(share_unchanged_at({"a": below}, 2**-8 * 1.01)) == 0
    assert float(share_unchanged_at({"a": above}, 2**-8 * 0.99)) == 1
    assert float(share_unchanged_at({"a": above}, 2**-8 * 1.01)) == 0
    assert float(share_unchanged_at({"a": of(1)}, 2**-9 * 1.01)) == 0.5  # numbers are closer together below 1
    assert float(share_unchanged_at({"a": of(0, 1), "b": jnp.ones(5)}, 1e-5)) == 0.5


@pytest.mark.parametrize("scan", representatives([True, False], True))
def test_the_step_counts_what_it_loses(scan, tiny_experiment, random_batch):
    experiment = tiny_experiment(schedule="Constant(peak=1e-4)", optimizer=AdamW(), model__scan_layers=scan, **BF16)
    state = first_state(experiment)
    after, metrics = jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))(state, random_batch(experiment))
    kept = sum(int(np.sum(p == q)) for p, q in zip(*map(jax.tree.leaves, (state.params, after.params)), strict=True))
    assert all(np.all(m != 0) for m in jax.tree.leaves(after.opt_state.inner_state[0].mu))  # all had an update
    size = sum(p.size for p in jax.tree.leaves(state.params))
    assert kept > size / 20
    assert float(metrics["lost_updates"]) == pytest.approx(kept / size, abs=1e-6)
    exact = tiny_experiment()
    shapes = jax.eval_shape(
        functools.partial(train_step, exact, ONE_DEVICE),
        jax.eval_shape(lambda: first_state(exact)),
        random_batch(exact),
    )
    assert "lost_updates" not in shapes[1]


# ----------------------------------------------------------------------------------------------------- the warnings


@pytest.fixture(scope="module")
def small_rate(tiny_experiment, tmp_path_factory):
    """A run of 60 steps in bfloat16 at a rate of 1e-5: its experiment, its folder, its lines."""
    experiment = tiny_experiment(
        schedule="Constant(peak=1e-5)",
        optimizer=AdamW(),
        training__num_steps=60,
        evaluation__every=60,
        checkpoints__every=60,
        samples__prompts=(),
        **BF16,
    )
    run, said = tmp_path_factory.mktemp("rounding") / "run", []
    train(experiment, run, say=said.append)
    return experiment, run, said


def test_the_share_that_is_said_at_the_start_is_the_share_that_never_moves(small_rate):
    experiment, run, said = small_rate
    before, after = first_state(experiment).params, load_params(run).params
    same = sum(int(np.sum(p == q)) for p, q in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    unchanged = same / sum(p.size for p in jax.tree.leaves(before))
    told = float(share_unchanged_at(before, 1e-5))
    assert 0.8 < unchanged < 0.95
    assert told == pytest.approx(unchanged, abs=0.005)
    (warning,) = (line for line in said if line.startswith("WARNING"))
    assert warning.startswith(
        f"WARNING: {told:.1%} of the parameters will keep their value: they are stored as bfloat16"
    )
    for words in ("about 1e-05 (at schedule.peak=1e-05)", "Set model.precision.parameters=float32", "lost_updates"):
        assert words in warning


def test_the_share_stands_in_the_metrics_and_in_the_report(small_rate):
    experiment, run, _ = small_rate
    shares = [line["lost_updates"] for line in read_metrics(run) if line["kind"] == "train"]
    assert len(shares) == 60
    assert shares[0] == pytest.approx(float(share_unchanged_at(first_state(experiment).params, 1e-5)), abs=0.06)
    (fact,) = (fact for fact in headline_numbers(load(run)) if fact.label == "Updates lost to rounding")
    assert fact.value == f"{np.mean(shares):.1%}"


def said_of(tiny_experiment, **changes):
    experiment = tiny_experiment(**(BF16 | changes))
    state = jax.jit(lambda: first_state(experiment))()
    return warnings(experiment, state.params, state.opt_state)


@pytest.mark.parametrize(
    "changes",
    [
        dict(model__precision__parameters="float32"),
        pytest.param(dict(schedule="Constant(peak=1e-2)"), marks=SWEEP),
        dict(optimizer=SGD()),  # whose updates are as large as the gradients make them
        dict(optimizer=Adafactor(scale_by_parameter=True)),
    ],
    ids=["float32", "large rate", "SGD", "relative"],
)
def test_no_warning_where_nothing_is_known_to_be_lost(changes, tiny_experiment):
    assert said_of(tiny_experiment, **(dict(schedule="Constant(peak=1e-5)") | changes)) == []


@pytest.mark.parametrize(
    "option",
    representatives([AdamW(), Lion(), Muon(), Adafactor(), ScheduleFreeAdamW()], AdamW(), Muon()),
    ids=lambda o: type(o).__name__,
)
def test_every_optimizer_whose_updates_follow_the_rate_is_judged(option, tiny_experiment):
    (told,) = said_of(tiny_experiment, schedule="Constant(peak=1e-5)", optimizer=option)
    size = update_size(tiny_experiment(schedule="Constant(peak=1e-5)", optimizer=option))
    assert size == pytest.approx(2e-6 if isinstance(option, Muon) else 1e-5)
    assert f"an update of about {size:g} " in told


@pytest.mark.parametrize(
    ("option", "names"),
    representatives(
        [
            (AdamW(b2=0.999), ["b2"]),
            (AdamW(b1=0.997, b2=0.9999), ["b1", "b2"]),
            (AdamW(b2=0.996), []),
            (Lion(b1=0.999), []),  # which is a weight, not a stored average
            (Lion(b2=0.999), ["b2"]),
            (Muon(momentum=0.999), ["momentum"]),
            (Muon(adam_b2=0.999), ["adam_b2"]),
            (SGD(momentum=0.999), ["momentum"]),
            (ScheduleFreeAdamW(b2=0.999), ["b2"]),
            (Adafactor(), []),
        ],
        (AdamW(b1=0.997, b2=0.9999), ["b1", "b2"]),
        (Lion(b1=0.999), []),
        (Muon(adam_b2=0.999), ["adam_b2"]),
    ),
    ids=str,
)
def test_averages_that_cannot_fall_are_named(option, names, tiny_experiment):
    told = said_of(tiny_experiment, optimizer=option)
    assert [line.split("=")[0] for line in told] == [f"WARNING: optimizer.{name}" for name in names]
    assert said_of(tiny_experiment, optimizer=option, model__precision__parameters="float32") == []


def test_adafactor_is_warned_of_from_the_step_on_at_which_it_cannot_forget(tiny_experiment):
    assert said_of(tiny_experiment, optimizer=Adafactor(), training__num_steps=1024) == []
    (told,) = said_of(tiny_experiment, optimizer=Adafactor(), training__num_steps=1025)
    assert told.startswith("WARNING: optimizer.decay_rate=0.8: from step 1,024 on ")


@pytest.mark.parametrize(("b2", "falls"), [(0.95, True), (0.996, True), (0.999, False)])
def test_an_average_in_bfloat16_falls_up_to_the_limit(b2, falls):
    """A second moment after one gradient of 2 and 4,000 of zero, which is the case that the warnings describe."""
    optimizer = optimizers.build(AdamW(b2=b2), {"w": Spec(role="scale", axes=("embed",))})
    params = {"w": of(1.0)}

    @jax.jit
    def after(steps):
        def update(i, state):
            return optimizer.update({"w": jnp.where(i == 0, of(2.0), of(0.0))}, state, params)[1]

        return jax.lax.fori_loop(0, steps, update, optimizer.init(params))

    first, last = (float(after(n).inner_state[0].nu["w"][0]) for n in (1, 4001))
    assert first == pytest.approx(4 * (1 - b2), rel=0.01)
    assert (last < first / 100) is falls
    assert math.isclose(first, last) is not falls
