"""Frozen parameters in a run: no gradient, no moments, no decay, and the same bits to the end."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import optax
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from model.transformer import specs
from tests.tiers import representatives
from tests.train.states import restore_latest, shardings_on
from train import schedules
from train.loop import train
from train.objectives.next_token import NextToken
from train.optimizers.frozen import Frozen
from train.optimizers.options import Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.parallel.mesh import Mesh, make_mesh
from train.report import summary, write_report
from train.run.loading import load_params, load_run
from train.run.parameter_table import bytes_per_device, describe, parameter_rows
from train.state import StateConfig, abstract_state, evaluation_params, init_state
from train.step import train_step

FROZEN = Frozen(roles=("embedding",), parts=("final_norm",))
STILL = {"embedding.table", "final_norm.scale"}


@functools.cache
def compiled(experiment):
    return jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))


@functools.cache
def start(experiment, seed=0):
    return jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), seed)


def after(experiment, steps, random_batch):
    state = start(experiment)
    for n in range(steps):
        state, metrics = compiled(experiment)(state, random_batch(experiment, n))
    return state, metrics


def shapes_made(jaxpr):
    """The shapes of all arrays that equations make, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield from (getattr(x.aval, "shape", None) for x in equation.outvars)
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from shapes_made(getattr(inner, "jaxpr", inner))


OPTIMIZERS = [AdamW(weight_decay=0.1), Muon(), ScheduleFreeAdamW()]


@pytest.fixture(scope="module", params=representatives(OPTIMIZERS, Muon()), ids=lambda o: type(o).__name__)
def optimizer(request):
    return request.param


def test_the_state_has_them_apart_and_no_moments_of_them(optimizer, tiny_experiment):
    experiment = tiny_experiment(training__frozen=FROZEN, optimizer=optimizer)
    state = abstract_state(StateConfig.of(experiment))
    assert set(flatten(state.frozen)) == STILL
    assert not STILL & set(flatten(state.params))
    everything = set(specs_by_name(specs(experiment.model)))
    assert set(flatten(state.all_params)) == everything
    assert not [name for name in flatten(state.opt_state) if any(name.endswith(still) for still in STILL)]
    assert [name for name in flatten(state.opt_state) if name.endswith("mixer.query")]


