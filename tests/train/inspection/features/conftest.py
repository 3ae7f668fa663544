"""A training of two autoencoders and a transcoder on the tiny run, shared by the tests of the folder."""

import shutil
from typing import NamedTuple

import pytest


def features_of(**changes):
    """Options of a small training: an autoencoder, one of another layer, and a transcoder of the feed-forward."""
    import dataclasses

    from train.inspection.features.autoencoders import AuxK, BatchTopK, ReLU, Resampling, TopK
    from train.inspection.features.training.settings import Autoencoder, Features
    from train.schedules import Constant

    relu = ReLU(l1=0.5, resampling=Resampling(every=4))
    base = Features(
        autoencoders=(
            Autoencoder(name="top", layer=-1, width=48, architecture=TopK(k=4, auxiliary=AuxK(k=8))),
            Autoencoder(name="relu", tap="mixer_heads", layer=0, width=40, architecture=relu, unit_decoder=False),
            Autoencoder(
                name="through",
                tap="mixer_output",
                output_tap="ffn_output",
                layer=0,
                width=24,
                architecture=BatchTopK(k=4, auxiliary=None),
            ),
        ),
        num_steps=12,
        batch_tokens=64,
        buffer_tokens=300,
        skip_positions=1,
        schedule=Constant(peak=1e-2),
        dead_after=300,
        eval_every=6,
        eval_batches=2,
        save_every=5,
        log_every=3,
    )
    return dataclasses.replace(base, **changes)


class Trained(NamedTuple):
    """A finished training."""

    run: object
    features: object
    folder: object
    said: list


@pytest.fixture(scope="package")
def loaded(tiny_run):
    from train.parallel.mesh import Mesh
    from train.run.loading import load_run

    return load_run(tiny_run, mesh=Mesh(data=4, fsdp=2))


@pytest.fixture(scope="package")
def trained(loaded, tmp_path_factory):
    """The training of `features_of`, never interrupted, on four by two devices."""
    from train.inspection.features.training.loop import train_features

    folder, said = tmp_path_factory.mktemp("features") / "all", []
    outcome = train_features(loaded, features_of(), folder, said.append)
    assert (outcome.state, outcome.step) == ("finished", 12)
    return Trained(loaded, features_of(), folder, said)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the finished training that a test may change."""
    shutil.copytree(trained.folder, tmp_path / "copy")
    return trained._replace(folder=tmp_path / "copy")
