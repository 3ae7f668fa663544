"""Runs that train adapters beside the frozen parameters of another run: what moves, what the state and the step hold."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.parameters.adapters import DoRA, LoRA
from model.parameters.names import flatten
from model.parameters.quantized_weights import QuantizedWeights
from tests.tiers import representatives
from tests.train.parallel.test_collectives import collectives, sizes_of
from tests.train.test_frozen_parameters import shapes_made
from train import experiment as experiments
from train.conversion.quantizing import quantize_run
from train.loop import train
from train.parallel.mesh import Mesh, make_mesh
from train.run.loading import load_params
from train.run.parameter_table import describe
from train.run.pretrained import check_start, initial_params
from train.state import StateConfig, abstract_state, init_state, state_shardings
from train.step import compile_train_step, train_step


def silent(line):
    pass


def plain_name(name):
    return name.replace(".base", "")


@pytest.fixture(scope="module")
def adapted(tiny_experiment, tiny_run, tmp_path_factory):
    """A run of three steps that trains adapters of the tiny run, and its experiment."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    experiment = tiny_experiment(
        training__init_from=str(tiny_run),
        training__num_steps=3,
        schedule__warmup_steps=0,
        model__adapters=LoRA(rank=2),
        samples__prompts=(),
    )
    train(experiment, folder, say=silent)
    return experiment, folder


def test_a_run_trains_adapters_and_nothing_else(adapted, tiny_run):
    _, folder = adapted
    base, ended = (flatten(load_params(run).params) for run in (tiny_run, folder))
    kept = {name: x for name, x in ended.items() if "lora" not in name}
    assert {plain_name(name) for name in kept} == set(base)
    for name, x in kept.items():
        assert np.asarray(x).tobytes() == np.asarray(base[plain_name(name)]).tobytes(), name
    factors = [x for name, x in ended.items() if name.endswith("lora_b")]
    assert len(factors) == 7
    assert all(np.asarray(x).any() for x in factors)


def test_the_state_has_moments_of_adapters_alone(adapted):
    """By the bytes: the frozen model once, and of each adapter its numbers and two moments."""
    experiment, _ = adapted
    state = abstract_state(StateConfig.of(experiment))
    count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))  # noqa: E731
    rank, layers, width, ffn = 2, 2, 32, 64
    sides = [(width, 32), (width, 16), (width, 16), (32, width), (width, ffn), (width, ffn), (ffn, width)]
    expected = layers * rank * sum(a + b for a, b in sides)
    assert count(state.params) == expected
    moments = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * 4 * expected
    whole = dataclasses.replace(experiment.model, adapters=None)
    full = abstract_state(dataclasses.replace(StateConfig.of(experiment), model=whole))
    assert count(state.frozen) == count(full.params)
    text = describe(experiment, make_mesh(Mesh(), jax.devices()[:1]))
    assert f"{count(state.frozen):,} frozen" in text


def test_the_step_makes_no_gradient_of_a_frozen_matrix(adapted, random_batch):
    """Nor the matrix W + s A B: of the shape of W there is at most W itself, turned or flattened for a product."""
    experiment, _ = adapted
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, scan_layers=False))
    state = abstract_state(StateConfig.of(experiment))
    jaxpr = jax.make_jaxpr(functools.partial(train_step, experiment, ONE_DEVICE))(state, random_batch(experiment))
    made = [s for s in shapes_made(jaxpr.jaxpr) if s in ((32, 64), (64, 32))]
    # Of gate, up and down in two layers: a slice of the stack, and that slice in another shape, forward and backward.
    full = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, adapters=None))
    jaxpr = jax.make_jaxpr(functools.partial(train_step, full, ONE_DEVICE))(
        abstract_state(StateConfig.of(full)), random_batch(full)
    )
    trained = [s for s in shapes_made(jaxpr.jaxpr) if s in ((32, 64), (64, 32))]
    assert len(made) <= len(trained) - 2 * 3


@pytest.mark.parametrize("option", representatives([LoRA(rank=2), DoRA(rank=2)], LoRA(rank=2)), ids=["lora", "dora"])
def test_a_run_starts_as_the_run_that_it_reads(option, tiny_experiment, tiny_run, random_batch):
    """On eight devices: the parameters lie where the table says, and the first loss is that of the other run."""
    experiment = tiny_experiment(
        training__init_from=str(tiny_run), model__adapters=option, mesh=Mesh(fsdp=8), training__num_steps=9
    )
    params = initial_params(experiment)
    mesh = make_mesh(experiment.mesh)
    for x, placed in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(state_shardings(StateConfig.of(experiment), mesh, experiment.sharding).all_params),
        strict=True,
    ):
        assert x.sharding == placed
    base = flatten(load_params(tiny_run).params)
    for name, x in flatten(params).items():
        if "lora" not in name and "magnitude" not in name:
            np.testing.assert_array_equal(x, base[plain_name(name)], err_msg=name)
        if name.endswith("ffn.down.magnitude"):
            norms = np.sqrt((np.asarray(base["blocks.ffn.down"], np.float64) ** 2).sum(axis=1))
            np.testing.assert_allclose(x, norms, rtol=1e-5)
        assert np.asarray(x).any() != name.endswith("lora_b"), name


