import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from tests.train.conversion.folders import FIXTURES, contents, published
from train.conversion import folder as folders
from train.conversion.folder import INDEX, TensorFiles, make_header, write_tensors
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.loading import load_run


def test_files_with_an_index_of_any_order_and_dtype(tmp_path):
    folder = published(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    names = sorted(tensors, reverse=True)
    save_file({name: tensors[name] for name in names[:5]}, folder / "b.safetensors", metadata={"odd": "yes"})
    save_file({name: tensors[name] for name in names[5:]}, folder / "a.safetensors")
    weight_map = {name: "b.safetensors" if name in names[:5] else "a.safetensors" for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    read_published(folder, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.experiment.model.precision.parameters == "float32"
    np.testing.assert_array_equal(loaded.params["final_norm"]["scale"], tensors["model.norm.weight"])
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_layers_for_multi_token_prediction_are_kept_in_the_files(tmp_path):
    """They lie after the last layer; those of another number are no tensors of the model."""
    folder = published(tmp_path, "glm4_moe")
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    tensors = load_file(folder / "model.safetensors")
    extra = {f"model.layers.{layers}.eh_proj.weight": np.ones((3, 6), np.float32)}
    save_file(tensors | extra, folder / "model.safetensors")
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    save_file(tensors | {f"model.layers.{layers + 1}.eh_proj.weight": np.ones(3)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"model.layers.{layers + 1}.eh_proj.weight 3 is no tensor of such a model"):
        read_published(folder, tmp_path / "another")


def test_folders_that_are_none(tmp_path):
    folder = published(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: pickle files, which can run any code"):
        read_published(folder, tmp_path / "run")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no \*.safetensors file; download the weights too"):
        read_published(folder, tmp_path / "run")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "model-1.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks files that its .* names: model-1.safetensors; download them too"):
        read_published(folder, tmp_path / "run")
    (folder / "model-1.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(UserError, match="no safetensors file, or a damaged one: .*; get it again"):
        read_published(folder, tmp_path / "run")
    (folder / "model-1.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS in the place of the weights; get these with `git lfs"):
        read_published(folder, tmp_path / "run")
    (folder / "model-1.safetensors").unlink()
    (folder / "model-1.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot read .*model-1.safetensors: "):
        read_published(folder, tmp_path / "run")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="it has no config.json; download that file too"):
        read_published(folder, tmp_path / "run")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter .*, not a model; give the run of its model too, with --base"):
        read_published(folder, tmp_path / "run")
    (folder / "model.Q4_K.gguf").write_bytes(b"")
    with pytest.raises(
        UserError,
        match="published: a GGUF file is read by itself: --from=FOLDER/NAME.gguf; or take the model's repository",
    ):
        read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="Q4_K.gguf: a GGUF file is read by itself"):
        read_published(folder / "model.Q4_K.gguf", tmp_path / "run")
    with pytest.raises(UserError, match="is a file; give the Hugging Face folder"):
        read_published(folder / "adapter_config.json", tmp_path / "run")


def test_many_missing_files_are_counted(tmp_path):
    folder = published(tmp_path)
    names = {f"x{i}": f"model-{i:05d}-of-00163.safetensors" for i in range(1, 164)}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(
        UserError, match=r"names: model-00001-.*, model-00003-of-00163.safetensors and 160 more; download"
    ):
        read_published(folder, tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/below: .*; name another one"):
        read_published(FIXTURES / "llama" / "0", tmp_path / "file" / "below")


@pytest.mark.parametrize("block", [16, 100, 1 << 20])
def test_tensors_are_read_and_written_in_blocks(block, tmp_path, monkeypatch):
    """The same files, whatever is read, converted and written at a time, and however often the disk has to be ready."""
    for name, size in (("BLOCK_BYTES", block), ("WRITE_BYTES", 64), ("SYNC_BYTES", 300)):
        monkeypatch.setattr(folders, name, size)
    draw = np.random.default_rng(0)
    shapes = {"number": (), "row": (1, 70), "vector": (37,), "matrix": (9, 14), "stack": (3, 5, 2)}
    tensors = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["matrix"] = tensors["matrix"].T.copy().T  # not in the order of the file
    header = make_header("a.safetensors", [(name, "F32", shape) for name, shape in shapes.items()])
    written = write_tensors(tmp_path, header, lambda stored: tensors[stored.name])
    assert [stored.name for stored in written] == list(shapes)
    loaded = load_file(tmp_path / "a.safetensors")
    files = TensorFiles(tmp_path, [header])
    for name, x in tensors.items():
        np.testing.assert_array_equal(loaded[name], x)
        np.testing.assert_array_equal(files.read(files.tensors[name]), x)
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"a.safetensors ends before its last tensor"):
        files.read(files.tensors["stack"])


def test_what_leaves_the_cache_is_the_tensor_alone(tmp_path, monkeypatch):
    header, dropped = make_header("a.safetensors", [("x", "F32", (3,)), ("y", "BF16", (5,))]), []
    list(write_tensors(tmp_path, header, lambda stored: np.zeros(stored.shape, np.float32)))
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *given: dropped.append(given))
    files = TensorFiles(tmp_path, [header])
    files.forget(files.tensors["y"])
    assert dropped == [(len(header.content) + 12, 10, os.POSIX_FADV_DONTNEED)]


def test_a_disk_that_is_full_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    """Blocks are written by another thread, whose error is that of the caller."""

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "SYNC_BYTES", 1)
    monkeypatch.setattr(folders, "sync_written", full)
    header = make_header("a.safetensors", [("x", "F32", (64,)), ("y", "F32", (64,)), ("z", "F32", (64,))])
    with pytest.raises(UserError, match="cannot write .*a.safetensors: No space left"):
        list(write_tensors(tmp_path, header, lambda stored: np.zeros(64, np.float32)))
    assert list(tmp_path.iterdir()) == []
