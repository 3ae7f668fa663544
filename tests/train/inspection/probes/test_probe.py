"""Probes of a model: the kind of a token is in its activation, and the control task is learnt by heart at most."""

import pytest

from model.errors import UserError
from train.inspection.probes.probe import inspect


def test_a_probe_by_layer(tiny_run):
    from train.run.loading import load_run

    run = load_run(tiny_run)
    result = inspect(run, task="kind", layers=[0, -1], batches=3)
    assert list(result.numbers["layers"]) == ["0", "1"]
    for found in result.numbers["layers"].values():
        assert found["task"] > result.numbers["majority"]
        assert found["low"] <= found["selectivity"] <= found["high"]
        assert found["selectivity"] == pytest.approx(found["task"] - found["control"])
    assert "Around 0 or below: the probe tells tokens apart" in result.parts[0].caption
    with pytest.raises(UserError, match="--layers: the model has no layer 5"):
        inspect(run, layers=[5])
    with pytest.raises(UserError, match="no tap is called 'block'"):
        inspect(run, tap="block")
