"""Runs that earlier versions wrote: configs with `no_decay`, checkpoints whose load biases lie among the parameters.

Their norms lie beside the sublayers, and their exceptions say None for "same".
"""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

import train.checkpoints.store
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.layers import Except
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from model.parameters.names import flatten, unflatten
from model.parameters.specs import merge
from model.positions.absolute import NoPositions
from model.recompute import SaveOnly
from model.recurrent.gru import GRU
from model.transformer import specs
from model.vocabulary.multi_token import MultiToken
from tests.tiers import representatives
from tests.train.states import abstract_state_of, assert_same_bits, open_store, restore_latest, shardings_on
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.config_file import from_file
from train.earlier import current_config, current_sharding
from train.experiment import Checkpoints, Experiment
from train.optimizers import options as optimizers
from train.optimizers.frozen import Frozen
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, mesh_axes
from train.run.loading import load_params
from train.state import StateConfig, init_sharded, partition_params

FFN = "Experts(num_experts=4, top_k=2, expert=Gated(width=16), load_bias=LoadBias())"


def with_decayed(stored):
    """The JSON of an experiment with the earlier names of the exceptions from weight decay."""
    names = {"decay_also": "decayed", "decay_never": "spared"}
    stored["optimizer"] = {names.get(name, name): value for name, value in stored["optimizer"].items()}
    return stored


def with_attention(experiment):
    """The JSON that an experiment had when its mixers were called attention."""
    stored = json.loads(json.dumps(to_json(experiment)))
    for option in (stored["model"], *stored["model"]["exceptions"]):
        option["attention"] = option.pop("mixer")
    return with_decayed(stored)


def as_it_was(experiment, no_decay=("*.scale", "*bias")):
    """The JSON that an experiment with these patterns had."""
    stored = with_attention(experiment)
    for field in ("decayed", "spared"):
        del stored["optimizer"][field]
    stored["optimizer"]["no_decay"] = list(no_decay)
    for exception in stored["model"]["exceptions"]:
        exception |= {name: None for name, value in exception.items() if value == "same"}
    return stored


