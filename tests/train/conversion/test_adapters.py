"""Adapters of peft, recorded by tests/parity/alignment/adapters.py: read beside a run, written back, merged, refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.parameters.adapters import DoRA, LoRA
from model.parameters.names import flatten
from model.parameters.quantized_weights import QuantizedWeights
from model.transformer import forward
from tests.tiers import representatives
from tests.train.conversion.folders import FIXTURES, contents
from train import experiment as experiments
from train.conversion.adapters import merge_run, read_adapter, write_adapter
from train.conversion.quantizing import quantize_run
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.loading import load_params

ADAPTERS = FIXTURES.parent / "adapters"
FAMILIES = {"lora": "llama", "queries_and_values": "llama", "dora": "llama", "turned": "gpt2"}
OPTIONS = {
    "lora": LoRA(rank=3, alpha=6.0),
    "queries_and_values": LoRA(rank=4, alpha=6.0, scaling="sqrt_rank", roles=("projection:heads", "value:kv_heads")),
    "dora": DoRA(rank=2, alpha=4.0, roles=("residual",)),
    "turned": LoRA(rank=2, alpha=4.0, roles=("value:ffn",)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs with the adapters, by name, and without, by family."""
    there = tmp_path_factory.mktemp("adapters")
    for family in set(FAMILIES.values()):
        read_published(FIXTURES / family / "0", there / family, parameter_dtype="float32")
    for name, family in FAMILIES.items():
        read_adapter(ADAPTERS / name, there / family, there / name)
    return there


def logits(run):
    loaded = load_params(run)
    model = loaded.experiment.model
    tokens = np.random.default_rng(0).integers(3, model.vocab_size, (2, 12))
    return np.asarray(jax.jit(lambda p, t: forward(model, p, t).logits_BTV)(loaded.params, tokens))


@pytest.mark.parametrize("name", representatives(FAMILIES, "lora", "dora"))
def test_logits_are_those_of_peft(runs, name):
    assert experiments.load(runs / name).model.adapters == OPTIONS[name]
    expected = np.load(ADAPTERS / name / "logits.npy")
    np.testing.assert_allclose(logits(runs / name), expected, rtol=1e-4, atol=2e-5 * expected.std())


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_to_the_byte(runs, name, tmp_path):
    write_adapter(runs / name, tmp_path / "back")
    expected = contents(ADAPTERS / name)
    del expected["logits.npy"]
    assert {key: value for key, value in contents(tmp_path / "back").items() if key != "logits.npy"} == expected


def test_a_merged_run_computes_the_same_and_is_published(runs, tmp_path):
    merge_run(runs / "dora", tmp_path / "merged")
    model = experiments.load(tmp_path / "merged").model
    assert model == experiments.load(runs / "llama").model
    assert (runs / "dora" / "adapter").is_dir()
    assert not (tmp_path / "merged" / "adapter").exists()  # the record of the adapters that it no longer has
    expected = np.load(ADAPTERS / "dora" / "logits.npy")
    np.testing.assert_allclose(logits(tmp_path / "merged"), expected, rtol=1e-4, atol=2e-5 * expected.std())
    write_published(tmp_path / "merged", tmp_path / "published")
    read_published(tmp_path / "published", tmp_path / "again", parameter_dtype="float32")
    assert logits(tmp_path / "again").shape == expected.shape
    with pytest.raises(UserError, match=r"has no adapters \(model.adapters\) to merge"):
        merge_run(tmp_path / "merged", tmp_path / "twice")


@pytest.mark.sweep
def test_an_adapter_beside_a_quantised_base(runs, tmp_path):
    quantize_run(runs / "llama", tmp_path / "int8", QuantizedWeights(format="int8"))
    read_adapter(ADAPTERS / "lora", tmp_path / "int8", tmp_path / "run")
    merge_run(tmp_path / "run", tmp_path / "merged")
    assert experiments.load(tmp_path / "merged").model.precision.weights is None
    whole = logits(tmp_path / "merged")
    np.testing.assert_allclose(logits(tmp_path / "run"), whole, rtol=1e-3, atol=1e-4)
    assert np.abs(whole - np.load(ADAPTERS / "lora" / "logits.npy")).max() > 1e-3, "the base was rounded"


def test_names_of_a_family_for_a_run_that_was_not_read_from_one(runs, tmp_path):
    shutil.copytree(runs / "lora", tmp_path / "run")
    for folder in ("origin", "adapter"):
        shutil.rmtree(tmp_path / "run" / folder)
    with pytest.raises(UserError, match="name the family whose names an adapter has"):
        write_adapter(tmp_path / "run", tmp_path / "out")
    write_adapter(tmp_path / "run", tmp_path / "out", family="llama")
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"]) == (3, 6)
    assert values["target_modules"] == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    ]
    found, expected = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", ADAPTERS / "lora")
    )
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def changed(tmp_path, name="lora", drop=(), change=None, config=None):
    folder = tmp_path / "adapter"
    shutil.copytree(ADAPTERS / name, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = {key: (change(key, x) if change else x) for key, x in tensors.items() if not any(d in key for d in drop)}
    save_file(tensors, folder / "adapter_model.safetensors")
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(values | (config or {})))
    return folder


@pytest.mark.parametrize(
    ("changes", "base", "problem"),
    [
        ({}, "gpt2", "is no adapter of this model .28 problems.:\n.*: the model has no such matrix with an adapter"),
        (
            {"change": lambda key, x: x[:, :-1] if "q_proj.lora_A" in key else x},
            "llama",
            "q_proj.lora_A.weight is 3x15, expected 3x16",
        ),
        ({"drop": ["layers.1.mlp.up_proj"]}, "llama", r"blocks.ffn.up.lora_a: 1 of 2 layers have it; here all have"),
        ({"drop": ["lora_B"]}, "llama", "0 of 2 layers have it"),
        ({"config": {"use_dora": True}}, "llama", "magnitude: 0 of 2 layers have it"),
        ({"config": {"modules_to_save": ["lm_head"]}}, "llama", "modules_to_save=.'lm_head'., expected nothing"),
    ],
)
def test_an_adapter_of_another_model_is_refused_with_names(runs, tmp_path, changes, base, problem):
    folder = changed(tmp_path, **changes)
    with pytest.raises(UserError, match=problem):
        read_adapter(folder, runs / base, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_matrices_that_a_published_tensor_holds_together(runs, tmp_path):
    """GPT-2 has query, key and value in one tensor: peft's adapter of it is not that of three matrices."""
    tensors = {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": np.zeros((2, 16), np.float32)}
    folder = changed(tmp_path, "turned")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="adapts query and key and value together, and here each matrix has its own"):
        read_adapter(folder, runs / "gpt2", tmp_path / "run")


def test_factors_are_stacked_layer_by_layer(runs):
    stored = load_file(pathlib.Path(ADAPTERS / "lora" / "adapter_model.safetensors"))
    found = flatten(load_params(runs / "lora").params)
    for layer in range(2):
        theirs = stored[f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_B.weight"]
        np.testing.assert_array_equal(found["blocks.ffn.up.lora_b"][layer], theirs.T)
