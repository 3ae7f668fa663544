"""Folders of multimodal models to runs of their language model, and back as a folder of the language model alone."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.transformer import forward
from tests.parity import ours
from tests.tiers import representatives
from tests.train.conversion.folders import FIXTURES, contents, published
from train.conversion.language_model import LanguageModelFolder
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.loading import load_params

MOE = "multimodal_qwen3_vl_moe"


RECORDED = [(folder.parent.name, int(folder.name)) for folder in sorted(FIXTURES.glob("multimodal_*/*"))]


@pytest.mark.parametrize(("family", "number"), representatives(RECORDED, (MOE, 0)))
def test_there_and_back(family, number, tmp_path, capfd):
    folder = published(tmp_path, family, number)
    (folder / "preprocessor_config.json").write_text("{}")
    read_published(folder, tmp_path / "run", parameter_dtype="float32")
    said = capfd.readouterr().err
    expected = np.load(FIXTURES / family / str(number) / "expected.npz")
    loaded = load_params(tmp_path / "run")
    logits = jax.jit(lambda p: forward(loaded.experiment.model, p, expected["tokens"]).logits_BTV)(loaded.params)
    assert np.abs(logits - expected["logits"]).max() < 1e-4 * expected["logits"].std()
    write_published(tmp_path / "run", tmp_path / "back")
    assert {"README.md", "tokenizer.json"} < contents(tmp_path / "back").keys()
    assert not contents(tmp_path / "back").keys() & {"preprocessor_config.json", "conversion.json"}
    alone, whole = LanguageModelFolder(tmp_path / "back"), LanguageModelFolder(folder)
    assert alone.model.multimodal is None
    assert alone.model.read().config == whole.model.read().config
    assert alone.tensors.keys() == whole.tensors.keys()
    for name in alone.tensors:
        np.testing.assert_array_equal(alone.whole(name), whole.whole(name), err_msg=name)
    for prefix, (count, size) in whole.left_out.items():
        assert f"{prefix} ({count} tensors, {size / 1e6:,.1f} MB)" in said
    stored = load_file(folder / "model.safetensors")
    visual = {name: x for name, x in stored.items() if "visual" in name or "vision" in name or "projector" in name}
    assert sum(count for count, _ in whole.left_out.values()) == len(visual)
    assert sum(size for _, size in whole.left_out.values()) == sum(x.nbytes for x in visual.values())
    # A second time the bytes are the same.
    read_published(tmp_path / "back", tmp_path / "second", parameter_dtype="float32")
    write_published(tmp_path / "second", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "back")


def test_experts_with_inputs_first_as_published(tmp_path):
    folder = published(tmp_path, MOE)
    expected = ours.arrays_of(LanguageModelFolder(folder))
    tensors = load_file(folder / "model.safetensors")
    for name, x in tensors.items():
        if ".experts." in name:
            tensors[name] = np.ascontiguousarray(x.swapaxes(1, 2))
    save_file(tensors, folder / "model.safetensors")
    opened = LanguageModelFolder(folder)
    assert sum("experts.4.up_proj" in name for name in expected) == 1
    for name, x in ours.arrays_of(opened).items():
        np.testing.assert_array_equal(x, expected[name], err_msg=name)


def test_several_files_keep_their_tensors(tmp_path):
    folder = published(tmp_path, "multimodal_gemma3")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2], "c.safetensors": []}
    for name in list(tensors):
        if "vision" in name:  # one file without any tensor of the language model
            parts = {file: [n for n in given if n != name] for file, given in parts.items()}
            parts["c.safetensors"].append(name)
    for file, given in parts.items():
        save_file({name: tensors[name] for name in given}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, given in parts.items() for name in given}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    back = contents(tmp_path / "back")
    assert {name for name in back if name.endswith(".safetensors")} == {"a.safetensors", "b.safetensors"}
    assert set(json.loads(back["model.safetensors.index.json"])["weight_map"].values()) == {
        "a.safetensors",
        "b.safetensors",
    }
    assert LanguageModelFolder(tmp_path / "back").tensors.keys() == LanguageModelFolder(folder).tensors.keys()


def test_a_tensor_of_the_language_model_that_is_unknown_is_refused(tmp_path):
    folder = published(tmp_path, "multimodal_gemma3")
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.model.twist.weight"] = np.ones(3, ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model.twist.weight 3 is no tensor of such a model"):
        read_published(folder, tmp_path / "run")