def changed(tree, dicts):
    """Nested dicts, also within tuples, each as the function makes it of one whose branches are changed."""
    if isinstance(tree, dict):
        return dicts({name: changed(branch, dicts) for name, branch in tree.items()})
    if isinstance(tree, tuple):
        branches = [changed(branch, dicts) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return tree


def attention_for_mixer(branches):
    return {re.sub("^mixer(?=$|_)", "attention", name): branch for name, branch in branches.items()}


def without_residual(branches):
    """What lies under `residual` one level higher."""
    inside = {name: branch for name, branch in branches.items() if name != "residual"}
    return inside | branches.get("residual", {})


def named_before(tree):
    return changed(changed(tree, attention_for_mixer), without_residual)


def test_a_config_with_no_decay_is_read(tiny_experiment, tmp_path):
    experiment = tiny_experiment(optimizer=AdamW(weight_decay=0.3))
    assert from_json(Experiment, current_config(as_it_was(experiment))) == experiment
    (tmp_path / "config.json").write_text(json.dumps(as_it_was(experiment)))
    assert experiments.load(tmp_path) == experiment
    experiments.check_same_experiment(experiment, tmp_path)


@pytest.mark.parametrize(
    ("no_decay", "fields"),
    [
        ((), {"decay_also": ("scale", "bias", "router_bias", "decay_bias")}),
        (("*bias",), {"decay_also": ("scale",)}),
        (("*.scale", "*bias", "embedding.*"), {"decay_never": ("embedding.*",)}),
        (("*.scale", "*bias", "blocks.ffn_gain"), {"decay_never": ("blocks.residual.ffn_gain",)}),
    ],
)
def test_patterns_of_no_decay_become_roles(no_decay, fields, tiny_experiment):
    experiment = tiny_experiment(optimizer=AdamW(weight_decay=0.3))
    read = from_json(Experiment, current_config(as_it_was(experiment, no_decay)))
    assert read.optimizer == AdamW(weight_decay=0.3, **fields)


def test_earlier_roles_are_read(tiny_experiment):
    experiment = tiny_experiment(
        model__residual="HyperConnections(streams=2)",
        optimizer=AdamW(weight_decay=0.3, decay_also=("bias",), decay_never=("dynamic_mixing", "embedding.*")),
        training__frozen=Frozen(roles=("scale", "dynamic_mixing")),
    )
    stored = to_json(experiment)
    optimizer = stored["optimizer"]
    optimizer["decayed"], optimizer["spared"] = optimizer.pop("decay_also"), list(optimizer.pop("decay_never"))
    optimizer["spared"][0] = stored["training"]["frozen"]["roles"][1] = "follower"
    assert from_json(Experiment, current_config(stored)) == experiment


def test_exceptions_with_none_for_what_is_the_same_are_read(tiny_experiment):
    experiment = tiny_experiment(model__exceptions=(Except(layers="0", ffn=MLP(width=24)),))
    stored = as_it_was(experiment)
    assert stored["model"]["exceptions"][0]["attention"] is None
    assert from_json(Experiment, current_config(stored)) == experiment


def test_a_config_of_this_version_is_left_alone(tiny_experiment):
    stored = to_json(tiny_experiment(optimizer=AdamW(decay_never=("embedding",))))
    assert current_config(stored) == stored


@pytest.mark.parametrize(
    "optimizer",
    [
        cls(weight_decay=0.3, decay_also=("scale",), decay_never=("embedding", "blocks.ffn.*"))
        for cls in (AdamW, Adafactor, Lion, Muon, SGD, ScheduleFreeAdamW)
    ],
    ids=lambda option: type(option).__name__,
)
def test_the_earlier_names_of_exceptions_from_weight_decay_are_read(optimizer, tiny_experiment):
    experiment = tiny_experiment(optimizer=optimizer)
    stored = with_decayed(json.loads(json.dumps(to_json(experiment))))
    assert stored["optimizer"]["spared"] == ["embedding", "blocks.ffn.*"]
    assert from_json(Experiment, current_config(stored)) == experiment


def earlier(experiment):
    """A state of the earlier structure, all numbers noise, and what it is now."""
    state_config = StateConfig.of(experiment)
    state = jax.device_get(init_sharded(state_config, 0, shardings_on(experiment)))
    draw = np.random.default_rng(0)

    def noise(x):
        return draw.normal(size=x.shape).astype(x.dtype) if x.dtype.kind == "f" else np.asarray(x + 7)

    everything = jax.tree.map(noise, state.all_params)
    optimizer = optimizers.build(experiment.optimizer, specs(experiment.model))
    moments = jax.tree.map(lambda x: noise(np.asarray(x)), optimizer.init(everything))
    old = dataclasses.replace(state, params=everything, untrained={}, opt_state=moments)
    parts = partition_params(state_config, everything)
    without = {name: x for name, x in flatten(moments).items() if "load_bias" not in name}
    opt_state = unflatten(state.opt_state, without)
    return old, dataclasses.replace(state, **parts._asdict(), opt_state=opt_state)


def save_as_before(experiment, state, run, monkeypatch):
    with monkeypatch.context() as patch, open_store(run) as store:
        patch.setattr(train.checkpoints.store, "CHECKPOINT_FORMAT", 1)
        patch.setattr(train.checkpoints.store, "to_json", as_it_was)
        state = dataclasses.replace(state, params=named_before(state.params), opt_state=named_before(state.opt_state))
        store.save(experiment, jax.device_put(state, jax.devices()[0]), int(state.step), loss=None)
    (run / "config.json").write_text(json.dumps(as_it_was(experiment)))


@pytest.mark.parametrize(
    "optimizer",
    representatives([AdamW(weight_decay=0.1), Muon(), ScheduleFreeAdamW()], Muon()),
    ids=lambda o: type(o).__name__,
)
def test_a_checkpoint_with_load_biases_among_the_parameters_is_read(optimizer, tiny_experiment, tmp_path, monkeypatch):
    experiment = tiny_experiment(model__ffn=FFN, optimizer=optimizer)
    old, now = earlier(experiment)
    assert "load_bias" in old.params["blocks"]["ffn"]
    save_as_before(experiment, old, tmp_path, monkeypatch)
    said = []
    assert_same_bits(restore_latest(tmp_path, experiment, said), jax.device_put(now, jax.devices()[0]))
    assert said == []
    loaded = load_params(tmp_path)
    np.testing.assert_array_equal(loaded.params["blocks"]["ffn"]["load_bias"], old.params["blocks"]["ffn"]["load_bias"])
    assert jax.tree.structure(loaded.params) == jax.tree.structure(merge(now.params, now.untrained))


def test_an_earlier_optimizer_that_kept_something_else_is_refused_and_can_be_evaluated(
    tiny_experiment, tmp_path, monkeypatch
):
    """As Muon did, which took norms of queries and keys for matrices."""
    experiment = tiny_experiment(model__ffn=FFN)
    old, _ = earlier(experiment)
    kept = {"mu": {"blocks": {"attention": {"query_norm": {"scale": np.ones(3, np.float32)}}}}}
    save_as_before(experiment, dataclasses.replace(old, opt_state=kept), tmp_path, monkeypatch)
    words = r"checkpoint 0 in .* is of an earlier version .*\(it has no opt_state\..*training.init_from=" + str(
        tmp_path
    )
    with open_store(tmp_path) as store, pytest.raises(UserError, match=words) as caught:
        store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment))
    assert "damaged" not in str(caught.value)
    assert (tmp_path / "checkpoints" / "0").is_dir()
    np.testing.assert_array_equal(
        load_params(tmp_path).params["final_norm"]["scale"], old.params["final_norm"]["scale"]
    )


