"""Hugging Face folders to run folders and back, on the recorded models of tests/fixtures/families."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.parameters.parametrization import MuP
from model.parameters.precision import Precision
from tests.tiers import representatives
from tests.train.conversion.folders import FIXTURES, contents, published
from train import experiment as experiments
from train.conversion.published_config import config_like
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.data.config import TokenizerOf
from train.loop import train
from train.run.loading import load_params
from train.schedules import Constant

# Names of several prefixes, parts joined in every way, experts one by one and together;
# tests/model/families/test_families.py has the tensors of all families.
FOLDERS = [
    FIXTURES / name / "0"
    for name in ("bloom", "deepseek_v3", "falcon", "gemma4", "gpt2", "gpt_neox", "gpt_oss", "llama")
]
FOLDERS += [FIXTURES / name / "0" for name in ("granitemoehybrid", "granitemoeshared", "internlm2", "mamba2")]
FOLDERS += [FIXTURES / name / "0" for name in ("bart", "qwen2_moe", "qwen3_next", "t5")]
KEPT = ("deepseek_v3", "llama")
KEPT_AND_SWEPT = representatives(FOLDERS, *(folder for folder in FOLDERS if folder.parent.name in KEPT))


@pytest.mark.parametrize("folder", KEPT_AND_SWEPT, ids=lambda folder: folder.parent.name)
def test_there_and_back_to_the_byte(folder, tmp_path):
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert experiments.load(tmp_path / "run").model.precision == Precision(parameters="bfloat16", compute="bfloat16")


def test_the_pooler_of_files_that_have_it(tmp_path):
    folder = published(tmp_path, "bert")
    (folder / "tokenizer.json").unlink()  # it has no mask
    read_published(folder, tmp_path / "without")
    assert experiments.load(tmp_path / "without").model.pooler is None
    tensors, name = load_file(folder / "model.safetensors"), "bert.pooler.dense."
    dense = np.arange(256, dtype=np.float32).reshape(16, 16)
    tensors |= {name + "weight": dense, name + "bias": dense[3], "cls.seq_relationship.weight": dense[:2]}
    save_file(tensors, folder / "model.safetensors")
    run = tmp_path / "run"
    model = read_published(folder, run).model
    assert [name for name, _ in model.warnings()] == ["pooler"]
    pooler = load_params(run).params["pooler"]
    np.testing.assert_array_equal(np.asarray(pooler["dense"], np.float32), dense.T)
    np.testing.assert_array_equal(np.asarray(pooler["dense_bias"], np.float32), dense[3])
    write_published(run, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    family, _, _ = config_like(str(folder / "config.json"), model, run)  # no config.json can say that there is one
    assert family.name == "bert"


@pytest.mark.sweep
def test_keys_and_values_that_no_layer_uses_are_written_back(tmp_path):
    """Gemma 4's published files have them in the late layers, which see those of earlier layers."""
    folder = published(tmp_path, "gemma4", 3)
    tensors = load_file(folder / "model.safetensors")
    unused = {f"model.layers.4.self_attn.{name}.weight" for name in ("k_proj", "v_proj", "k_norm")}
    assert not unused & tensors.keys()
    save_file(tensors | {name: np.full((3, 2), 7, np.float32) for name in unused}, folder / "model.safetensors")
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_fine_tuning_starts_from_the_weights_and_can_be_published(tmp_path, tiny_experiment):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run")
    start = load_params(tmp_path / "run")
    experiment = tiny_experiment(
        model=dataclasses.replace(start.experiment.model, precision=Precision()),
        data__tokenizer=TokenizerOf(path=str(tmp_path / "run" / "data")),
        training__num_steps=2,
        training__init_from=str(tmp_path / "run"),
        schedule=Constant(peak=1e-6),
    )
    train(experiment, tmp_path / "tuned", say=lambda _: None)
    tuned = load_params(tmp_path / "tuned").params
    for a, b in zip(jax.tree.leaves(tuned), jax.tree.leaves(start.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b.astype(np.float32), atol=1e-4)
    write_published(tmp_path / "tuned", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == contents(folder).keys()
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, final_logit_softcap=9.0))
    with pytest.raises(UserError, match=r"model.final_logit_softcap: None -> 9.0"):
        train(other, tmp_path / "another", say=lambda _: None)


def test_factors_of_a_parametrisation_are_written_as_the_multipliers_that_they_are(tmp_path, monkeypatch):
    """A run under muP is the published model if its multipliers times the parametrisation's are the published ones."""
    folder = FIXTURES / "granite" / "0"
    read_published(folder, tmp_path / "run")
    load = experiments.load

    def under_mup(run):
        experiment = load(run)
        model = experiment.model
        multipliers = dataclasses.replace(model.multipliers, logits=4 * model.multipliers.logits)
        changed = dataclasses.replace(model, parametrization=MuP(base_width=model.width // 4), multipliers=multipliers)
        return dataclasses.replace(experiment, model=changed)

    monkeypatch.setattr("train.conversion.writing.experiments", types.SimpleNamespace(load=under_mup))
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
