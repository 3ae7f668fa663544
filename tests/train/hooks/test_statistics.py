"""Statistics in a run: their lines, the same after an interruption, and their charts."""

import pytest

from train.loop import train
from train.report import write_report
from train.run.metrics import read_statistics
from train.statistics import Statistics

ROLES = {"embedding", "projection", "value", "residual", "scale"}


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory):
    """A run of 7 steps with statistics every 3, stopped after 5; the same without a stop."""
    folder = tmp_path_factory.mktemp("runs")
    experiment = tiny_experiment(
        training__num_steps=7, statistics=Statistics(every=3), samples__prompts=(), checkpoints__every=4
    )
    train(experiment, folder / "whole", say=lambda line: None)
    train(experiment, folder / "halved", hard_stop=5, say=lambda line: None)
    train(experiment, folder / "halved", say=lambda line: None)
    return folder


def test_there_is_a_line_for_every_layer_and_role_at_the_steps_asked_for(run):
    lines = read_statistics(run / "whole")
    assert sorted({line["step"] for line in lines}) == [3, 6, 7]
    assert {line["role"] for line in lines} == ROLES | {"stream"}
    of_layers = {(line["layer"], line["role"]) for line in lines if line["part"] == "blocks"}
    assert of_layers == {(layer, role) for layer in (0, 1) for role in ROLES - {"embedding"} | {"stream"}}
    for line in lines:
        names = ("stream",) if line["role"] == "stream" else ("parameters", "gradients", "updates", "ratio")
        assert all(line[name] > 0 for name in names), line
    assert len({(line["step"], line["part"], line["layer"], line["role"]) for line in lines}) == len(lines)


def test_the_same_bytes_after_an_interruption(run):
    for name in ("statistics.jsonl", "metrics.jsonl"):
        assert (run / "halved" / name).read_bytes() == (run / "whole" / name).read_bytes()


def test_the_report_draws_them(run):
    page = write_report(run / "whole").read_text()
    for role in ROLES:
        assert f"Update over parameter: {role}" in page
    for layer in (0, 1):
        assert f"Residual stream, RMS after layer {layer}" in page