def test_an_earlier_checkpoint_that_lacks_a_parameter_is_refused(tiny_experiment, tmp_path, monkeypatch):
    """It is a matter of other code, and not of the format."""
    experiment = tiny_experiment(model__ffn=FFN)
    old, _ = earlier(experiment)
    less = {name: branch for name, branch in old.params.items() if name != "final_norm"}
    save_as_before(experiment, dataclasses.replace(old, params=less), tmp_path, monkeypatch)
    with CheckpointStore(tmp_path, Checkpoints(), read_only=True) as store:
        with pytest.raises(UserError, match=r"another version of this code \(it has no params.final_norm.scale\)"):
            store.restore(0, experiment, shardings_on(experiment), abstract_state_of(experiment))


@pytest.mark.parametrize("exceptions", [5, "all", None, {"layers": ":1"}])
def test_exceptions_that_are_no_list_are_left_to_the_reader_of_options(exceptions):
    stored = {"optimizer": {"no_decay": []}, "model": {"exceptions": exceptions}}
    assert current_config(stored)["model"] == {"exceptions": exceptions}


# ---------------------------------------------------------------------------------------- the table of sharding


def test_a_table_of_one_vocabulary_is_read_as_two():
    former = {
        "type": "Sharding",
        "batch": ["data"],
        "embed": ["fsdp"],
        "heads": [],
        "sequence": ["tensor"],
        "vocab": [],
    }
    whole = {"position": [], "kv_heads": [], "head_dim": [], "rank": [], "ffn": [], "expert": [], "layer": []}
    table = from_json(Sharding, current_sharding(former | whole))
    positions = dict.fromkeys(("sequence", "query_sequence", "ffn_sequence", "vocab_sequence"), ("tensor",))
    none = dict.fromkeys(("heads", "kv_heads", "head_dim", "ffn", "expert", "vocab", "layer"), ())
    assert table == Sharding(
        parameters=ParameterAxes(embed=("fsdp",), rank=(), position=(), **none),
        activations=ActivationAxes(batch=("data",), embed=("fsdp",), key_sequence=(), **positions, **none),
    )


def test_the_former_default_is_the_default_but_for_a_width_that_was_never_split():
    """Rows took the mesh axis first, so that no activation had its width split."""
    former = {
        "batch": ["data", "fsdp"], "sequence": [], "position": [], "embed": ["fsdp"], "heads": ["tensor"],
        "kv_heads": ["tensor"], "head_dim": [], "rank": [], "ffn": ["tensor"], "expert": [], "vocab": ["tensor"],
        "layer": [],
    }  # fmt: skip
    table = from_json(Sharding, current_sharding(former))
    whole = dict.fromkeys(("sequence", "query_sequence", "ffn_sequence", "vocab_sequence", "expert"), ())
    rows = ("data", "fsdp")
    assert table.parameters == ParameterAxes(embed=("fsdp",), rank=(), expert=(), layer=())
    assert table.activations == ActivationAxes(embed=("fsdp",), batch=rows, **whole)
    assert mesh_axes(table.activations, ("batch", "sequence", "embed")) == [rows, (), ()]


def test_a_table_of_today_is_read_as_it_is():
    table = override(
        Sharding(activations=ActivationAxes(sequence=("tensor",), query_sequence=("tensor",))), "parameters.embed=()"
    )
    assert from_json(Sharding, current_sharding(to_json(table))) == table
    with pytest.raises(UserError, match="Sharding has no such field"):
        from_json(Sharding, current_sharding({"colour": []}))


# ------------------------------------------------------------------------------------------------- the z-loss


def with_z_loss_in_training(experiment, value):
    """The JSON that an experiment with this z-loss had."""
    stored = json.loads(json.dumps(to_json(experiment)))
    for field in ("objective", "evaluations", "statistics"):
        del stored[field]
    del stored["training"]["frozen"]
    stored["training"]["z_loss"] = value
    return stored


