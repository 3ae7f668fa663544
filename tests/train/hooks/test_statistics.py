"""Statistics in a run: their lines, the same after an interruption, and their charts."""

import pytest

from train.loop import train
from train.report import write_report
from train.run.metrics import read_metrics, read_statistics
from train.statistics import Statistics

ASKED = Statistics(every=3, attention=True, logits=True, dead_units=True)
ROLES = {"embedding", "projection", "value", "residual", "scale"}
NUMBERS = ("parameters", "gradients", "updates", "ratio")
OTHERS = {"stream": ("stream",), "attention": ("score_max", "score_rms"), "ffn": ("dead_units",)}


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory):
    """A run of 7 steps with statistics every 3, stopped after 5; the same without a stop."""
    folder = tmp_path_factory.mktemp("runs")
    experiment = tiny_experiment(training__num_steps=7, statistics=ASKED, samples__prompts=(), checkpoints__every=4)
    train(experiment, folder / "whole", say=lambda line: None)
    train(experiment, folder / "halved", hard_stop=5, say=lambda line: None)
    train(experiment, folder / "halved", say=lambda line: None)
    return folder


def test_there_is_a_line_for_every_layer_and_role_at_the_steps_asked_for(run):
    lines = read_statistics(run / "whole")
    assert sorted({line["step"] for line in lines}) == [3, 6, 7]
    assert {line["role"] for line in lines} == ROLES | OTHERS.keys() | {"logits"}
    of_layers = {(line["layer"], line["role"]) for line in lines if line["part"] == "blocks"}
    assert of_layers == {(layer, role) for layer in (0, 1) for role in ROLES - {"embedding"} | OTHERS.keys()}
    for line in lines:
        names = OTHERS.get(line["role"], ("log_z",) if line["role"] == "logits" else NUMBERS)
        assert all(line[name] > 0 for name in names if name != "dead_units"), line
        assert 0 <= line.get("dead_units", 0) < 0.5
    assert len({(line["step"], line["part"], line["layer"], line["role"]) for line in lines}) == len(lines)


def test_a_line_of_metrics_sums_up_each_step_with_statistics(run):
    summed = [line for line in read_metrics(run / "whole") if line["kind"] == "statistics"]
    assert [line["step"] for line in summed] == [3, 6, 7]
    lines = [line for line in read_statistics(run / "whole") if line["step"] == 6]
    largest = max(line["score_max"] for line in lines if line["role"] == "attention")
    (log_z,) = (line["log_z"] for line in lines if line["role"] == "logits")
    assert (summed[1]["score_max"], summed[1]["log_z"]) == (largest, log_z)
    assert summed[1].keys() == {
        *("kind", "step", "ratio", "stream", "score_max", "score_rms", "log_z", "dead_units")
    }  # fmt: skip


def test_the_same_bytes_after_an_interruption(run):
    for name in ("statistics.jsonl", "metrics.jsonl"):
        assert (run / "halved" / name).read_bytes() == (run / "whole" / name).read_bytes()


def test_the_report_draws_them(run):
    page = write_report(run / "whole").read_text()
    for role in ROLES:
        assert f"Update over parameter: {role}" in page
    for layer in (0, 1):
        for title in ("Residual stream, RMS after", "Attention score, largest in", "Dead units, share of"):
            assert f"{title} layer {layer}" in page
    assert "Log-normaliser of the logits" in page
