"""Statistics of layers and roles against numbers worked out from the states before and after a step."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, forward
from tests.tiers import representatives
from tests.train.parallel.test_collectives import KINDS, loop_bodies
from train.objectives.next_token import NextToken
from train.optimizers.frozen import Frozen
from train.optimizers.options import SGD
from train.parallel.mesh import make_mesh
from train.state import StateConfig, abstract_state, init_state
from train.statistics import Statistics, statistics_rows, summary
from train.step import compile_train_step, train_step

# Layers of one kind; of two kinds in turn, which makes two stacks; with a module for tokens further on.
ALL = Statistics(every=1, attention=True, logits=True, dead_units=True)

MODELS = {
    "alike": {"model__num_layers": 3},
    "in turn": {
        "model__num_layers": 4,
        "model__exceptions": "(Except(layers='1::2', ffn=Gated(width=24)),)",
    },
    "further": {"model__multi_token": "MultiToken(depth=2)"},
    "streams": {"model__residual": "HyperConnections(streams=2)"},
}


@functools.cache
def compiled(experiment, asked=None):
    return jax.jit(functools.partial(train_step, experiment, ONE_DEVICE, statistics=asked))


def lines_of(experiment, state, batch):
    """The lines of a step, by part, layer and role; and the state after it."""
    after, metrics = compiled(experiment, experiment.statistics)(state, batch)
    state_config = StateConfig.of(experiment)
    sizes = {name: x.size for name, x in flatten(abstract_params(experiment.model)).items()}
    lines = list(
        statistics_rows(
            experiment.model, specs_by_name(state_config.specs), sizes, jax.device_get(metrics["statistics"])
        )
    )
    return {(line["part"], line["layer"], line["role"]): line for line in lines}, after


@pytest.fixture(scope="module")
def make(tiny_experiment):
    def make(name="alike", **changes):
        plain = {
            "optimizer": SGD(momentum=0.0),
            "schedule": "Constant(peak=0.5)",
            "training__clip_norm": "None",
            "statistics": Statistics(every=1),
        }
        return tiny_experiment(**MODELS[name] | plain | changes)

    return make


def start(experiment):
    return jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), 0)


def of_layers(experiment, tree):
    """Every number of a tree, by part, layer and role, sorted by hand from the names of the parameters."""
    kinds = experiment.model.layers
    first = {}
    for number, layer in enumerate(kinds):
        first.setdefault(layer, number)
    found = {}
    for name, spec in specs_by_name(StateConfig.of(experiment).specs).items():
        if name not in flatten(tree):
            continue
        array, part = np.asarray(flatten(tree)[name], np.float64), name.split(".")[0]
        if spec.axes[:1] != ("layer",):
            found.setdefault((part, None, spec.role), []).append(array.ravel())
            continue
        numbers = range(len(array))
        if part == "blocks" and len(first) > 1:
            kind = kinds[int(name.split(".")[1])]
            numbers = [number for number, layer in enumerate(kinds) if layer == kind]
        for number, one in zip(numbers, array, strict=True):
            found.setdefault((part, number, spec.role), []).append(one.ravel())
    return {key: np.concatenate(some) for key, some in found.items()}


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("scan", representatives([True, False], True), ids=["scanned", "written out"])
@pytest.mark.parametrize("name", representatives(MODELS, "in turn", "further"))
def test_the_numbers_are_those_worked_out_by_hand(name, scan, make, random_batch):
    """Plain descent at rate 1/2 without clipping: an update is half of the gradient, and the state shows it."""
    experiment = make(name, model__scan_layers=scan)
    state, batch = start(experiment), random_batch(experiment)
    lines, after = lines_of(experiment, state, batch)
    before, moved = (of_layers(experiment, tree) for tree in (state.params, after.params))
    assert {key for key in lines if key[2] != "stream"} == set(before)
    for key, params in before.items():
        line, update = lines[key], moved[key] - params
        assert line["parameters"] == pytest.approx(rms(params), rel=1e-5, abs=1e-12), key
        assert line["updates"] == pytest.approx(rms(update), rel=2e-3, abs=1e-8), key
        assert line["gradients"] == pytest.approx(2 * line["updates"], rel=1e-5, abs=1e-12), key
        expected = line["updates"] / line["parameters"] if line["parameters"] else None
        assert line["ratio"] == (None if expected is None else pytest.approx(expected, rel=1e-5)), key
    inputs = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}
    run = lambda p: forward(experiment.model, p, batch["tokens"], taps=["block_output"], **inputs).taps  # noqa: E731
    taps = jax.jit(run)(state.all_params)
    counted = batch["weights"] > 0
    assert not counted.all()
    for layer, stream in enumerate(np.asarray(taps["block_output"], np.float64)):
        assert lines["blocks", layer, "stream"]["stream"] == pytest.approx(rms(stream[counted]), rel=1e-5)
    assert len([key for key in lines if key[2] == "stream"]) == experiment.model.num_layers


def test_signs_of_instability_are_those_worked_out_by_hand(make, random_batch):
    """Largest and mean attention scores, the log-normaliser and dead units, from the logits and taps of a forward."""
    experiment = make(statistics=ALL, model__ffn="MLP(width=64, activation='relu')", model__num_layers=3)
    state, batch = start(experiment), random_batch(experiment)
    params = state.all_params
    up = np.array(params["blocks"]["ffn"]["up"])
    up[1, :, :5] = 0  # five silent units, and one that is almost silent
    up[1, :, 5] *= 1e-4
    params["blocks"]["ffn"]["up"] = up
    state = dataclasses.replace(state, params=params)
    lines, _ = lines_of(experiment, state, batch)
    inputs = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}

    @jax.jit
    def run(params):
        output = forward(experiment.model, params, batch["tokens"], taps=["query", "key", "ffn_hidden"], **inputs)
        return output.logits_BTV, output.taps

    logits_BTV, taps = run(params)
    taps = {name: np.asarray(x, np.float64) for name, x in taps.items()}
    counted, ids = batch["weights"] > 0, batch["segment_ids"]
    seen = np.tril(np.ones((16, 16), bool)) & (ids[:, :, None] == ids[:, None])
    for layer in range(3):
        keys = np.repeat(taps["key"][layer], 2, axis=2)
        scores = np.einsum("btnh,bsnh->nbts", taps["query"][layer], keys) / np.sqrt(8)
        line = lines["blocks", layer, "attention"]
        assert line["score_max"] == pytest.approx(scores[:, seen & counted[..., None]].max(), rel=1e-4)
        means = (np.square(scores) * seen).sum(-1) / seen.sum(-1)
        assert line["score_rms"] == pytest.approx(np.sqrt(means[:, counted].mean()), rel=1e-4)
        hidden = np.abs(taps["ffn_hidden"][layer][counted])
        dead = (hidden.max(0) < 0.01 * rms(hidden)).mean()
        assert lines["blocks", layer, "ffn"]["dead_units"] == pytest.approx(dead) == (6 / 64 if layer == 1 else 0)
    log_z = np.log(np.exp(np.asarray(logits_BTV, np.float64)).sum(-1))
    assert lines["logits", None, "logits"]["log_z"] == pytest.approx(log_z[counted].mean(), rel=1e-5)
    of_all = summary(list(lines.values()))
    assert of_all["score_max"] == max(lines["blocks", layer, "attention"]["score_max"] for layer in range(3))
    assert of_all["dead_units"] == pytest.approx(2 / 64)
    assert of_all["stream"] == lines["blocks", 2, "stream"]["stream"]
    ratios = [line["ratio"] for line in lines.values() if line.get("ratio")]
    assert of_all["ratio"] == pytest.approx(np.exp(np.mean(np.log(ratios))))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mixer": "LSTM()", "position": "NoPositions()"}, "attention: needs .*, and no layer has attention; set it F"),
        (
            {"exceptions": "(Except(layers='1', mixer=GroupedQuery(num_heads=2)),)"},
            "attention: .* layers have 2 and 4 heads; set it False",
        ),
        ({"ffn": "None"}, "dead_units: needs feed-forwards, or shared experts, of one width, and no layer has any"),
        ({"exceptions": "(Except(layers='1', ffn=MLP(width=8)),)"}, "dead_units: .* layers have 8 and 64 units"),
    ],
)
def test_statistics_that_no_layer_has_are_refused(tiny_experiment, changes, expected):
    with pytest.raises(UserError, match=f"statistics.{expected}"):
        tiny_experiment(statistics=ALL, **{f"model__{name}": value for name, value in changes.items()})


def test_micro_batches_give_the_numbers_of_the_whole(make, random_batch):
    whole, parts = make(statistics=ALL), make(statistics=ALL, training__gradient_accumulation=4)
    batch = random_batch(whole)
    batch["weights"][1::2] = 0
    one, other = (lines_of(e, start(e), batch)[0] for e in (whole, parts))
    assert one.keys() == other.keys()
    for key, line in one.items():
        for name in line.keys() - {"part", "layer", "role"}:
            assert other[key][name] == pytest.approx(line[name], rel=1e-4), key


def test_what_is_frozen_has_none(make, random_batch):
    experiment = make(training__frozen=Frozen(parts=("embedding",)))
    lines, _ = lines_of(experiment, start(experiment), random_batch(experiment))
    assert {part for part, _, _ in lines} == {"blocks", "final_norm"}


def test_they_are_due_every_so_many_steps_and_at_the_last():
    assert [step for step in range(1, 9) if Statistics(every=3).is_due(step, 8)] == [3, 6, 8]


def test_nothing_of_them_is_in_the_step_without_them(make, random_batch):
    """Not even where others have them: it is the program of an experiment that asks for none."""
    plain, asked = (make(statistics=x) for x in (None, Statistics()))
    state, batch = abstract_state(StateConfig.of(plain)), random_batch(plain)
    programs = [compiled(e, x).lower(state, batch).as_text() for e in (plain, asked) for x in (None, Statistics())]
    assert programs[0] == programs[2]
    assert programs[1] == programs[3] != programs[0]
    assert "statistics" not in jax.eval_shape(compiled(asked), state, batch)[1]
    without_stream = compiled(asked, Statistics(stream=False)).lower(state, batch)
    assert len(programs[0]) < len(without_stream.as_text()) < len(programs[1])
    assert jax.eval_shape(compiled(asked, Statistics(stream=False)), state, batch)[1]["statistics"]["taps"] == {}


def test_no_loop_over_layers_sends_more_with_them(make, random_batch):
    """A collective in a loop and one outside, neither of which needs the other, can wait for each other for ever."""
    experiment = make()
    mesh = make_mesh(experiment.mesh)
    assert mesh.size == 8
    state, batch, sent = abstract_state(StateConfig.of(experiment)), random_batch(experiment), []
    for asked in (None, ALL):
        text = compile_train_step(experiment, mesh, asked).lower(state, batch).compile().as_text()
        sent.append(sum(len(re.findall(rf" = .+? (?:{KINDS})(?:-start)?\(", body)) for body in loop_bodies(text)))
    assert sent[0] == sent[1] > 0


def test_the_curve_is_the_same_with_them(make, random_batch):
    experiment, ends = make(), []
    for asked in (None, experiment.statistics):
        state = start(experiment)
        for n in range(3):
            state, metrics = compiled(experiment, asked)(state, random_batch(experiment, n))
        ends.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_a_stream_that_not_every_layer_has_is_not_numbered(make, random_batch):
    experiment = make()
    _, metrics = compiled(experiment, experiment.statistics)(start(experiment), random_batch(experiment))
    sums = jax.device_get(metrics["statistics"])
    sums = sums | {"taps": {name: squares[1:] for name, squares in sums["taps"].items()}}
    sizes = {name: x.size for name, x in flatten(abstract_params(experiment.model)).items()}
    with pytest.raises(ValueError, match="zip"):
        list(statistics_rows(experiment.model, specs_by_name(StateConfig.of(experiment).specs), sizes, sums))


def test_a_period_without_sense_is_refused(make):
    with pytest.raises(UserError, match="statistics.every: must be at least 1, got 0"):
        make(statistics="Statistics(every=0)")


def test_the_objective_gives_the_taps_that_are_asked_for(make, random_batch):
    experiment = make()
    batch, params = random_batch(experiment), start(experiment).all_params
    for taps in ((), ("stream_squares",)):
        _, sums = NextToken().loss(experiment.model, params, batch, dropout_key=None, layout=ONE_DEVICE, taps=taps)
        assert set(sums.taps) == set(taps)
