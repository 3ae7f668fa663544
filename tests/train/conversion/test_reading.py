"""Hugging Face folders to run folders and back, on the recorded models of tests/fixtures/families."""

import dataclasses
import shutil
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.families import published_model
from model.feedforward.mlp import Gated
from model.parameters.names import flatten
from model.parameters.precision import Precision
from model.transformer import forward
from tests.tiers import SWEEP
from tests.train.conversion.folders import FIXTURES, contents, published, trained_here
from train import experiment as experiments
from train.conversion import reading, writing
from train.conversion.folder import HuggingFaceFolder, TensorFiles
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.parallel.mesh import Mesh
from train.parallel.shards import HostShards
from train.parallel.table import ParameterAxes, Sharding
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
        "(4 problems); take both from the same model:",
        "model.layers.1.mlp.up_proj.weight is missing, expected 24x16",
        "model.norm.weight is 17, expected 16",
        "model.norm.bias 16 is no tensor of such a model",
        "lm_head.weight is I32, expected BF16, F16 or F32",
    ):
        assert line in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_quantised_tensors_are_named_where_config_json_does_not_say_it(tmp_path):
    folder = published(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    tensors[f"{name}.qweight"] = np.zeros((2, 24), np.int32)
    del tensors[f"{name}.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        UserError,
        match=r"published: weights quantised with GPTQ or AWQ without a quantization_config in config.json are not read: take the model's",
    ):
        read_published(folder, tmp_path / "run")


def test_context_lengths_that_a_model_cannot_have(tmp_path):
    with pytest.raises(UserError, match="--context_length=0, expected at least 1"):
        read_published(published(tmp_path), tmp_path / "run", context_length=0)
    shutil.copytree(FIXTURES / "gpt2" / "0", tmp_path / "gpt2")
    with pytest.raises(UserError, match="--context_length=500, but .* a table of 128 positions; leave the flag out"):
        read_published(tmp_path / "gpt2", tmp_path / "run", context_length=500)


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
    with pytest.raises(UserError, match=r"lm_head.weight is tied .* and differs from it; .*tie_word_embeddings=false"):
        read_published(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_bias_that_files_may_lack_is_zeros_and_is_not_lost_when_it_is_trained(tmp_path, monkeypatch):
    """Files of BART's class without a head, whose tensors have no prefix."""
    folder = published(tmp_path, "bart", architectures=["BartModel"])
    tensors = load_file(folder / "model.safetensors")
    del tensors["final_logits_bias"]
    save_file({name.removeprefix("model."): x for name, x in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"architectures=.*BartModel.*expected BartForConditionalGeneration"):
        read_published(folder, tmp_path / "run")
    read_published(folder, tmp_path / "run", accept=("architectures",))
    run = load_run(tmp_path / "run")
    bias = run.params["embedding"]["output_bias"]
    assert bias.shape == (run.experiment.model.vocab_size,)
    assert not bias.any()
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back")["model.safetensors"] == contents(folder)["model.safetensors"]
    run.params["embedding"]["output_bias"] = bias + 1
    monkeypatch.setattr(writing, "load_params", lambda *arguments, **options: run)
    with pytest.raises(UserError, match="have no final_logits_bias, which stands for zeros"):
        write_published(tmp_path / "run", tmp_path / "lost")


def test_what_is_interrupted_leaves_no_run(tmp_path, monkeypatch):
    folder = published(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "write_parameters", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_published(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    monkeypatch.undo()
    read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        write_published(tmp_path / "run", folder)


@pytest.mark.parametrize(
    ("mesh", "recorded"),
    [
        pytest.param(None, Mesh(fsdp=8), marks=pytest.mark.sweep),
        pytest.param(Mesh(data=2, fsdp=4), Mesh(data=2, fsdp=4), marks=pytest.mark.sweep),
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


def test_on_an_expert_axis_each_device_has_its_experts_there_and_back(tmp_path):
    folder, mesh = published(tmp_path, "mixtral"), Mesh(fsdp=2, expert=4)
    read_published(folder, tmp_path / "run", mesh=mesh)
    up = load_params(tmp_path / "run").params["blocks"]["ffn"]["up"]
    (_, experts, width, _), (_, own, part, _) = up.shape, up.sharding.shard_shape(up.shape)
    assert (own, part) == (experts // 4, width // 2)
    write_published(tmp_path / "run", tmp_path / "back", mesh=Mesh(data=2, expert=4))
    assert contents(tmp_path / "back") == contents(folder)


@SWEEP
def test_the_host_holds_the_shards_and_one_tensor(tmp_path, monkeypatch):
    """Weights of 37 MiB in tensors of at most 1 MiB, read and written on eight devices."""
    monkeypatch.setattr("train.conversion.folder.BLOCK_BYTES", 1 << 17)
    trained_here(tmp_path / "own", "llama", num_layers=12, width=256, ffn=Gated(width=1024))
    largest, total = 1 << 20, 12 * 4 * (4 * 256 * 256 + 3 * 256 * 1024)
    write_published(tmp_path / "own", tmp_path / "out", family="llama")  # once for what is imported and compiled
    read_published(tmp_path / "out", tmp_path / "run")
    folder = HuggingFaceFolder(tmp_path / "out")
    family = published_model(folder.config).family
    experiment = experiments.load(tmp_path / "run")
    tensors = reading.published_tensors(family, experiment.model, folder)
    tracemalloc.start()
    try:
        params = reading.read_params(folder, family, tensors, experiment)
        jax.block_until_ready(params)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        (tmp_path / "again").mkdir()
        writing._write(family, experiment.model, params, folder.headers, TensorFiles(tmp_path, []), tmp_path / "again")
        written = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert total > 36 * largest
    assert read < 4 * largest  # the tensor, and the tasks of threads; the shards are the memory of the arrays
    assert written < 3 * largest  # the slice, the tensor, and two blocks
    assert contents(tmp_path / "again")["model.safetensors"] == contents(tmp_path / "out")["model.safetensors"]


EXPERTS = Sharding(parameters=ParameterAxes(expert=("fsdp",)))
ONE_KEY_HEAD = Sharding(parameters=ParameterAxes(kv_heads=()))


@pytest.mark.parametrize(
    ("family", "mesh", "sharding"),
    [
        ("llama", Mesh(fsdp=8), Sharding()),
        ("llama", Mesh(data=2, fsdp=2, tensor=2), ONE_KEY_HEAD),  # heads in rows, the width in columns
        ("phi3", Mesh(fsdp=2, tensor=4), ONE_KEY_HEAD),  # gate and up in one tensor, each split over its rows
        ("gpt_oss", Mesh(data=2, fsdp=4), Sharding()),  # gate and up in turn along the last axis
        ("mixtral", Mesh(data=2, fsdp=4), EXPERTS),  # a tensor an expert: those of others are not read
    ],
)
def test_each_host_reads_what_its_device_holds_and_no_more(family, mesh, sharding, monkeypatch):
    """Eight hosts of a device each, one after the other."""
    folder = HuggingFaceFolder(FIXTURES / family / "0")
    known = published_model(folder.config).family
    config = known.model_config(folder.config)
    config = dataclasses.replace(config, precision=Precision(parameters="bfloat16", compute="bfloat16"))
    tensors = reading.published_tensors(known, config, folder)
    experiment = dataclasses.replace(reading._experiment(config, folder.path, None), mesh=mesh, sharding=sharding)
    whole = flatten(reading.read_params(folder, known, tensors, experiment))
    numbers_read = []
    plain = TensorFiles.read

    def counting(self, stored, positions=None):
        x = plain(self, stored, positions)
        numbers_read.append(x.size)
        return x

    monkeypatch.setattr(TensorFiles, "read", counting)
    for device in jax.devices():
        numbers_read.clear()
        here = {name: HostShards(x.shape, x.dtype, x.sharding, [device]) for name, x in whole.items()}
        reading.fill(folder, known.tensors(config), tensors.weights, here)
        held = {name: next(s.data for s in x.addressable_shards if s.device == device) for name, x in whole.items()}
        assert sum(numbers_read) == sum(x.size for x in held.values())
        for name, x in held.items():
            np.testing.assert_array_equal(here[name].shard(device), x, err_msg=name)
    assert sum(numbers_read) < sum(x.size for x in whole.values()) / 2
