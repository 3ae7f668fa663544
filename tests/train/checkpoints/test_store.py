import dataclasses
import json
import pathlib
import pickle
import resource
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train.checkpoints.store
from model.errors import UserError
from model.parameters.names import flatten, unflatten
from tests.tiers import SWEEP, representatives
from tests.train.states import abstract_state_of, assert_same_bits, at_step, open_store, restore_latest, shardings_on
from train.checkpoints import handlers
from train.checkpoints.checksums import checksums
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints

# Reads that fail half-way leave coroutines behind in orbax.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def two_saved(experiment, first, tmp_path_factory):
    """A run folder with the checkpoints 10 and 20; copy it before changing it."""
    run = tmp_path_factory.mktemp("two")
    with open_store(run) as store:
        for step in (10, 20):
            store.save(experiment, at_step(first, step), step, loss=None)
    return run


@pytest.fixture
def two(two_saved, tmp_path):
    return shutil.copytree(two_saved, tmp_path / "run")


def test_an_empty_folder_has_none(experiment, tmp_path):
    assert restore_latest(tmp_path, experiment) is None


def test_the_latest_comes_back_bit_for_bit(experiment, first, two):
    said = []
    assert_same_bits(restore_latest(two, experiment, said), at_step(first, 20))
    assert said == []


def test_a_named_step_comes_back(experiment, first, two):
    with CheckpointStore(two, Checkpoints(), read_only=True) as store:
        assert store.steps() == [10, 20]
        assert_same_bits(
            store.restore(10, experiment, shardings_on(experiment), abstract_state_of(experiment)), at_step(first, 10)
        )


def test_a_state_without_its_optimizer_comes_back(experiment, first, two):
    shardings, wanted = (
        dataclasses.replace(x, opt_state={}) for x in (shardings_on(experiment), abstract_state_of(experiment))
    )
    with open_store(two) as store:
        assert_same_bits(
            store.restore(10, experiment, shardings, wanted), dataclasses.replace(at_step(first, 10), opt_state={})
        )


def test_arrays_of_many_pieces_in_many_files_come_back(experiment, first, tmp_path, monkeypatch):
    """Pieces are needed because arrays that are being written or read are in memory twice."""
    monkeypatch.setattr(handlers, "FILE_BYTES", 4096)
    monkeypatch.setattr(handlers, "CHUNK_BYTES", 512)
    monkeypatch.setattr(train.checkpoints.store, "READ_BYTES", 2048)
    reads, read = [], CheckpointStore._read
    monkeypatch.setattr(
        CheckpointStore, "_read", lambda self, step, **items: reads.append(items) or read(self, step, **items)
    )
    with open_store(tmp_path / "small") as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
    written = json.loads((tmp_path / "small/checkpoints/10/params/array_metadatas/process_0").read_text())
    pieces = [4 * np.prod(each["array_metadata"]["chunk_shape"]) for each in written["array_metadatas"]]
    assert max(pieces) <= 512
    saved = handlers.chunked_save(flatten(first.params))
    assert saved.ocdbt_target_data_file_size == 4096
    reads.clear()
    assert_same_bits(restore_latest(tmp_path / "small", experiment), at_step(first, 10))
    assert len(reads) > 20


def test_a_state_of_other_arrays_is_not_taken_for_a_whole_one(experiment, first, two):
    """As after a change of the code: an array is missing, and another is not in the state. Nothing is damaged."""
    said, wanted, shardings = [], abstract_state_of(experiment), shardings_on(experiment)
    wanted.params["new"], shardings.params["new"] = wanted.step, shardings.step
    with (
        open_store(two, said) as store,
        pytest.raises(UserError, match=r"another version of this code \(it has no params"),
    ):
        store.restore_latest(experiment, shardings, wanted)
    assert said == []
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == ["10", "20"]
    wanted, shardings = abstract_state_of(experiment), shardings_on(experiment)
    del wanted.params["final_norm"], shardings.params["final_norm"]
    with (
        open_store(two) as store,
        pytest.raises(UserError, match=r"it has params.final_norm.scale, which is no part of"),
    ):
        store.restore(10, experiment, shardings, wanted)


