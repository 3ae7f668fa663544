"""Quantised run folders: what they hold, on which devices, and what they are refused for."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.parameters.names import flatten
from model.parameters.quantized_weights import MatrixLayout, QuantizedWeights, applies_to, quantize
from model.parameters.specs import specs_by_name
from model.transformer import forward, specs
from tests.tiers import representatives
from tests.train.conversion.folders import published, trained_here
from train import experiment as experiments
from train.conversion.quantizing import parse_option, quantize_params, quantize_run
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.loop import train
from train.parallel.mesh import Mesh
from train.run.loading import load_params, load_run
from train.run.pretrained import check_init_from


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and quantised ones by name."""
    there = tmp_path_factory.mktemp("quantized")
    trained_here(there / "whole", "llama")
    for name in ("int4:32", "fp8"):
        quantize_run(there / "whole", there / name, parse_option(name))
    return there


@pytest.mark.parametrize("name", representatives(["int4:32", "fp8"], "int4:32"))
def test_a_checkpoint_holds_the_quantised_numbers(runs, name):
    option = parse_option(name)
    assert experiments.load(runs / name).model.precision.weights == option
    assert load_run(runs / name).tokenizer.vocab_size == 257
    whole, few = (load_params(runs / run, mesh=Mesh(data=8)) for run in ("whole", name))
    known, found = specs_by_name(specs(whole.experiment.model)), flatten(few.params)
    for parameter, x in flatten(whole.params).items():
        spec = known[parameter]
        if not applies_to(spec):
            np.testing.assert_array_equal(found[parameter], x)
            continue
        values, scales = quantize(np.asarray(x), MatrixLayout(spec, x.shape, option))
        np.testing.assert_array_equal(found[f"{parameter}.values"], values)
        np.testing.assert_array_equal(found[f"{parameter}.scales"], scales)


def test_the_table_shards_values_and_scales_alike(runs):
    tokens = jnp.arange(16).reshape(2, 8) % 257
    one = load_params(runs / "int4:32", mesh=Mesh(data=8))
    wanted = forward(one.experiment.model, jax.device_get(one.params), tokens).logits_BTV
    split = load_params(runs / "int4:32", mesh=Mesh(data=2, fsdp=2, tensor=2))
    arrays = flatten(split.params)
    for name in ("values", "scales"):
        x = arrays[f"blocks.ffn.up.{name}"]
        assert x.sharding.shard_shape(x.shape)[-1] * 2 == x.shape[-1], "ffn is split over tensor"
    model = split.experiment.model
    found = jax.jit(lambda p, t: forward(model, p, t, layout=split.layout).logits_BTV)(split.params, tokens)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(jnp.abs(wanted).max()))


def test_published_weights_are_quantised_while_they_are_read(tmp_path):
    source = published(tmp_path)
    experiment = read_published(source, tmp_path / "int8", weights=parse_option("int8", "int8"))
    assert experiment.model.precision.weights == QuantizedWeights(activations="int8")
    assert (
        json.loads((tmp_path / "int8" / "config.json").read_text())["model"]["precision"]["weights"]["format"] == "int8"
    )
    assert load_params(tmp_path / "int8").step == 0


def test_it_is_not_trained_nor_written_nor_quantised_again(runs, tmp_path):
    experiment = experiments.load(runs / "fp8")
    with pytest.raises(UserError, match=r"model\.precision\.weights, float8\), for inference alone; train the run"):
        train(experiment, tmp_path / "run")
    training = dataclasses.replace(experiment.training, init_from=str(runs / "fp8"))
    with pytest.raises(UserError, match=r"training\.init_from=.*fp8: its weights are quantised"):
        check_init_from(dataclasses.replace(experiments.load(runs / "whole"), training=training))
    with pytest.raises(UserError, match="no published format of this command holds them"):
        write_published(runs / "fp8", tmp_path / "published", family="llama")
    with pytest.raises(UserError, match="its weights are float8 already; quantise the run that has them whole"):
        quantize_run(runs / "fp8", tmp_path / "again", parse_option("int8"))
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_refused(runs):
    loaded = load_params(runs / "whole", mesh=Mesh(data=8))
    damaged = jax.tree.map(lambda x: x * jnp.nan, loaded.params)
    with pytest.raises(UserError, match="parameter .* has numbers that are not finite"):
        quantize_params(damaged, loaded.experiment.model, parse_option("int8"), loaded.mesh, loaded.table)


def test_options_in_words():
    assert parse_option("int4") == QuantizedWeights(format="int4", group=64)
    assert parse_option("fp8:128") == QuantizedWeights(format="float8", group=128)
    assert parse_option("int8", "int8") == QuantizedWeights(activations="int8")
    for text in ("int5", "int4:", "int4:x", "", "int8:64:2", "int4:8", "int4:512"):
        with pytest.raises(UserError, match=rf"--quantize={text}|--quantize: must be from 16 to 256"):
            parse_option(text)
    with pytest.raises(UserError, match="--activations: 'int8' multiplies integers"):
        parse_option("fp8", "int8")
