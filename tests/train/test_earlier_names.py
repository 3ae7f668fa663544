"""Fields, values and parameters of the model that had other names: earlier configs and checkpoints are read."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

import train.checkpoints.store
from model.attention.grouped_query import GroupedQuery
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.feedforward.routing import Groups, SigmoidRouter
from model.layers import Except
from model.options.json import from_json, to_json
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
from model.positions.relative import RelativeBias
from model.residual import HyperConnections
from tests.train.states import assert_same_bits, open_store, restore_latest, shardings_on
from train import experiment as experiments
from train.config_file import from_file
from train.earlier import RENAMED_FIELDS, RENAMED_VALUES, current_config
from train.experiment import Experiment
from train.optimizers.options import AdamW, Muon
from train.run.loading import load_params
from train.state import StateConfig, init_sharded


def with_earlier_fields(stored):
    """The JSON of options with the earlier names of their fields, and of the values of these."""
    if isinstance(stored, list):
        return [with_earlier_fields(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    option, earlier = stored.get("type"), {}
    for name, value in stored.items():
        values = {now: old for old, now in RENAMED_VALUES.get((option, name), {}).items()}
        fields = {now: old for old, now in RENAMED_FIELDS.get(option, {}).items()}
        value = values.get(value, value) if isinstance(value, str) else with_earlier_fields(value)
        earlier[fields.get(name, name)] = value
    return earlier


def test_fields_of_the_model_with_earlier_names_are_read(tiny_experiment, tmp_path):
    router = SigmoidRouter(groups=Groups(count=2, top_k=1, score="top2_sum"))
    experts = Experts(num_experts=4, top_k=2, expert=Gated(width=16), router=router, apply_weights_to="input")
    mixer = GroupedQuery(num_heads=2, temperature=LogTemperature(step_length=3, scale=0.5))
    experiment = tiny_experiment(
        model__position=ALiBi(round_to_bfloat16=True), model__mixer=mixer, model__ffn=experts,
        model__exceptions=(Except(layers="1", position=RelativeBias(buckets=4, max_distance=9)),),
    )  # fmt: skip
    stored = with_earlier_fields(json.loads(json.dumps(to_json(experiment))))
    text = json.dumps(stored)
    for words in (
        '"rounded": true',
        '"weigh": "input"',
        '"kept": 1',
        '"score": "two_best"',
        '"floor": 3',
        '"distance": 9',
    ):
        assert words in text
    assert from_json(Experiment, current_config(stored)) == experiment
    (tmp_path / "config.json").write_text(text)
    assert experiments.load(tmp_path) == experiment
    experiments.check_same_experiment(experiment, tmp_path)


def test_fields_of_the_same_name_in_other_options_are_left_alone():
    stored = {"model": {"type": "ModelConfig", "other": {"type": "Unknown", "floor": 1, "kept": [{"weigh": 2}]}}}
    assert current_config(stored) == stored


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.position=ALiBi(rounded=True)", "ALiBi.rounded is round_to_bfloat16 now"),
        ("model.mixer.temperature=LogTemperature(floor=3, scale=0.1)", "LogTemperature.floor is step_length now"),
    ],
)
def test_an_earlier_name_is_answered_with_the_one_of_today(assignment, words, tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match="^" + re.escape(f"--set {assignment}: {words}")):
        from_file(str(path), [assignment])


def test_a_config_file_with_an_earlier_name_is_told_the_one_of_today(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from model.feedforward.routing import Groups\nGroups(count=4, kept=2)\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'kept'; it is top_k now"):
        from_file(str(path))


# ------------------------------------------------------------------------------------------ hyper-connections


def with_follow(tree):
    """Nested dicts, also within tuples, with the earlier names of dynamic weights."""
    if isinstance(tree, dict):
        return {re.sub("_dynamic(?=$|_norm$)", "_follow", name): with_follow(branch) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        branches = [with_follow(branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return tree


@pytest.mark.parametrize(
    "optimizer", [pytest.param(AdamW(), marks=pytest.mark.sweep), Muon()], ids=lambda o: type(o).__name__
)
def test_a_checkpoint_that_says_follow_for_dynamic_weights_is_read(optimizer, tiny_experiment, tmp_path, monkeypatch):
    experiment = tiny_experiment(model__residual=HyperConnections(streams=2), optimizer=optimizer)
    state = jax.device_get(init_sharded(StateConfig.of(experiment), 0, shardings_on(experiment)))
    numbers = iter(range(10**6))
    state = jax.tree.map(lambda x: np.full_like(x, next(numbers)) if x.dtype.kind == "f" else x, state)
    before = with_follow(state.params)
    assert {"mixer_follow", "ffn_follow", "ffn_follow_norm"} <= set(before["blocks"]["residual"])
    with monkeypatch.context() as patch, open_store(tmp_path) as store:
        patch.setattr(train.checkpoints.store, "CHECKPOINT_FORMAT", 3)
        old = dataclasses.replace(state, params=before, opt_state=with_follow(state.opt_state))
        store.save(experiment, jax.device_put(old, jax.devices()[0]), int(state.step), loss=None)
    (tmp_path / "config.json").write_text(json.dumps(to_json(experiment)))
    said = []
    assert_same_bits(restore_latest(tmp_path, experiment, said), jax.device_put(state, jax.devices()[0]))
    assert said == []
    np.testing.assert_array_equal(
        load_params(tmp_path).params["blocks"]["residual"]["ffn_dynamic"], before["blocks"]["residual"]["ffn_follow"]
    )


def test_patterns_of_weight_decay_that_say_follow_are_read(tiny_experiment):
    experiment = tiny_experiment(
        model__residual=HyperConnections(streams=2), optimizer=AdamW(decay_never=("*.ffn_dynamic", "*_dynamic_norm.*"))
    )
    stored = json.loads(json.dumps(to_json(experiment)))
    del stored["optimizer"]["decay_never"]
    stored["optimizer"]["spared"] = ["*.ffn_follow", "*_follow_norm.*"]
    assert from_json(Experiment, current_config(stored)) == experiment


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.attention=GRU(num_heads=2)", "ModelConfig.attention is model.mixer now"),
        ("model.attention.num_heads=2", "ModelConfig.attention is model.mixer now"),
        ("model.exceptions=(Except(layers='0', attention=GRU(num_heads=2)),)", "Except.attention is mixer now"),
    ],
)
def test_the_earlier_name_of_mixers_is_answered_with_the_one_of_today(
    assignment, words, tiny_experiment, write_config, tmp_path
):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match="^" + re.escape(f"--set {assignment}: {words}")):
        from_file(str(path), [assignment])


def test_a_config_file_with_the_earlier_name_of_mixers_is_told_the_one_of_today(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from model.config import ModelConfig\nmodel = ModelConfig(attention=None)\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'attention'; it is model.mixer now"):
        from_file(str(path))
    path.write_text("from model.layers import Except\none = Except(layers='0', attention=None)\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'attention'; it is mixer now"):
        from_file(str(path))


def test_a_config_that_says_start_from_is_read(tiny_experiment, tmp_path):
    experiment = tiny_experiment(training__init_from="/a/run")
    stored = to_json(experiment)
    stored["training"]["start_from"] = stored["training"].pop("init_from")
    assert from_json(Experiment, current_config(stored)) == experiment
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert experiments.load(tmp_path) == experiment


def test_exceptions_from_weight_decay_are_answered_with_the_names_of_today(tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match=r"AdamW.decayed is optimizer.decay_also now"):
        from_file(str(path), ["optimizer.decayed=('scale',)"])
    path.write_text("from train.optimizers.options import Muon\nMuon(spared=('embedding',))\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'spared'; it is optimizer.decay_never now"):
        from_file(str(path))


def test_start_from_is_answered_with_the_name_of_today(tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match=r"--set training.start_from=x: Training.start_from is training.init_from now"):
        from_file(str(path), ["training.start_from=x"])
    path.write_text("from train.experiment import Training\nTraining(num_steps=1, start_from='x')\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'start_from'; it is training.init_from now"):
        from_file(str(path))


@pytest.mark.parametrize("listed", [[[]], [{"a": 1}], [None, 3]])
def test_something_else_among_roles_patterns_and_taps_is_left_to_the_reader_of_options(listed, tiny_experiment):
    stored = json.loads(json.dumps(to_json(tiny_experiment())))
    stored["optimizer"]["decay_also"] = stored["optimizer"]["decay_never"] = listed
    stored["training"]["frozen"] = {"roles": listed}
    stored["model"]["attention"] = stored["model"].pop("mixer")
    stored["model"]["remat"] = {"type": "SaveOnly", "taps": listed}
    current = current_config(stored)
    assert current["optimizer"]["decay_also"] == current["optimizer"]["decay_never"] == listed
    assert current["training"]["frozen"]["roles"] == current["model"]["remat"]["taps"] == listed


def test_filters_of_rollouts_that_filtered_nothing_are_left_out():
    """Rollouts had filters of tokens, which would make their ratios wrong; one that was set is refused by its name."""
    stored = {"type": "GRPO", "rollouts": {"type": "Rollouts", "max_tokens": 5, "top_p": None, "top_k": 3}}
    found = current_config({"objective": stored})["objective"]["rollouts"]
    assert found == {"type": "Rollouts", "max_tokens": 5, "top_k": 3}