@pytest.mark.parametrize("value", [0.0, 1e-4])
def test_the_z_loss_of_training_is_that_of_the_objective(value, tiny_experiment, tmp_path, monkeypatch):
    """In the config of a run, and in the note of a checkpoint."""
    experiment = tiny_experiment(objective__z_loss=value)
    stored = with_z_loss_in_training(experiment, value)
    assert from_json(Experiment, current_config(stored)) == experiment
    state_config = StateConfig.of(experiment)
    state = init_sharded(state_config, 0, shardings_on(experiment))
    with monkeypatch.context() as patch, open_store(tmp_path) as store:
        patch.setattr(train.checkpoints.store, "to_json", lambda e: with_z_loss_in_training(e, value))
        store.save(experiment, state, 0, loss=None)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert experiments.load(tmp_path) == experiment
    experiments.check_same_experiment(experiment, tmp_path)
    assert_same_bits(restore_latest(tmp_path, experiment), state)
    other = tiny_experiment(objective__z_loss=0.5)
    with pytest.raises(UserError, match="objective.z_loss: .* -> 0.5"):
        experiments.check_same_experiment(other, tmp_path)


def test_the_earlier_path_of_the_z_loss_is_answered_with_the_one_of_today(tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match=r"--set training.z_loss=1e-4: Training.z_loss is objective.z_loss now"):
        from_file(str(path), ["training.z_loss=1e-4"])
    path.write_text("from train.experiment import Training\nexperiment = Training(num_steps=1, z_loss=0.1)\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'z_loss'; it is objective.z_loss now"):
        from_file(str(path))


# ---------------------------------------------------------------------------------------------------- the mixer


def test_a_config_that_says_attention_for_mixers_is_read(tiny_experiment, tmp_path):
    """Its fields, in exceptions too, its taps, and patterns of names of parameters."""
    experiment = tiny_experiment(
        model__exceptions=(Except(layers="0", mixer=GRU(num_heads=4)), Except(layers="1", ffn=None)),
        model__position=NoPositions(),
        model__remat=SaveOnly(taps=("mixer_heads", "query", "mixer_output")),
        optimizer=AdamW(
            decay_never=("blocks.*.mixer.query", "*.residual.mixer_norm.*", "embedding"), decay_also=("*.mixer.output",)
        ),
    )
    stored = with_attention(experiment)
    stored["model"]["remat"]["taps"] = ["attention_heads", "query", "attention_output"]
    stored["optimizer"]["decayed"] = ["*.attention.output"]
    stored["optimizer"]["spared"] = ["blocks.*.attention.query", "*.residual.attention_norm.*", "embedding"]
    assert from_json(Experiment, current_config(stored)) == experiment
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert experiments.load(tmp_path) == experiment
    experiments.check_same_experiment(experiment, tmp_path)


@pytest.mark.parametrize("part", ["model", "optimizer", "remat", "exceptions"])
def test_an_earlier_config_with_something_else_in_a_part_is_left_to_the_reader_of_options(part, tiny_experiment):
    stored = with_attention(tiny_experiment())
    inside = {"remat": stored["model"], "exceptions": stored["model"]}.get(part, stored)
    inside[part] = "all"
    with pytest.raises(UserError, match=part):
        check(from_json(Experiment, current_config(stored)))


@pytest.mark.parametrize(
    "optimizer", representatives([AdamW(), Muon(), ScheduleFreeAdamW()], Muon()), ids=lambda o: type(o).__name__
)
def test_a_checkpoint_that_says_attention_for_mixers_is_read(optimizer, tiny_experiment, tmp_path, monkeypatch):
    """Parameters and moments, of mixers, of the residual stream around them, and of modules for later tokens."""
    experiment = tiny_experiment(
        model__layer_scale=0.5, model__exceptions=(Except(layers="0", mixer=GRU(num_heads=4)),),
        model__multi_token=MultiToken(depth=1), optimizer=optimizer,
    )  # fmt: skip
    state = jax.device_get(init_sharded(StateConfig.of(experiment), 0, shardings_on(experiment)))
    numbers = iter(range(10**6))
    state = jax.tree.map(lambda x: np.full_like(x, next(numbers)) if x.dtype.kind == "f" else x, state)
    before = changed(state.params, attention_for_mixer)
    assert "attention" in before["blocks"]["1"]
    assert "attention" in before["multi_token"]["block"]
    assert "attention_gain" in before["blocks"]["1"]["residual"]
    with monkeypatch.context() as patch, open_store(tmp_path) as store:
        patch.setattr(train.checkpoints.store, "CHECKPOINT_FORMAT", 2)
        patch.setattr(train.checkpoints.store, "to_json", with_attention)
        old = dataclasses.replace(state, params=before, opt_state=changed(state.opt_state, attention_for_mixer))
        store.save(experiment, jax.device_put(old, jax.devices()[0]), int(state.step), loss=None)
    (tmp_path / "config.json").write_text(json.dumps(with_attention(experiment)))
    said = []
    assert_same_bits(restore_latest(tmp_path, experiment, said), jax.device_put(state, jax.devices()[0]))
    assert said == []
    loaded = load_params(tmp_path)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(merge(state.params, state.untrained))
