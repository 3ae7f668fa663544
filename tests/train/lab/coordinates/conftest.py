"""An experiment whose models take a second to compile, and measurements that are made up."""

import pytest

from train.lab.coordinates.measure import Measured, Sizes


@pytest.fixture(scope="package")
def experiment(tiny_experiment):
    return tiny_experiment(
        model__vocab_size=16,
        model__context_length=8,
        model__width=32,
        model__mixer="GroupedQuery(num_heads=4)",
        model__ffn="MLP(width=64)",
        model__position="NoPositions()",
        model__initialization="Normal(std=0.05)",
        data__sequence_length=8,
        samples__prompts=(),
        samples__length=4,
        schedule="Constant(peak=0.02)",
    )


@pytest.fixture
def made_up(monkeypatch):
    """Replaces the measurements: under a parametrisation the stream keeps its size; else it grows as the model does."""

    def measure(experiment, *, seeds, **settings):
        model = experiment.model
        base_width = getattr(model.parametrization, "base_width", None)
        grows = model.width * model.num_layers if base_width is None else 2 * base_width  # of two layers
        for seed in seeds:
            size = grows * 1.1**seed
            sizes = Sizes(start=(1.0,), after=(size,), change=(size,))
            yield Measured(sizes={"block_output": sizes, "mixer_output": sizes}, losses=(3.0, 2.0))

    monkeypatch.setattr("train.lab.coordinates.check.measure", measure)
