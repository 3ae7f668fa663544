"""SAELens' files: what it wrote and computed (tests/parity/inspection), and what Cairn writes and reads back."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from tests.parity.inspection.sae_lens_reference import FIXTURE, KINDS, inputs
from train.inspection.features.autoencoders import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from train.inspection.features.training.folder import Source
from train.inspection.features.training.measures import write
from train.inspection.features.training.sae_lens import read_autoencoder, require_fit, write_autoencoder
from train.inspection.features.training.settings import Autoencoder, Site

SOURCE = Source("runs/other", 7, "0" * 32)
OPTIONS = {
    "relu": ReLU(),
    "gated": Gated(),
    "jump": JumpReLU(),
    "top": TopK(k=3),
    "batch": BatchTopK(k=3),
    "nested": Matryoshka(k=3, sizes=(4,)),
}


def recorded(folder, kind):
    """A folder with the files of SAELens, and what it computes."""
    with np.load(FIXTURE) as stored:
        tensors = {name.split("/")[-1]: stored[name] for name in stored.files if name.startswith(f"{kind}/tensors/")}
        config, features, output = (stored[f"{kind}/{name}"] for name in ("cfg", "features", "output"))
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(str(config))
    save_file(tensors, folder / "sae_weights.safetensors")
    return features, output


def computed(trained, x):
    params = {name: jnp.asarray(value) for name, value in trained.params.items()}
    features, output = jax.jit(write, static_argnums=0)(trained.option, params, x[None])
    return np.asarray(features[0]), np.asarray(output[0])


def params_of(option, inputs=8, outputs=8):
    draw = np.random.default_rng(1)
    own = jax.device_get(option.architecture.own_parameters(option.width))
    moved = {name: np.asarray(x + np.abs(draw.normal(size=x.shape)) * 0.3, np.float32) for name, x in own.items()}
    matrices = {"encoder": (inputs, option.width), "decoder": (option.width, outputs), "decoder_bias": (outputs,)}
    return moved | {name: draw.normal(size=shape).astype(np.float32) for name, shape in matrices.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_sae_lens_wrote_computes_the_same(kind, tmp_path):
    features, output = recorded(tmp_path / kind, kind)
    found = computed(read_autoencoder(tmp_path / kind), inputs())
    np.testing.assert_allclose(found[0], features, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[1], output, rtol=2e-5, atol=2e-6)


def test_a_bias_that_is_not_subtracted_is_folded_in(tmp_path):
    recorded(tmp_path / "one", "standard")
    config = json.loads((tmp_path / "one" / "cfg.json").read_text()) | {"apply_b_dec_to_input": False}
    (tmp_path / "one" / "cfg.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "one" / "sae_weights.safetensors")
    features, _ = computed(read_autoencoder(tmp_path / "one"), inputs())
    expected = np.maximum(inputs() @ tensors["W_enc"] + tensors["b_enc"], 0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_written_and_read_back(name, tmp_path):
    option = Autoencoder(name=name, width=16, layer=1, architecture=OPTIONS[name])
    site, params = Site("block_output", 1), params_of(option)
    write_autoencoder(tmp_path / name, option, params, (site, site), SOURCE, 32)
    write_autoencoder(tmp_path / name, option, params, (site, site), SOURCE, 32)  # replaces it
    config = json.loads((tmp_path / name / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    trained = read_autoencoder(tmp_path / name)
    assert (trained.source, trained.into, trained.out) == (SOURCE, site, site)
    assert dataclasses.replace(trained.option, architecture=option.architecture) == option
    before = computed(dataclasses.replace(trained, option=option, params=params), inputs())
    for found, expected in zip(computed(trained, inputs()), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_a_transcoder_says_where_it_writes(tmp_path):
    option = Autoencoder(name="t", width=16, tap="mixer_output", output_tap="ffn_output", architecture=ReLU())
    sites = Site("mixer_output", 0), Site("ffn_output", 0)
    write_autoencoder(tmp_path / "t", option, params_of(option, outputs=6), sites, SOURCE, 32)
    config = json.loads((tmp_path / "t" / "cfg.json").read_text())
    assert (config["architecture"], config["d_out"]) == ("transcoder", 6)
    assert config["metadata"]["hook_name_out"] == "blocks.0.hook_mlp_out"
    assert read_autoencoder(tmp_path / "t").out == sites[1]


def test_an_autoencoder_of_another_model_or_layer_is_refused(trained):
    folder = trained.folder / "autoencoders" / "top"
    read, (into, out) = read_autoencoder(folder), (Site("block_output", 1),) * 2
    require_fit(read, trained.run, folder, into, out)
    with pytest.raises(UserError, match="reads block_output of layer 1, and block_output of layer 0 was asked for"):
        require_fit(read, trained.run, folder, Site("block_output", 0), out)
    other = dataclasses.replace(read, source=SOURCE)
    with pytest.raises(UserError, match=r"was trained on runs/other, step 7 .* and this model is .*tiny, step 20"):
        require_fit(other, trained.run, folder, into, out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "jumprelo"}, "architecture 'jumprelo' is not known here.*jumprelu"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'; expected 'none'"),
        ({"d_sae": 23}, r"W_enc has shape \(8, 24\); expected \(8, 23\)"),
        ({"architecture": "gated"}, "has no b_gate of a gated autoencoder"),
        ({"architecture": "topk"}, "k=None of a topk autoencoder"),
    ],
)
def test_files_that_have_no_equal_here_are_refused(change, words, tmp_path):
    recorded(tmp_path / "one", "standard")
    config = json.loads((tmp_path / "one" / "cfg.json").read_text())
    (tmp_path / "one" / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        read_autoencoder(tmp_path / "one")
    with pytest.raises(UserError, match="no folder of an autoencoder"):
        read_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "arrays", "words"),
    [
        ({"apply_b_dec_to_input": False}, {"b_enc": None}, "has no b_enc of a standard autoencoder"),
        ({}, {"b_enc": np.zeros(3, np.float32)}, r"b_enc has shape \(3,\); expected \(24,\)"),
        ({"metadata": {"cairn": {"input": ["block_output", 1]}}}, {}, "metadata.cairn is damaged .'option'."),
        ({"metadata": {"cairn": {"option": 3}}}, {}, "cfg.json: metadata.cairn is damaged"),
        ({"metadata": {"cairn": {"option": {}}}}, {}, "cfg.json: metadata.cairn is damaged"),
    ],
)
def test_damaged_files_are_refused(settings, arrays, words, tmp_path):
    recorded(tmp_path / "one", "standard")
    config = json.loads((tmp_path / "one" / "cfg.json").read_text())
    (tmp_path / "one" / "cfg.json").write_text(json.dumps(config | settings))
    tensors = load_file(tmp_path / "one" / "sae_weights.safetensors") | arrays
    save_file({name: x for name, x in tensors.items() if x is not None}, tmp_path / "one" / "sae_weights.safetensors")
    with pytest.raises(UserError, match=words):
        read_autoencoder(tmp_path / "one")


def test_metadata_that_are_no_table_are_ignored(tmp_path):
    recorded(tmp_path / "one", "standard")
    config = json.loads((tmp_path / "one" / "cfg.json").read_text())
    (tmp_path / "one" / "cfg.json").write_text(json.dumps(config | {"metadata": None}))
    assert read_autoencoder(tmp_path / "one").source is None
