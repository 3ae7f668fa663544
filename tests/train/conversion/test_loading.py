"""Any model by its folder: a Hugging Face folder is read as launch.convert reads it, and nothing is written."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.parameters.names import flatten
from tests.train.conversion.folders import FIXTURES, contents, published
from train.conversion.folder import TensorFiles
from train.conversion.loading import PublishedModel, is_published, load_model
from train.conversion.reading import read_published
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.documents import Document
from train.evaluation.evaluate import evaluate
from train.parallel.mesh import Mesh
from train.run.loading import load_run


def test_a_published_model_is_what_its_converted_run_is(tmp_path, monkeypatch):
    """Tensors leave the system's cache of files where they are converted: only there nothing reads them again soon."""
    folder, forgotten, forget = published(tmp_path), [], TensorFiles.forget

    def noted(self, stored):
        forgotten.append(stored.name)
        forget(self, stored)

    monkeypatch.setattr(TensorFiles, "forget", noted)
    before = contents(folder)
    direct = load_model(folder)
    assert not forgotten
    read_published(folder, tmp_path / "run")
    assert sorted(forgotten) == sorted(load_file(folder / "model.safetensors"))
    run = load_model(tmp_path / "run")
    assert isinstance(direct, PublishedModel)
    assert not isinstance(run, PublishedModel)
    assert direct.experiment.model == run.experiment.model
    assert (direct.step, direct.folder) == (0, folder)
    expected = flatten(jax.device_get(run.params))
    for name, x in flatten(jax.device_get(direct.params)).items():
        np.testing.assert_array_equal(x, expected[name], err_msg=name)
    assert direct.tokenizer.fingerprint() == run.tokenizer.fingerprint()
    texts = ["a b c d e f", "j i h g"]
    assert evaluate(direct, texts).measures == evaluate(run, texts).measures
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "run"]


def test_its_perplexity_is_that_of_the_logits_that_transformers_computed(tmp_path):
    """Recorded by torch (tests/parity/record.py): a row of 20 tokens, of which the first has nothing before it."""
    folder, recorded = published(tmp_path), np.load(FIXTURES / "llama" / "0" / "expected.npz")
    tensors = load_file(folder / "model.safetensors")  # of values that bfloat16 holds; products are in float32 then
    save_file({name: x.astype(np.float32) for name, x in tensors.items()}, folder / "model.safetensors")
    run = load_model(folder, mesh=Mesh(fsdp=4, tensor=2))
    nll = 0.0
    for ids, logits_TV in zip(recorded["tokens"], recorded["logits"].astype(np.float64), strict=True):
        log_z = np.log(np.exp(logits_TV).sum(-1))
        nll += sum(log_z[i] - logits_TV[i, ids[i + 1]] for i in range(len(ids) - 1))
    run.tokenizer._begin = run.tokenizer.end_of_document = None
    rows = [np.asarray(ids, np.int32) for ids in recorded["tokens"]]
    documents = [Document(f"{i}", ids, 20, 1, True, PrefixSize(1, 0, 1)) for i, ids in enumerate(rows)]
    for windows in ("sliding", "transformers"):
        found = evaluate(run, documents, windows=windows, window=20)
        assert found.tally.count("tokens") == 38
        assert found.measures["loss"].value == pytest.approx(nll / 38, rel=1e-5)
    assert run.mesh.shape["fsdp"] == 4


def test_a_run_folder_is_loaded_as_ever(tiny_run):
    assert not is_published(tiny_run)
    assert load_model(str(tiny_run), "10").step == load_run(tiny_run, "10").step == 10


def test_folders_that_cannot_be_measured(tmp_path):
    folder = published(tmp_path)
    with pytest.raises(UserError, match="a Hugging Face folder, which holds one set of weights; leave out"):
        load_model(folder, "best")
    with pytest.raises(UserError, match="a Hugging Face folder, which holds no text to measure; give --text=FILE"):
        evaluate(load_model(folder))
    (folder / "tokenizer.json").rename(folder / "away.json")
    with pytest.raises(UserError, match="has no tokenizer.json or tokenizer.model, and text needs one"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of", "architectures": ["Unheard"]}))
    with pytest.raises(UserError, match="unheard_of"):
        load_model(folder)
    with pytest.raises(UserError, match="is no run folder"):
        load_model(tmp_path)
