"""What a report makes of lines of further texts and of statistics."""

import math

import numpy as np
import pytest

from train.report import summary, write_report
from train.report.optional_parts import (
    accuracies,
    layer_curves,
    log_normaliser,
    text_headlines,
    text_losses,
    update_ratios,
)
from train.report.run import load
from train.run.metrics import MetricsWriter


@pytest.fixture
def filled(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in (2, 4):
            writer.train(step, {"loss": 3.0})
            writer.evaluation(step, {"loss": 2.0 / step, "bits_per_byte": 1.0})
            writer.evaluation(step, {"loss": 9.0 - step, "bits_per_byte": 4.0}, name="code")
            for layer, ratio in ((0, 0.01), (1, 0.04)):
                place = {"part": "blocks", "layer": layer, "role": "projection"}
                writer.statistics(step, place | {"parameters": 1.0, "updates": ratio, "ratio": ratio * step})
                writer.statistics(step, place | {"role": "stream", "stream": layer + step})
                writer.statistics(
                    step, place | {"role": "attention", "score_max": 9.0 * step, "score_rms": 2.0 + layer}
                )
                writer.statistics(step, place | {"role": "ffn", "dead_units": layer / step})
            writer.statistics(step, {"part": "logits", "layer": None, "role": "logits", "log_z": 0.5 * step})
            bias = {"part": "blocks", "layer": 0, "role": "bias", "parameters": 0.0, "updates": 0.1, "ratio": None}
            writer.statistics(step, bias)
    return tmp_path


def test_texts_are_apart_from_the_validation_split(filled):
    run = load(filled)
    assert [line["loss"] for line in run.evaluations] == [1.0, 0.5]
    ((name, series),) = text_losses(run)
    assert (name, series.steps.tolist(), series.values.tolist()) == ("code", [2, 4], [7.0, 5.0])
    (number,) = text_headlines(run)
    assert (number.label, number.value, number.note) == ("Loss of code", "5.0000", "step 4; 4.0000 bits per byte") or (
        number.label,
        float(number.value),
    ) == ("Loss of code", 5.0)
    assert "loss of code" in summary(filled)


def test_accuracies_have_headlines_and_no_curve_of_losses(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.evaluation(3, {"accuracy": 0.25, "accuracy_lenient": 0.5}, name="asked")
    run = load(tmp_path)
    assert list(text_losses(run)) == []
    ((name, series),) = accuracies(run)
    assert (name, series.steps.tolist(), series.values.tolist()) == ("asked", [3], [0.25])
    (number,) = text_headlines(run)
    assert (number.label, number.value) == ("Accuracy of asked", "25.0%")
    assert number.note == "exact match at step 3; lenient 50.0%"


def test_prompts_are_no_padding(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.train(1, {"loss": 3.0, "padding": 0.5})
    assert not load(tmp_path).counts_some_tokens
    assert "padding" in summary(tmp_path)
    (tmp_path / "config.json").write_text('{"data": {"mask": "assistant"}}')
    assert load(tmp_path).counts_some_tokens
    assert "not counted" in summary(tmp_path)


def test_ratios_are_geometric_means_over_layers(filled):
    ((role, series),) = update_ratios(load(filled))  # a parameter of zeros has no ratio
    assert role == "projection"
    np.testing.assert_allclose(series.values, [2 * math.sqrt(0.01 * 0.04), 4 * math.sqrt(0.01 * 0.04)])


def test_statistics_of_layers_are_shown_of_the_first_and_the_last(filled):
    found = {title: series.values.tolist() for _, title, series in layer_curves(load(filled))}
    assert found == {
        "Residual stream, RMS after layer 0": [2.0, 4.0],
        "Residual stream, RMS after layer 1": [3.0, 5.0],
        "Attention score, largest in layer 0": [18.0, 36.0],
        "Attention score, largest in layer 1": [18.0, 36.0],
        "Attention scores, RMS in layer 0": [2.0, 2.0],
        "Attention scores, RMS in layer 1": [3.0, 3.0],
        "Dead units, share of layer 0": [0.0, 0.0],
        "Dead units, share of layer 1": [0.5, 0.25],
    }
    assert log_normaliser(load(filled)).values.tolist() == [1.0, 2.0]
    page = write_report(filled).read_text()
    for title in (*found, "Log-normaliser of the logits, log Z, mean"):
        assert f"<h3>{title}</h3>" in page


def test_a_name_is_no_part_of_the_page(filled):
    with MetricsWriter(filled, tensorboard=False) as writer:
        writer.evaluation(6, {"loss": 1.0}, name='"><script>alert(1)</script>')
    page = write_report(filled).read_text()
    assert "<script>alert" not in page


def test_damaged_values_are_left_out(filled):
    with open(filled / "statistics.jsonl", "a") as file:
        file.write('{"step": 6, "role": "x", "ratio": "much"}\n{"step": 6, "layer": "y", "stream": 1.0}\n')
        file.write('{"step": 6, "role": "z", "ratio": "NaN"}\n')
    run = load(filled)
    assert [role for role, _ in update_ratios(run)] == ["projection"]
    assert sum(name.startswith("stream") for name, _, _ in layer_curves(run)) == 2
