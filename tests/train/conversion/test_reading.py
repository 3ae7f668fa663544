"""Hugging Face folders to run folders and back, on the recorded models of tests/fixtures/families."""

import re
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.families import published_model
from model.feedforward.mlp import Gated
from model.transformer import forward
from tests.train.conversion.folders import FIXTURES, contents, published, trained_here
from train import experiment as experiments
from train.conversion import reading, writing
from train.conversion.folder import HuggingFaceFolder
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.parallel.mesh import Mesh, make_mesh
from train.run.loading import load_params, load_run


def test_a_run_folder_like_any_other(tmp_path):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run", parameter_dtype="float32", context_length=64)
    run = load_run(tmp_path / "run")
    assert run.step == 0
    assert run.tokenizer.vocab_size == run.experiment.model.vocab_size == 64
    assert (run.tokenizer.begin_of_document, run.tokenizer.end_of_document) == (0, 1)
    assert run.tokenizer.decode([3, 63, 4]) == "a b"
    assert run.experiment.model.context_length == 64
    expected = np.load(FIXTURES / "llama" / "0" / "expected.npz")
    logits = forward(run.experiment.model, run.params, expected["tokens"]).logits_BTV
    assert np.abs(logits - expected["logits"]).max() < 1e-4 * expected["logits"].std()
    with pytest.raises(UserError, match="it has a tokenizer and no text"):
        run.dataset().split("validation")


def test_tensors_that_do_not_fit_are_all_named_and_nothing_is_left(tmp_path):
    folder = published(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(17, ml_dtypes.bfloat16)
    tensors["model.norm.bias"] = np.ones(16, ml_dtypes.bfloat16)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        read_published(folder, tmp_path / "run")
    for line in (
        "4 problems",
        "model.layers.1.mlp.up_proj.weight is missing, expected 24x16",
        "model.norm.weight is 17, expected 16",
        "model.norm.bias 16 is no tensor of such a model",
        "lm_head.weight is I32, expected BF16, F16 or F32",
    ):
        assert line in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_tied_weights_that_differ_are_refused(tmp_path):
    folder = published(tmp_path, number=2)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    tensors["lm_head.weight"] = -tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head.weight is tied to another tensor by config.json, and differs"):
        read_published(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_interrupted_leaves_no_run(tmp_path, monkeypatch):
    folder = published(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_published(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    monkeypatch.undo()
    read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        write_published(tmp_path / "run", folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slice_is_written_into_its_stack_in_place(dtype):
    stack, piece = np.zeros((4, 8, 16), dtype), np.ones(16, dtype)
    put = reading._slice_writer(jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert put.lower(stack, piece, (2, 5)).compile().memory_analysis().temp_size_in_bytes < stack.nbytes / 4
    written = np.asarray(put(jax.device_put(stack), piece, (2, 5)))
    assert written[2, 5].all()
    assert written.sum() == 16


@pytest.mark.parametrize(
    ("mesh", "recorded"),
    [
        (None, Mesh(fsdp=8)),
        (Mesh(data=2, fsdp=4), Mesh(data=2, fsdp=4)),
        (Mesh(fsdp=2, tensor=2), Mesh(fsdp=2, tensor=2)),
    ],
)
def test_on_a_mesh_each_device_has_its_shards_there_and_back(mesh, recorded, tmp_path):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run", mesh=mesh)
    assert experiments.load(tmp_path / "run").mesh == recorded
    params = load_params(tmp_path / "run").params
    query = params["blocks"]["mixer"]["query"]
    assert query.sharding.shard_shape(query.shape)[1] == query.shape[1] // recorded.fsdp
    assert query.sharding.shard_shape(query.shape)[2] == query.shape[2] // recorded.tensor
    write_published(tmp_path / "run", tmp_path / "back", mesh=mesh)
    assert contents(tmp_path / "back") == contents(folder)


def test_on_the_host_there_is_a_tensor_at_a_time_and_on_a_device_its_shards(tmp_path, monkeypatch):
    """Weights of 13 MiB in tensors of at most 1 MiB, read and written on eight devices."""
    trained_here(tmp_path / "own", "llama", num_layers=12, width=256, ffn=Gated(width=1024))
    largest, total = 1 << 20, 12 * 4 * (4 * 256 * 256 + 3 * 256 * 1024)
    held = []
    plain = reading._to_shards

    def shards(piece, dtype, where):
        made = plain(piece, dtype, where)
        held.append(max(s.data.nbytes for s in made.addressable_shards) * 8 / piece.nbytes)
        return made

    monkeypatch.setattr(reading, "_to_shards", shards)
    write_published(tmp_path / "own", tmp_path / "out", family="llama")  # once for what is imported and compiled
    read_published(tmp_path / "out", tmp_path / "run")
    assert sorted(set(held)) == [1.0]  # no device holds more than an eighth of a tensor, norms included
    folder = HuggingFaceFolder(tmp_path / "out")
    family = published_model(folder.config).family
    experiment = experiments.load(tmp_path / "run")
    names = reading.published_names(family, experiment.model, folder)
    tracemalloc.start()
    try:
        params = reading.read_params(folder, family, experiment.model, names, experiment)
        jax.block_until_ready(params)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        headers = folder.headers
        (tmp_path / "again").mkdir()
        writing._write(family, experiment.model, params, headers, {}, tmp_path / "again")
        written = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert total > 36 * largest
    assert read < 3 * largest
    assert written < 4 * largest  # the slice, the tensor, and the bytes of it
    assert contents(tmp_path / "again")["model.safetensors"] == contents(tmp_path / "out")["model.safetensors"]


def test_a_slice_is_written_into_a_stack_without_a_word_between_devices():
    mesh = make_mesh(Mesh(fsdp=4, tensor=2))
    where = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    stack = jax.device_put(jnp.zeros((3, 8, 4), jnp.bfloat16), where)
    piece = reading._to_shards(np.arange(32.0).reshape(8, 4), jnp.bfloat16, where)
    put = reading._slice_writer(where)
    program = put.lower(stack, piece, (1,)).compile().as_text()
    assert not re.search("all-gather|all-to-all|all-reduce|collective-permute", program)
    np.testing.assert_array_equal(put(stack, piece, (1,))[1], np.arange(32.0).reshape(8, 4))
