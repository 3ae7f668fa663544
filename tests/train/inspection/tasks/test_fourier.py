"""Spectra of logits that are made of known waves."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.tasks import fourier

P = 13


def waves(frequencies, noise=0.0):
    a, b, c = np.meshgrid(np.arange(P), np.arange(P), np.arange(P), indexing="ij")
    made = sum(size * np.cos(2 * np.pi * k * (a + b - c) / P) for k, size in frequencies.items())
    return made + noise * np.random.default_rng(0).normal(size=made.shape)


def test_logits_of_two_waves():
    logits = waves({2: 3.0, 5: 1.5}, noise=0.1)
    shares = fourier.logit_spectrum(logits)
    assert list(fourier.key_frequencies(shares)) == [2, 5]
    np.testing.assert_allclose(shares[[1, 4]], [0.8, 0.2], atol=0.02)
    assert fourier.explained_by_waves(logits, np.array([2, 5])) == pytest.approx(1, abs=0.02)
    assert fourier.explained_by_waves(logits, np.array([2])) == pytest.approx(0.8, abs=0.02)
    pairs = np.stack(np.divmod(np.arange(P * P), P), axis=1)
    assert fourier.accuracy(logits, pairs) == 1
    assert fourier.accuracy(waves({0: 1.0}, noise=1.0), pairs) < 0.3


def test_the_spectrum_of_a_table():
    n = np.arange(P)[:, None]
    table = np.concatenate([np.cos(2 * np.pi * 3 * n / P), np.sin(2 * np.pi * 3 * n / P), 2 + 0 * n], axis=1)
    np.testing.assert_allclose(fourier.spectrum(table), np.eye(6)[2], atol=1e-12)


@pytest.mark.sweep
def test_the_page_of_a_model_and_another_run(tiny_experiment, tiny_run, tmp_path):
    from train.data.generated import Generated
    from train.evaluation.probes.modular import ModularAddition
    from train.loop import train
    from train.run.loading import load_run

    task = ModularAddition(modulus=5, share=0.5)
    experiment = tiny_experiment(
        model__vocab_size=6,
        model__num_layers=1,
        data=Generated(task=task, batch_size=8, validation_batches=1),
        training__num_steps=2,
        schedule__warmup_steps=0,
        samples__prompts=(),
        samples__length=1,
    )
    train(experiment, tmp_path / "run", say=lambda line: None)
    result = fourier.inspect(load_run(tmp_path / "run"))
    assert [chart.title for chart in result.parts[1].charts] == ["Embedding", "Logits", "Loss over steps"]
    assert result.arrays["logits"].shape == (2,)
    with pytest.raises(UserError, match="was trained on text; expected a run of configs/modular_addition.py"):
        fourier.inspect(load_run(tiny_run))