def test_a_model_that_differs_in_more_is_refused(tiny_experiment, tiny_run, adapted):
    _, folder = adapted
    with pytest.raises(UserError, match=r"has another model .*:\n  model.num_layers: 2 -> 1\n"):
        check_start(tiny_experiment(training__init_from=str(tiny_run), model__adapters=LoRA(), model__num_layers=1))
    with pytest.raises(UserError, match="model.adapters.rank: 2 -> 4"):
        check_start(tiny_experiment(training__init_from=str(folder), model__adapters=LoRA(rank=4)))
    with pytest.raises(UserError, match="model.adapters: LoRA -> None|model.adapters"):
        check_start(tiny_experiment(training__init_from=str(folder)))
    with pytest.raises(UserError, match="model.adapters.roles: 'value:heads' chooses no matrix"):
        tiny_experiment(model__adapters=LoRA(roles=("projection", "value:heads")))
    with pytest.raises(UserError, match="every parameter is frozen"):
        tiny_experiment(model__adapters=LoRA(), training__frozen="Frozen(roles=('adapter',))")


# --------------------------------------------------------------------------------------------------- a quantised base


@pytest.mark.sweep
def test_adapters_are_trained_beside_a_quantised_base(tiny_experiment, tiny_run, tmp_path):
    quantize_run(tiny_run, tmp_path / "int4", QuantizedWeights(format="int4", group=16))
    model = experiments.load(tmp_path / "int4").model
    experiment = tiny_experiment(
        training__init_from=str(tmp_path / "int4"),
        training__num_steps=3,
        schedule__warmup_steps=0,
        model=dataclasses.replace(model, adapters=LoRA(rank=2)),
        samples__prompts=(),
    )
    train(experiment, tmp_path / "run", say=silent)
    before, after = (flatten(load_params(tmp_path / run).params) for run in ("int4", "run"))
    for name, x in after.items():
        if "lora" not in name:
            assert np.asarray(x).tobytes() == np.asarray(before[plain_name(name)]).tobytes(), name
    assert all(np.asarray(x).any() for name, x in after.items() if name.endswith("lora_b"))
    for changes, problem in (
        ({"model__adapters": None}, "for inference alone; train the run that they were made from"),
        ({"model__precision__weights": None}, "stored as int4:16, and those of this run as None"),
        ({"model__precision__weights__format": "int8"}, "stored as int4:16, and those of this run as int8:16"),
    ):
        changed = tiny_experiment(training__init_from=str(tmp_path / "int4"), model=experiment.model, **changes)
        with pytest.raises(UserError, match=problem):
            check_start(changed)


def test_a_step_keeps_no_matrix_of_a_quantised_base_for_the_backward_pass(tiny_experiment, random_batch):
    """Of eight layers of 64 x 256: one matrix at a time is made in float32, and no stack of them."""
    experiment = tiny_experiment(
        model__num_layers=8,
        model__width=64,
        model__ffn="Gated(width=256)",
        model__precision__weights=QuantizedWeights(format="int8"),
        model__adapters=LoRA(rank=1),
    )
    step = jax.jit(functools.partial(train_step, experiment, ONE_DEVICE), donate_argnums=0)
    compiled = step.lower(abstract_state(StateConfig.of(experiment)), random_batch(experiment)).compile()
    made = {sizes_of(*map(int, sizes.split(","))) for sizes in re.findall(r"f32\[([\d,]+)\]", compiled.as_text())}
    assert sizes_of(64, 256) in made
    assert sizes_of(8, 64, 256) not in made


# ---------------------------------------------------------------------------------------------------------- a mesh


def test_on_a_mesh_the_step_is_the_same_and_gathers_no_stack(tiny_experiment, random_batch):
    experiment = tiny_experiment(
        model__adapters=LoRA(rank=2), mesh=Mesh(fsdp=4, tensor=2), model__vocab_size=256, samples__prompts=()
    )
    config, batch = StateConfig.of(experiment), random_batch(experiment)
    start = jax.jit(init_state, static_argnums=0)(config, 0)
    whole, _ = jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))(start, batch)
    mesh = make_mesh(experiment.mesh)
    shardings = state_shardings(config, mesh, experiment.sharding)
    program = compile_train_step(experiment, mesh).lower(abstract_state(config), batch).compile()
    state, _ = program(jax.device_put(jax.jit(init_state, static_argnums=0)(config, 0), shardings), batch)
    for name, x in flatten(whole.params).items():
        np.testing.assert_allclose(flatten(state.params)[name], x, rtol=2e-3, atol=2e-5, err_msg=name)
    sent = collectives(program.as_text())
    assert sent
    largest = max(math.prod(sizes) for _, _, sizes in sent)
    assert largest <= 256 * 32, "a table, or one matrix of a layer; no stack of them"
    reduced = [sizes for kind, _, sizes in sent if kind in ("all-reduce", "reduce-scatter")]
    assert sizes_of(32, 64) not in reduced, "a gradient of a frozen matrix"
