"""Opening a run to evaluate it: only what its checkpoint fits, and nothing that a file would like to run."""

import collections
import json
import os
import pickle
import shutil
import sys

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import abstract_params
from train.checkpoints.store import CheckpointStore
from train.data import Characters, Data, Tail, prepare
from train.data.shards.dataset import dataset_of_run
from train.experiment import load
from train.parallel.mesh import Mesh
from train.run.loading import load_run

# Reads that fail half-way leave coroutines behind in orbax.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A copy of the finished run that has its own data."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "data.json").write_text(json.dumps({"dataset": str(run / "data")}))
    return run


def test_the_latest_the_best_or_a_step(copied, caplog):
    assert load_run(copied).step == 20
    assert not caplog.records  # a library says nothing in a notebook
    assert load_run(copied, "best").step == 20
    assert load_run(copied, "10").step == 10
    with pytest.raises(UserError, match=r"no checkpoint '11'; use latest, best, or a step: its checkpoints are 10, 20"):
        load_run(copied, "11")


def held(params):
    """Bytes of all parameters on each device, and how many they are in all."""
    on: dict[int, int] = collections.defaultdict(int)
    for x in jax.tree.leaves(params):
        for shard in x.addressable_shards:
            on[shard.device.id] += shard.data.nbytes
    return list(on.values()), sum(x.nbytes for x in jax.tree.leaves(params))


def test_a_run_of_another_number_of_devices_is_split_over_all_of_them(copied, capsys):
    """It was trained on eight devices, which its environment says; were it one, full copies would be what nobody had."""
    assert Mesh(**load_run(copied).mesh.shape) == Mesh(data=8)
    assert not capsys.readouterr().err
    sessions = json.loads((copied / "environment.json").read_text())
    sessions[-1]["devices"]["count"] = 1
    (copied / "environment.json").write_text(json.dumps(sessions))
    run = load_run(copied)
    assert Mesh(**run.mesh.shape) == Mesh(data=1, fsdp=8, tensor=1)
    assert capsys.readouterr().err == "the run's mesh was data=1 on 1 device; taking --mesh=fsdp=8 for the 8 here\n"
    on, total = held(run.params)
    assert on == [total // 8] * 8
    (copied / "environment.json").unlink()
    assert Mesh(**load_run(copied).mesh.shape) == Mesh(data=1, fsdp=8, tensor=1)


def test_parameters_are_read_into_their_places_and_no_device_holds_more_at_any_time(copied, monkeypatch):
    whole = {x.shape for x in jax.tree.leaves(abstract_params(load(copied).model)) if len(x.shape) > 1}
    before = jax.live_arrays()
    most = []
    plain = CheckpointStore._read

    def read(self, step, **items):
        found = plain(self, step, **items)
        new = [x for x in jax.live_arrays() if x.shape in whole and not any(x is other for other in before)]
        most.extend(shard.data.nbytes / x.nbytes for x in new for shard in x.addressable_shards)
        return found

    monkeypatch.setattr(CheckpointStore, "_read", read)
    run = load_run(copied, mesh=Mesh(fsdp=4, tensor=2))
    assert max(most) <= 1 / 4
    assert min(most) == 1 / 8
    assert Mesh(**run.mesh.shape) == Mesh(data=1, fsdp=4, tensor=2)
    expected = load_run(copied, mesh=Mesh(data=8)).params
    jax.tree.map(np.testing.assert_array_equal, run.params, expected)
    other = run.on(Mesh(fsdp=8))
    assert held(other.params)[0] == [held(other.params)[1] // 8] * 8
    jax.tree.map(np.testing.assert_array_equal, other.params, expected)
    assert Mesh(**other.layout.mesh.shape) == Mesh(data=1, fsdp=8, tensor=1)


def test_a_mesh_that_does_not_fit_is_refused(copied):
    with pytest.raises(UserError, match="fsdp=3 does not multiply to the 8 devices"):
        load_run(copied, mesh=Mesh(fsdp=3))


def test_a_tokenizer_of_another_vocabulary_is_refused(copied, tiny_text):
    shutil.rmtree(copied / "data")
    prepare(Data(path=str(tiny_text), tokenizer=Characters(), validation=Tail(fraction=0.1)), copied / "data")
    with pytest.raises(
        UserError, match=r"run/data has 25 tokens, but the model of .* with 257: .* prepare the run's own"
    ):
        load_run(copied)


def test_a_moved_run_finds_the_data_within(copied, tmp_path):
    (copied / "data.json").write_text(json.dumps({"dataset": str(tmp_path / "gone")}))
    assert dataset_of_run(copied).folder == copied / "data"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"dataset": 3}'])
def test_a_damaged_note_of_the_dataset_is_named(content, copied):
    (copied / "data.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.json is damaged: expected"):
        dataset_of_run(copied)


def test_a_damaged_latest_checkpoint_is_named_and_the_one_before_it_is_opened(copied, capsys):
    for path in (copied / "checkpoints" / "20" / "params").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    assert load_run(copied).step == 10
    assert "WARNING: checkpoint 20 in" in capsys.readouterr().err
    with pytest.raises(UserError, match="checkpoint 20 in .* is damaged"):
        load_run(copied, "20")


# --------------------------------------------------------------------------------------------------- no unpickling


class Planted:
    """What unpickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_no_file_of_a_run_is_ever_unpickled(copied, tmp_path):
    """Each file in turn is a pickle that would leave a folder behind."""
    trace = tmp_path / "trace"
    planted = pickle.dumps(Planted(trace))
    array = np.empty(1, object)
    array[0] = Planted(trace)
    expected = jax.device_get(load_run(copied).params)
    shutil.rmtree(copied / "checkpoints" / "10")
    files = [path for path in copied.rglob("*") if path.is_file() and path.name not in (".lock", "report.html")]
    assert {path.suffix for path in files} >= {".json", ".npy", ".array_record", ".jsonl", ""}
    refused = 0
    for path in files:
        whole = path.read_bytes()
        if path.suffix == ".npy":
            np.save(path, array, allow_pickle=True)
        else:
            path.write_bytes(planted)
        try:
            run = load_run(copied)
            run.dataset().split("train")[0].tokens(0)
        except UserError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(run.params), expected)
        assert not trace.exists(), path
        path.write_bytes(whole)
    assert refused >= 5
    pickle.loads(planted)  # it would have
    assert trace.exists()


def test_opening_a_run_finds_no_class_by_a_name_in_a_file(copied):
    """As the interpreter itself reports of every unpickling."""
    found, watching = [], True

    def hook(event, arguments):
        if watching and event == "pickle.find_class":
            found.append(arguments)

    sys.addaudithook(hook)
    try:
        run = load_run(copied)
        run.dataset().split("validation")[0].tokens(0)
        assert found == []
        pickle.loads(pickle.dumps(Data))
        assert found == [("train.data.config", "Data")]
    finally:
        watching = False


def test_to_evaluate_a_run_its_optimizer_is_not_read(copied, monkeypatch):
    asked, restore = [], CheckpointStore.restore
    monkeypatch.setattr(CheckpointStore, "restore", lambda self, *args: asked.append(args) or restore(self, *args))
    load_run(copied)
    assert [abstract.opt_state for *_, abstract in asked] == [{}]
