"""Arrays that are read in slices: the same bits as orbax reads, on any mesh, damage noticed, and none in memory twice."""

import dataclasses
import math
import os
import pickle
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import train.checkpoints.store
from model.parameters.names import flatten
from tests.tiers import SWEEP
from tests.train.states import abstract_state_of, assert_same_bits, at_step, open_store, shardings_on
from train.checkpoints import handlers, slices
from train.checkpoints.faults import DamagedError
from train.checkpoints.slices import boxes, read_in_slices
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints


@pytest.fixture(scope="module")
def saved(experiment, first, tmp_path_factory):
    run = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch, open_store(run) as store:
        patch.setattr(handlers, "CHUNK_BYTES", 512)
        store.save(experiment, at_step(first, 10), 10, loss=None)
    return run


@pytest.fixture
def small_slices(monkeypatch):
    """Every array of more than a few numbers is read in slices of a few."""
    read, plain = [], slices.read_in_slices
    monkeypatch.setattr(slices, "SLICE_BYTES", 1024)

    def noted(item, arrays):
        read.extend(arrays)
        return plain(item, arrays)

    monkeypatch.setattr(train.checkpoints.store, "read_in_slices", noted)
    return read


def read_only(run):
    return CheckpointStore(run, Checkpoints(), lambda line: None, read_only=True)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_the_same_bits_on_any_mesh(axes, experiment, first, saved, small_slices):
    shardings = shardings_on(experiment, math.prod(axes.values()), **({"data": 1} | axes))
    with read_only(saved) as store:
        state = store.restore(10, experiment, shardings, abstract_state_of(experiment))
    assert len(small_slices) > 10
    assert_same_bits(state, at_step(first, 10))
    for name, x in flatten(state).items():
        assert x.sharding.is_equivalent_to(flatten(shardings)[name], x.ndim), name


def test_a_state_that_is_trained_further_is_orbax_s(experiment, first, saved, small_slices):
    """A step could not take over the memory of the others, and would copy them all."""
    with open_store(saved) as store:
        state = store.restore(10, experiment, shardings_on(experiment), abstract_state_of(experiment))
    assert_same_bits(state, at_step(first, 10))
    assert small_slices == []


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "missing"])
def test_damage_is_noticed(damage, experiment, saved, small_slices, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    for path in (run / "checkpoints/10/params").glob("**/d/*"):
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:middle] + (b"" if damage == "cut short" else bytes(64) + content[middle + 64 :]))
    with read_only(run) as store, pytest.raises(DamagedError, match=r"checkpoint 10 in .* is damaged"):
        store.restore(10, experiment, shardings_on(experiment), abstract_state_of(experiment))
    assert small_slices


def test_an_array_of_another_shape_or_format_is_refused(experiment, saved, small_slices):
    item = saved / "checkpoints" / "10" / "params"
    named = flatten(abstract_state_of(experiment).params)
    name, x = next((name, x) for name, x in named.items() if x.size * x.dtype.itemsize >= slices.SLICE_BYTES)
    sharding = flatten(shardings_on(experiment).params)[name]
    for shape, dtype in (((*x.shape[:-1], 2 * x.shape[-1]), x.dtype), (x.shape, ml_dtypes.bfloat16)):
        wanted = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        with pytest.raises(ValueError, match=f"{name} is stored as float32"):
            read_in_slices(item, {name: wanted})


@pytest.mark.parametrize("bounds", [((0, 12), (0, 30), (0, 8)), ((3, 9), (10, 20), (4, 8)), ((5, 6), (7, 8), (0, 1))])
@pytest.mark.parametrize("chunk", [(1, 5, 8), (4, 10, 2), (12, 30, 8), (5, 7, 3)])
@pytest.mark.parametrize("most", [1, 40, 200, 10**6])
def test_boxes_are_the_bounds_once_and_of_whole_chunks(bounds, chunk, most):
    count, touched = np.zeros((12, 30, 8), int), []
    for box in boxes(bounds, chunk, most):
        assert count[box].size <= max(most, math.prod(chunk))
        count[box] += 1
        grid = [range(part.start // n, (part.stop - 1) // n + 1) for part, n in zip(box, chunk, strict=True)]
        touched += [(i, j, k) for i in grid[0] for j in grid[1] for k in grid[2]]
    inside = count[tuple(slice(*ends) for ends in bounds)]
    assert (inside == 1).all()
    assert count.sum() == inside.size
    assert len(touched) == len(set(touched))  # no chunk is read twice


MEMORY = """
import dataclasses, pathlib, pickle, sys
import jax, numpy as np
from launch.command.cli import prepare_jax
prepare_jax(keep_memory=False)
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints
experiment, abstract = pickle.loads(pathlib.Path(sys.argv[2]).read_bytes())
here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

def held(line):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(line)).split()[1]) * 1024

with CheckpointStore(pathlib.Path(sys.argv[1]), Checkpoints(), read_only=True) as store:
    for step, state in abstract.items():  # the first for what is imported and compiled
        before = held("VmRSS")
        state = store.restore(step, experiment, jax.tree.map(lambda x: here, state), state)
print(held("VmHWM") - before)
"""


@SWEEP
def test_a_stack_is_in_memory_once_while_it_is_read(experiment, first, tmp_path):
    """192 MiB in a process of its own, with slices of 16 MiB."""
    stacks = {10: jnp.ones((2, 8), jnp.bfloat16), 20: jnp.full((24, 2048, 2048), 1.25, jnp.bfloat16)}
    abstract = {}
    with open_store(tmp_path / "run", keep_last=2) as store:
        for step, stack in stacks.items():
            state = dataclasses.replace(at_step(first, step), params={"stack": stack}, opt_state={})
            store.save(experiment, state, step, loss=None)
            abstract[step] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    (tmp_path / "states").write_bytes(pickle.dumps((experiment, abstract)))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "run"), str(tmp_path / "states")]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * stacks[20].nbytes
