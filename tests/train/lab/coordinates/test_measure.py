"""What is measured of one model, against a forward pass by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from model.options.assignments import override
from model.transformer import forward
from train.lab.coordinates.measure import TAPS, measure, measured_taps, random_batch
from train.state import StateConfig, init_state


def test_a_model_has_the_taps_of_its_mechanisms(experiment):
    without = lambda *settings: set(TAPS) - set(measured_taps(changed(experiment, *settings).model))  # noqa: E731
    assert without() == set()
    assert without("model.mixer=LSTM") == {"query", "key"}
    assert without("model.ffn=None") == {"ffn_hidden", "ffn_output"}


def changed(experiment, *settings):
    for setting in settings:
        experiment = override(experiment, setting)
    return experiment


def test_sizes_before_and_after_steps_at_a_rate_of_zero(experiment):
    """Without a rate nothing changes, and every size is that of a forward pass of the initial parameters."""
    model = dataclasses.replace(experiment.model, scan_layers=False, num_layers=1)
    small = dataclasses.replace(experiment, model=model)
    (found,) = measure(small, steps=2, rate=0.0, seeds=(3,), rows=2, length=8)
    params = jax.jit(init_state, static_argnums=0)(StateConfig.of(small), 3).all_params
    output = forward(small.model, params, random_batch(small.model, 2, 8)["tokens"], taps=measured_taps(small.model))
    for kind, x in (output.taps | {"logits": output.logits_BTV}).items():
        layers = x[None] if kind in ("embedding", "final_norm", "logits") else x
        expected = [np.sqrt(np.mean(np.square(np.asarray(layer, np.float64)))) for layer in layers]
        sizes = found.sizes[kind]
        assert sizes.start == pytest.approx(expected, rel=1e-5)
        assert (sizes.after, sizes.change) == (sizes.start, (0.0,) * len(expected))
    assert found.losses[0] == found.losses[1]
