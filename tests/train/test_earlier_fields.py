"""Single options of earlier versions: the table of sharding, exceptions from weight decay, `start_from`."""

import json

import pytest

from model.errors import UserError
from model.options.assignments import override
from model.options.json import from_json, to_json
from tests.train.test_earlier import with_decayed
from train import experiment as experiments
from train.config_file import from_file
from train.earlier import current_config, current_sharding
from train.experiment import Experiment
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, mesh_axes


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
    assert table == Sharding(activations=ActivationAxes(embed=("fsdp",)))
    axes = ("batch", "sequence", "embed")
    assert mesh_axes(table.activations, axes) == mesh_axes(ActivationAxes(), axes)


def test_a_table_of_today_is_read_as_it_is():
    table = override(
        Sharding(activations=ActivationAxes(sequence=("tensor",), query_sequence=("tensor",))), "parameters.embed=()"
    )
    assert from_json(Sharding, current_sharding(to_json(table))) == table
    with pytest.raises(UserError, match="Sharding has no such field"):
        from_json(Sharding, current_sharding({"colour": []}))


# ----------------------------------------------------------------------------------- exceptions from weight decay


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


def test_exceptions_from_weight_decay_are_answered_with_the_names_of_today(tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match=r"AdamW.decayed is optimizer.decay_also now"):
        from_file(str(path), ["optimizer.decayed=('scale',)"])
    path.write_text("from train.optimizers.options import Muon\nMuon(spared=('embedding',))\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'spared'; it is optimizer.decay_never now"):
        from_file(str(path))


# ---------------------------------------------------------------------------------------------------- init_from


def test_a_config_that_says_start_from_is_read(tiny_experiment, tmp_path):
    experiment = tiny_experiment(training__init_from="/a/run")
    stored = to_json(experiment)
    stored["training"]["start_from"] = stored["training"].pop("init_from")
    assert from_json(Experiment, current_config(stored)) == experiment
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert experiments.load(tmp_path) == experiment


def test_start_from_is_answered_with_the_name_of_today(tiny_experiment, write_config, tmp_path):
    path = write_config(tiny_experiment(), tmp_path / "config.py")
    with pytest.raises(UserError, match=r"--set training.start_from=x: Training.start_from is training.init_from now"):
        from_file(str(path), ["training.start_from=x"])
    path.write_text("from train.experiment import Training\nTraining(num_steps=1, start_from='x')\n")
    with pytest.raises(UserError, match="unexpected keyword argument 'start_from'; it is training.init_from now"):
        from_file(str(path))
