import json
import re

import pytest

from model.errors import UserError
from tests.tiers import representatives
from tests.train.report.pages import fill, page_of
from train.report import summary, write_curve_png, write_report
from train.run.metrics import MetricsWriter


def test_the_page_has_every_section(run):
    text = page_of(run).text
    for words in (
        "demo finished step 600 of 600 \u00b7 begun 2026-01-02 03:04 UTC",
        "Validation loss 2.0625 final evaluation",
        "Parameters 200",
        "Training time 1m 00s",
        "Tokens per second 640 median; MFU 30.0%",
        "Learning rate",
        "Gradient norm",
        "Bits per byte of the same files; lower is better",
        "Sampled files that parse: 75% , 6 of 8",
        "embedding 16 \u00d7 8 vocab, embed \u2013, fsdp+tensor 128 64.0%",
        "model.position Rotary model.position.theta 10000.0",
        "Uncommitted changes",
        "code abcabcabca with changes",
    ):
        assert words in text
    assert "missing" not in text


def test_the_page_needs_nothing_from_outside(run):
    page = page_of(run)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object")]
    references = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert all(value.startswith(("#", "data:")) for value in references)
    source = (run / "report.html").read_text()
    assert "@import" not in source
    assert "url(" not in re.sub(r"url\(#", "", source)


def test_text_is_escaped_and_its_control_characters_shown(run):
    page = page_of(run)
    source = (run / "report.html").read_text()
    assert "<script" not in source
    assert "\x00" not in source
    assert "\x1b" not in source
    # The sample, the config value, the parameter's name, the baseline's name and the diff.
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "\u2400\u241b[31m \u00e9 from 600" in page.text


def test_the_same_run_gives_the_same_page(run):
    first, second = (re.sub(r"Written by.*", "", write_report(run).read_text()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("metrics.jsonl", "No numbers"),
        ("samples.txt", "samples.txt is missing or empty"),
        ("parameters.json", "parameters.json is missing"),
        ("config.json", "config.json is missing"),
        ("environment.json", "environment.json is missing"),
    ],
)
def test_what_is_missing_is_said(run, file, said):
    (run / file).unlink()
    if file == "metrics.jsonl":
        for other in ("evaluation.json", "throughput.jsonl", "parameters.json"):
            (run / other).unlink()
    assert said in page_of(run).text


def test_an_empty_folder(tmp_path):
    text = page_of(tmp_path).text
    assert text.count("missing") >= 5
    assert "Not evaluated yet" in text
    assert summary(tmp_path) == f"{tmp_path}: unknown, step 0"


def test_no_folder_is_a_user_error(tmp_path):
    for function in (write_report, summary, lambda folder: write_curve_png(folder, tmp_path / "x.png")):
        with pytest.raises(UserError, match="there is no run folder"):
            function(tmp_path / "nowhere")


@pytest.mark.parametrize("content", representatives(["{", "[1, 2]", "3", '"x"', "null"], "{", "null"))
def test_damaged_files_are_named_and_the_rest_is_shown(run, content):
    for name in ("config.json", "evaluation.json", "parameters.json", "environment.json", "status.json"):
        (run / name).write_text(content)
    text = page_of(run).text
    assert "config.json" in text
    assert "Gradient norm" in text
    summary(run)


def test_damaged_metrics_are_named(run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:5], '{"kind\n', *lines[5:]]))
    assert "metrics.jsonl, line 6" in page_of(run).text


def test_a_long_run_makes_a_small_page(tmp_path):
    fill(tmp_path / "run", steps=20_000)
    path = write_report(tmp_path / "run")
    assert path.stat().st_size < 300_000


def test_padding_is_shown_where_there_is_some(run, tmp_path):
    assert "Padding" not in page_of(run).text
    with MetricsWriter(tmp_path / "padded", tensorboard=False) as writer:
        for step, padding in ((1, 0.5), (2, 0.25)):
            writer.train(step, {"loss": 1.0, "tokens": 100 * step, "padding": padding})
        writer.throughput(3, {"tokens": 250})
        writer.status("stopped", 3)
    assert "Padding 37.5% positions in the batches without a target" in page_of(tmp_path / "padded").text
    assert "Padding, share of the batch" in page_of(tmp_path / "padded").text
    assert re.search(
        r"tokens trained on +250$", summary(tmp_path / "padded"), re.MULTILINE
    )  # of the last step, counted


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("status.json", {"state": 5, "step": "x", "total_steps": 10**30}, "state: expected a text, got 5, and 2 more"),
        ("parameters.json", [{"name": "a", "count": 10**400}, 3], "0.count: expected a whole number, got 1000"),
        (
            "evaluation.json",
            {"samples": {"count": 3, "parsed": None}},
            "samples.parsed: expected a whole number, got None",
        ),
        (
            "evaluation.json",
            {"baselines": [{"bits_per_byte": "x"}, []]},
            "baselines.0.bits_per_byte: expected a number",
        ),
        ("config.json", {"evaluation": [1]}, "evaluation: expected an object, got [1]"),
        ("environment.json", [{"git": 3, "devices": {"count": "8"}}], "0.devices.count: expected a whole number, got"),
    ],
)
def test_what_has_another_form_is_named_and_left_out(name, content, said, run):
    (run / name).write_text(json.dumps(content))
    text = page_of(run).text
    assert f"{name} holds values that do not fit its schema, left out here: {said}" in text
    assert "Gradient norm" in text
    summary(run)


def test_a_name_of_any_characters(tmp_path):
    folder = tmp_path / "<x-y>\x1b[31m\n&'\""
    fill(folder, steps=3)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "&lt;x-y&gt;\u241b[31m" in page
    assert [word for word in ("<x-y>", "\x1b") if word in page] == []
    assert summary(folder).splitlines()[0].startswith(f"{tmp_path}/<x-y>\\x1b[31m\\n&'\": ")