def test_what_is_saved_may_be_given_away_at_once(experiment, first, tmp_path):
    """A step that reuses the memory of the state during a save does not change the saved arrays."""
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tree), donate_argnums=0)
    with open_store(tmp_path) as store:
        state = at_step(first, 10)
        store.save(experiment, state, 10, loss=None)
        for _ in range(5):
            state = advance(state)
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 10))


@pytest.mark.parametrize(
    ("saved", "restored"),
    [
        (dict(devices=8, data=2, fsdp=4), dict(devices=4, data=1, fsdp=4)),
        pytest.param(dict(devices=4, data=1, fsdp=4), dict(devices=1), marks=SWEEP),
        (dict(devices=8, data=1, fsdp=8), dict(devices=2, data=1, tensor=2)),
        pytest.param(dict(devices=1), dict(devices=8, data=2, fsdp=2, tensor=2), marks=SWEEP),
    ],
    ids=["8to4", "4to1", "fsdp-to-tensor", "1to8"],
)
def test_it_restores_onto_another_mesh(saved, restored, experiment, first, tmp_path):
    with open_store(tmp_path) as store:
        store.save(experiment, at_step(first, 10, shardings_on(experiment, **saved)), 10, loss=None)
    shardings = shardings_on(experiment, **restored)
    state = restore_latest(tmp_path, experiment, shardings=shardings)
    assert_same_bits(state, at_step(first, 10))
    for value, place in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert value.sharding.is_equivalent_to(place, value.ndim)


# ------------------------------------------------------------------------------------------------------ damage


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def test_no_flipped_byte_goes_unnoticed(experiment, first, two_saved, tmp_path):
    """A byte is flipped in any file of the latest checkpoint: the checkpoint is reported and skipped, or harmless."""
    named = []
    for number, path in enumerate(files_of(two_saved / "checkpoints" / "20")):
        if not path.stat().st_size:
            continue
        run, said = shutil.copytree(two_saved, tmp_path / str(number)), []
        flip(run / path.relative_to(two_saved))
        state = restore_latest(run, experiment, said)
        if said:
            assert "checkpoint 20" in said[0], said
            assert "is damaged" in said[0], said
            assert (run / "damaged" / "20").is_dir()
            named.append(path.relative_to(two_saved / "checkpoints" / "20").parts[0])
        assert_same_bits(state, at_step(first, 10 if said else 20))
    assert {"params", "rest", "note"} <= set(named)


def largest(folder):
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [truncate, pathlib.Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("item", ["params", "rest", "note"])
def test_missing_bytes_are_named_and_the_one_before_is_used(damage, item, experiment, first, two):
    said = []
    damage(largest(two / "checkpoints" / "20" / item))
    assert_same_bits(restore_latest(two, experiment, said), at_step(first, 10))
    assert said[0].startswith(f"WARNING: checkpoint 20 in {two / 'checkpoints'} is damaged")
    assert said[-1] == f"checkpoint 20 was moved to {two / 'damaged' / '20'}"


def test_a_missing_item_is_damage(experiment, first, two):
    shutil.rmtree(two / "checkpoints" / "20" / "rest")
    assert_same_bits(restore_latest(two, experiment), at_step(first, 10))


def test_a_step_that_was_damaged_can_be_saved_again(experiment, first, two):
    truncate(largest(two / "checkpoints" / "20" / "params"))
    with open_store(two) as store:
        state = store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment))
        assert int(state.step) == 10
        store.save(experiment, at_step(first, 20), 20, loss=None)
        store.finish()
        assert store.steps() == [10, 20]
    assert_same_bits(restore_latest(two, experiment), at_step(first, 20))


def test_looking_moves_nothing(experiment, first, two):
    truncate(largest(two / "checkpoints" / "20" / "params"))
    with CheckpointStore(two, Checkpoints(), lambda line: None, read_only=True) as store:
        assert int(store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)).step) == 10
    assert (two / "checkpoints" / "20").is_dir()


def test_a_half_written_one_is_named_and_removed(experiment, first, two):
    left = two / "checkpoints" / "30.orbax-checkpoint-tmp"
    shutil.copytree(two / "checkpoints" / "20", left)
    said = []
    assert_same_bits(restore_latest(two, experiment, said), at_step(first, 20))
    assert said == ["checkpoint 30 was left half-written by an interrupted save; removing it"]
    assert not left.exists()


