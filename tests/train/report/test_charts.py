import importlib.resources
import json
import math
import re
import struct

import pytest

from tests.train.report.pages import fill, page_of
from train.report import summary, write_curve_png
from train.run.metrics import MetricsWriter


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", [[1e300] * 3 + [2.0] * 60, [math.nan, 1.7e308], [3.4e38] + [3.0] * 70, [-0.0] * 30])
def test_numbers_of_any_size_are_drawn_and_readable(losses, tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step, loss in enumerate(losses, 1):
            writer.train(step, {"loss": loss, "grad_norm": loss, "learning_rate": loss, "tokens": step * 2**62})
            writer.throughput(step, {"tokens_per_second": loss, "mfu": loss, "data_wait_fraction": loss})
        writer.evaluation(step, {"loss": loss, "perplexity": 1.014e304, "bits_per_byte": loss})
    validation = {"loss": 5818.1, "perplexity": 1.014e304, "word_perplexity": None, "bits_per_byte": None}
    baselines = [{"name": "gzip -9", "bits_per_byte": 1e300 if any(losses) else 0.0}]
    (tmp_path / "evaluation.json").write_text(json.dumps({"validation": validation, "baselines": baselines}))
    page = page_of(tmp_path).text
    assert "Perplexity 1.014e+304" in page
    assert re.search(
        r"loss perplexity perplexity per word bits per byte 5,818.10 1.014e.304 not finite not finite", page
    )
    assert not re.search(r"[\d,]{25,}", page)
    assert re.search(r"\n  bits per byte +not finite +final evaluation", summary(tmp_path))
    assert max(map(len, summary(tmp_path).removeprefix(str(tmp_path)).splitlines())) < 90


def test_charts_follow_the_colours_of_the_page(run):
    page_of(run)
    source = (run / "report.html").read_text()
    assert "#0102" not in source  # a stand-in that was not replaced
    used = set(re.findall(r"var\(--([a-z]+)\)", source))
    style = importlib.resources.files("train.report").joinpath("style.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark")
    colours = used - {"sans", "mono"}
    assert {"train", "validation", "muted", "rule"} <= colours
    for colour in colours:
        assert f"--{colour}: #" in light
        assert f"--{colour}: #" in dark


def test_a_run_with_nans(tmp_path):
    fill(tmp_path / "broken", steps=200, broken=range(120, 131))
    text = page_of(tmp_path / "broken").text
    assert "11 of 200 points are NaN or infinite (red ticks)." in text
    assert "Steps with no finite loss 11" in text
    fill(tmp_path / "hopeless", steps=200, broken=range(201))
    assert "200 of 200 points are NaN or infinite" in page_of(tmp_path / "hopeless").text
    summary(tmp_path / "hopeless")


@pytest.mark.parametrize("steps", [1, 2, 19, 51, 501])
def test_a_run_of_any_length(tmp_path, steps):
    fill(tmp_path / "run", steps=steps)
    assert "Loss" in page_of(tmp_path / "run").text


def test_curve_png(run, tmp_path):
    path = tmp_path / "curve.PNG"  # the case of a suffix does not matter
    write_curve_png(run, path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1720, 740)
    assert len(data) > 10_000  # not a blank sheet
