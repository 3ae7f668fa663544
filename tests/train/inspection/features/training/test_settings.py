"""The options: problems by path, places counted from the first layer, overrides."""

import pytest

from model.errors import UserError
from model.options.tree import check
from train.inspection.features.training.settings import (
    Adam,
    Autoencoder,
    Features,
    Site,
    autoencoder_named,
    from_file,
    with_overrides,
)

ONE = Autoencoder(name="one", width=64)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (Features(autoencoders=()), "autoencoders: expected at least one"),
        (Features(autoencoders=(ONE, ONE)), "two have the name 'one'"),
        (Features(autoencoders=(ONE,), buffer_tokens=10), "buffer_tokens: 10 is less than batch_tokens=4096"),
        (Features(autoencoders=(ONE,), num_steps=0), "num_steps: must be at least 1"),
        (Features(autoencoders=(ONE,), clip_norm=0.0), "clip_norm: must be above 0, or None"),
        (Features(autoencoders=(ONE,), skip_positions=-1), "skip_positions: must be 0 or more"),
        (Features(autoencoders=(ONE,), optimizer=Adam(b1=1.0)), "optimizer.b1: must be at least 0 and below 1"),
        (Features(autoencoders=(Autoencoder(name="a/b"),)), "autoencoders.0.name: expected letters"),
        (Features(autoencoders=(Autoencoder(name="a", output_layer=1),)), "output_layer: 1 is of a transcoder"),
    ],
)
def test_problems_have_their_path(features, words):
    with pytest.raises(UserError, match=words):
        check(features)


def test_sites_are_counted_from_the_first_layer():
    assert ONE.sites(4) == (Site("block_output", 3),) * 2
    through = Autoencoder(name="t", tap="mixer_output", output_tap="ffn_output", layer=-2)
    assert through.sites(4) == (Site("mixer_output", 2), Site("ffn_output", 2))
    assert through.sites(4)[1].text == "ffn_output of layer 2"
    assert Site("final_norm", None).text == "final_norm"
    with pytest.raises(UserError, match="reads and writes block_output of layer 3"):
        Autoencoder(name="t", output_tap="block_output").sites(4)


def test_the_config_file_and_overrides():
    features = from_file("configs/inspection/sae.py", ["num_steps=5", "autoencoders.0.architecture=TopK(k=3)"])
    assert (features.num_steps, features.autoencoders[0].architecture.k) == (5, 3)
    with pytest.raises(UserError, match="has no field 'num_step'.*num_steps"):
        with_overrides(features, ["num_step=3"])
    with pytest.raises(UserError, match=r"defines no `features = Features"):
        from_file("configs/small.py")


def test_an_autoencoder_by_name(tmp_path):
    features = Features(autoencoders=(ONE, Autoencoder(name="two")))
    assert autoencoder_named(features, "two", tmp_path).name == "two"
    assert autoencoder_named(Features(autoencoders=(ONE,)), None, tmp_path) == ONE
    for name, words in (
        (None, "has several autoencoders"),
        ("three", "has no autoencoder 'three'; name one of one, two"),
    ):
        with pytest.raises(UserError, match=words):
            autoencoder_named(features, name, tmp_path)