@pytest.mark.parametrize(
    "left", representatives([["note"], ["params"], ["_CHECKPOINT_METADATA"], []], ["params"], []), ids=str
)
def test_an_old_one_that_was_being_removed_is_no_obstacle(left, experiment, first, two):
    """A process that is killed while it removes the oldest checkpoint leaves a part of it."""
    for path in (two / "checkpoints" / "10").iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with open_store(two, keep_last=2, keep_best=1) as store:
        assert_same_bits(
            store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)),
            at_step(first, 20),
        )
        for step in (30, 40):
            store.save(experiment, at_step(first, step), step, loss=1.0)
        store.finish()
        assert store.steps() == [30, 40]
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == ["30", "40"]
    assert_same_bits(restore_latest(two, experiment), at_step(first, 40))


def test_all_damaged_is_an_error_that_lists_them(experiment, two):
    for step in (10, 20):
        truncate(largest(two / "checkpoints" / str(step) / "params"))
    with pytest.raises(UserError, match=r"none of the checkpoints \[10, 20\] .* is whole; move the folder away"):
        restore_latest(two, experiment)
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == ["10", "20"]  # nothing was moved


def test_another_model_is_refused_with_its_fields(experiment, tiny_experiment, two):
    other = tiny_experiment(model__vocab_size=128, model__ffn="MLP(width=64)", optimizer="Lion()")
    with pytest.raises(UserError) as caught:
        restore_latest(two, other)
    text = str(caught.value)
    assert f"{two / 'checkpoints' / '20'} is a checkpoint of another model" in text
    assert "model.vocab_size: 64 -> 128" in text
    assert "model.ffn: Gated(width=64" in text
    assert "optimizer: 'AdamW' -> 'Lion'" in text
    assert (two / "checkpoints" / "20").is_dir()


def test_scan_and_rematerialisation_may_change(experiment, tiny_experiment, first, two):
    same = tiny_experiment(model__vocab_size=64, model__scan_layers=False, model__remat="full")
    assert_same_bits(restore_latest(two, same), at_step(first, 20))


def test_nothing_is_unpickled(experiment, first, two, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert_same_bits(restore_latest(two, experiment), at_step(first, 20))
    assert not [path for path in files_of(two) if b"\x80\x04\x95" in path.read_bytes()]


# ------------------------------------------------------------------------------------------------- what is kept


# ------------------------------------------------------------------------------------------------------ full disk


def save_under_limit(store, experiment, state, step, limit):
    """A save during which no file may grow beyond `limit` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        store.save(experiment, state, step, loss=1.0)
        store.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_the_one_before_is_intact(experiment, first, tmp_path):
    said = []
    with open_store(tmp_path, said) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
        store.finish()
        save_under_limit(store, experiment, at_step(first, 20), 20, 20_000)
        assert said[-1].startswith("WARNING: checkpoint 20 could not be written: ")
        assert said[-1].endswith("; checkpoint 10 is intact")
        assert (store.steps(), store.best_step()) == ([10], None)
        # There is room again: the run continues, and the next save is complete.
        store.save(experiment, at_step(first, 30), 30, loss=None)
        store.finish()
        assert len(said) == 1
        assert store.steps() == [10, 30]
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 30))
    shutil.rmtree(tmp_path / "checkpoints" / "30")
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 10))


def test_a_save_that_fails_in_the_background_does_not_cost_the_next(experiment, first, tmp_path):
    said = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(tmp_path, said) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            store.save(experiment, at_step(first, 10), 10, loss=None)
            while store._manager.is_saving_in_progress():  # the next save finds the failure
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        store.save(experiment, at_step(first, 20), 20, loss=None)
    assert [line.split(":")[1] for line in said] == [" checkpoint 10 could not be written"]
    assert said[0].endswith("there is no earlier one")
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 20))


def test_a_checksum_does_not_hang_on_the_mesh(experiment, first):
    spread = at_step(first, 3, shardings_on(experiment, 8, data=1, fsdp=4, tensor=2))
    assert checksums(spread) == checksums(at_step(first, 3))


def test_unflat_is_the_inverse_of_flat(first):
    assert_same_bits(unflatten(first, flatten(first)), first)
    assert "params.blocks.ffn.down" in flatten(first)