def test_they_keep_their_bits_and_the_others_move_as_by_hand(optimizer, tiny_experiment, random_batch):
    """By hand: all gradients are taken, those of frozen parameters are set to zero, and so are their updates."""
    experiment = tiny_experiment(training__frozen=FROZEN, optimizer=optimizer, training__clip_norm=0.5)
    first, (state, _) = start(experiment), after(experiment, 3, random_batch)
    for name, value in flatten(first.frozen).items():
        assert np.asarray(value).tobytes() == np.asarray(flatten(state.frozen)[name]).tobytes(), name
    model, training = experiment.model, experiment.training
    names = specs(model)
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "still" if ".".join(k.key for k in path) in STILL else "moves", names
    )
    from train.optimizers import options

    whole = optax.multi_transform(
        {"moves": options.build(optimizer, split_of(names)), "still": optax.set_to_zero()}, labels
    )
    params = first.all_params
    opt_state = whole.init(params)

    def mean(params, batch):
        total, _ = NextToken().loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)
        return total / batch["weights"].sum()

    gradient, update = jax.jit(jax.grad(mean)), jax.jit(whole.update)
    for n in range(3):
        grads = gradient(params, random_batch(experiment, n))
        grads = jax.tree.map(lambda g, label: g * (label == "moves"), grads, labels)
        scale = min(1.0, training.clip_norm / (float(optax.tree.norm(grads)) + 1e-6))
        grads = jax.tree.map(lambda g: g * scale, grads)
        rate = schedules.learning_rate(experiment.schedule, n, training.num_steps)
        inner = opt_state.inner_states["moves"]
        inner = inner._replace(inner_state=options.set_learning_rate(inner.inner_state, rate))
        opt_state = opt_state._replace(inner_states=opt_state.inner_states | {"moves": inner})
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    for name, value in flatten(params).items():
        np.testing.assert_allclose(flatten(state.all_params)[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
        moved = np.any(np.asarray(value) != np.asarray(flatten(first.all_params)[name]))
        assert moved == (name not in STILL), name


def split_of(tree):
    """The tree with what multi_transform hides from the inner transformation."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: optax.MaskedNode() if ".".join(k.key for k in path) in STILL else x, tree
    )


def test_the_step_makes_no_gradient_of_them(tiny_experiment, random_batch):
    """With an untied table of 257 x 32: nothing of that shape comes up backwards."""
    changes = {"model__unembedding": "Untied()", "data__batch_size": 8}
    plain, frozen = (
        tiny_experiment(training__frozen=option, **changes) for option in (Frozen(), Frozen(parts=("embedding",)))
    )
    shape, made = (257, 32), {}
    for experiment in (plain, frozen):
        state = abstract_state(StateConfig.of(experiment))
        jaxpr = jax.make_jaxpr(functools.partial(train_step, experiment, ONE_DEVICE))(state, random_batch(experiment))
        made[experiment] = [s for s in shapes_made(jaxpr.jaxpr) if s in (shape, shape[::-1])]
    assert shape in made[plain]
    assert made[frozen].count(shape) == 0
    assert made[frozen].count(shape[::-1]) <= 1  # the table, turned for the logits
    cost = [
        jax.jit(functools.partial(train_step, e, ONE_DEVICE))
        .lower(abstract_state(StateConfig.of(e)), random_batch(e))
        .cost_analysis()["flops"]
        for e in (plain, frozen)
    ]
    tokens = 8 * 16
    assert cost[0] - cost[1] >= 2 * tokens * 257 * 32  # the product that makes the gradient of the unembedding


def test_load_biases_of_frozen_layers_still_move(tiny_experiment, random_batch):
    ffn = "Experts(num_experts=4, top_k=2, expert=Gated(width=16), load_bias=LoadBias(rate=0.5))"
    experiment = tiny_experiment(model__ffn=ffn, training__frozen=Frozen(parts=("blocks",)))
    state, _ = after(experiment, 1, random_batch)
    assert np.asarray(state.untrained["blocks"]["ffn"]["load_bias"]).any()
    assert "load_bias" not in state.frozen["blocks"]["ffn"]


DECAYING = [AdamW(weight_decay=0.5, decay_also=("scale",)), Lion(weight_decay=0.5), Adafactor(weight_decay=0.5)]


@pytest.mark.parametrize("optimizer", representatives(DECAYING, DECAYING[0]), ids=lambda option: type(option).__name__)
def test_decay_leaves_them_alone(optimizer, tiny_experiment, random_batch):
    experiment = tiny_experiment(training__frozen=Frozen(roles=("scale",)), optimizer=optimizer)
    state, _ = after(experiment, 2, random_batch)
    assert {float(x) for scale in jax.tree.leaves(state.frozen) for x in np.ravel(scale)} == {1.0}


def test_decay_may_not_name_them(tiny_experiment):
    with pytest.raises(
        UserError, match=r"optimizer.decay_also: 'final_norm.scale' is not a role, and no trained parameter"
    ):
        tiny_experiment(
            training__frozen=Frozen(roles=("scale",)),
            optimizer=AdamW(weight_decay=0.5, decay_also=("final_norm.scale",)),
        )


def test_accumulation_and_bfloat16_keep_every_shape_and_format(tiny_experiment, random_batch):
    experiment = tiny_experiment(
        training__frozen=FROZEN, training__gradient_accumulation=2, model__precision__parameters="bfloat16"
    )
    before = abstract_state(StateConfig.of(experiment))
    next_state, _ = jax.eval_shape(
        functools.partial(train_step, experiment, ONE_DEVICE), before, random_batch(experiment)
    )
    formats = [{name: (x.shape, x.dtype) for name, x in flatten(state).items()} for state in (before, next_state)]
    assert formats[0] == formats[1]


def test_a_config_is_refused_in_the_words_of_the_option(tiny_experiment):
    with pytest.raises(UserError, match="training.frozen.roles: nothing is called 'embeddings'; roles are embedding, "):
        tiny_experiment(training__frozen="Frozen(roles=('embeddings',))")
    with pytest.raises(UserError, match="training.frozen.parts: every parameter is frozen"):
        tiny_experiment(training__frozen="Frozen(parts=('embedding', 'blocks', 'final_norm'))")


def test_averages_of_a_schedule_free_run_are_evaluated_beside_them(tiny_experiment, random_batch):
    experiment = tiny_experiment(training__frozen=FROZEN, optimizer=ScheduleFreeAdamW())
    state, _ = after(experiment, 3, random_batch)
    evaluated = flatten(evaluation_params(experiment.optimizer, state))
    assert set(evaluated) == set(specs_by_name(specs(experiment.model)))
    for name in STILL:
        np.testing.assert_array_equal(evaluated[name], flatten(start(experiment).all_params)[name])
    assert not np.array_equal(evaluated["blocks.mixer.query"], flatten(state.params)["blocks.mixer.query"])


# ------------------------------------------------------------------------------------------------------- whole runs


def silent(line):
    pass


@pytest.fixture(scope="module")
def frozen_run(tiny_experiment, tmp_path_factory):
    """A run of 8 steps with a checkpoint at 4, and the same that was stopped there and went on."""
    folder = tmp_path_factory.mktemp("frozen")
    experiment = tiny_experiment(training__frozen=FROZEN, training__num_steps=8, checkpoints__every=4)
    train(experiment, folder / "whole", say=silent)
    train(experiment, folder / "halved", hard_stop=4, say=silent)
    train(experiment, folder / "halved", say=silent)
    return experiment, folder


def test_a_resumed_run_ends_the_same(frozen_run):
    experiment, folder = frozen_run
    metrics = [(folder / name / "metrics.jsonl").read_bytes() for name in ("whole", "halved")]
    assert metrics[0] == metrics[1]
    states = [flatten(restore_latest(folder / name, experiment)) for name in ("whole", "halved")]
    for name, value in states[0].items():
        assert np.asarray(value).tobytes() == np.asarray(states[1][name]).tobytes(), name
    for name in STILL:
        first = flatten(start(experiment).all_params)[name]
        assert np.asarray(states[0][f"frozen.{name}"]).tobytes() == np.asarray(first).tobytes()


def test_another_choice_of_frozen_parameters_is_another_run(frozen_run, tiny_experiment):
    _, folder = frozen_run
    other = tiny_experiment(training__num_steps=8, checkpoints__every=4)
    with pytest.raises(UserError, match=r"training.frozen"):
        train(other, folder / "whole", say=silent)


def test_evaluation_and_fine_tuning_take_all_parameters(frozen_run, tiny_experiment, tmp_path):
    """From a run with frozen parameters, and into one: what is frozen there is what was trained here."""
    experiment, folder = frozen_run
    loaded = load_run(folder / "whole")
    assert set(flatten(loaded.params)) == set(specs_by_name(specs(experiment.model)))
    further = tiny_experiment(
        training__init_from=str(folder / "whole"),
        training__frozen=Frozen(parts=("blocks",)),
        training__num_steps=5,
        samples__prompts=(),
    )
    train(further, tmp_path / "further", say=silent)
    ended = flatten(load_params(tmp_path / "further").params)
    for name, value in flatten(loaded.params).items():
        assert np.array_equal(ended[name], value) == name.startswith("blocks."), name


def test_the_table_and_the_report_say_which(frozen_run):
    experiment, folder = frozen_run
    moved_by = {row.name: row.moved_by for row in parameter_rows(experiment)}
    assert {name for name, by in moved_by.items() if by == "nothing"} == STILL
    assert set(moved_by.values()) == {"nothing", "optimizer"}
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    still = 257 * 32 + 32
    assert f"{still:,} frozen" in describe(experiment, mesh)
    plain = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, frozen=Frozen()))
    flops = [
        int(re.search(r"FLOPs per token +([\d,]+) ", describe(e, mesh))[1].replace(",", ""))
        for e in (plain, experiment)
    ]
    assert flops[0] - flops[1] == 2 * 257 * 32  # the gradient of the table, which is also the matrix of the logits
    before, now = (bytes_per_device(e, mesh) for e in (plain, experiment))
    assert now == {
        "parameters": before["parameters"],
        "optimizer": before["optimizer"] - 2 * 4 * still,
        "gradients": before["gradients"] - 4 * still,
    }
    rows = json.loads((folder / "whole" / "parameters.json").read_text())
    assert {row["name"] for row in rows if row["moved_by"] == "nothing"} == STILL
    assert re.search(rf"parameters .*{still:,} of them frozen", summary(folder / "whole"))
    assert "embedding.table (frozen)" in write_report(folder / "whole").read_text()


def test_frozen_parameters_lie_where_the_table_says(tiny_experiment):
    experiment = tiny_experiment(training__frozen=FROZEN)
    shardings = shardings_on(experiment, devices=4, fsdp=4)
    assert (
        shardings.frozen["embedding"]["table"].spec
        == shardings_on(tiny_experiment(), devices=4, fsdp=4).params["embedding"]["table"].spec
    )
