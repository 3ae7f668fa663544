import html.parser
import importlib.resources
import json
import math
import re
import struct
import time

import numpy as np
import pytest

from model.errors import UserError
from train.report import summary, write_curve_png, write_report
from train.report.run import Series, comparison, load, smooth, state, training_seconds
from train.run.metrics import MetricsWriter

NASTY = "<script>alert(1)</script> & \x00\x1b[31m \u00e9"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects tags with their attributes and the text outside of style."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words, self.ids = [], [], [], []
        self.feed(source)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path):
    """A finished run of 600 steps with every file."""
    folder = tmp_path / "demo"
    fill(folder, steps=600)
    return folder


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


def test_a_spike_leaves_the_rest_of_a_smoothed_curve_alone():
    values = np.array([1e30, *np.full(99, 3.0)])
    np.testing.assert_allclose(smooth(values)[2:], 3.0)


def fill(folder, steps, broken=()):
    with MetricsWriter(folder, tensorboard=False) as writer:
        for step in range(1, steps + 1):
            loss = math.nan if step in broken else 2.0 + 6.0 * math.exp(-step / 50)
            writer.train(
                step, {"loss": loss, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens": 64 * step, "skipped": 0}
            )
            if step % 100 == 0:
                writer.evaluation(step, {"loss": loss + 0.1, "perplexity": math.exp(loss + 0.1), "bits_per_byte": 1.25})
                writer.throughput(step, {"seconds": step / 10, "tokens_per_second": 640.0, "mfu": 0.3})
                writer.sample(step, f"{NASTY} from {step}")
        writer.status("finished", steps, total_steps=steps)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "type": "Experiment",
                "model": {"type": "Decoder", "position": {"type": "Rotary", "theta": 1e4}},
                "name": NASTY,
            }
        )
    )
    array = {
        "name": "embedding",
        "shape": [16, 8],
        "axes": ["vocab", "embed"],
        "spec": [None, ["fsdp", "tensor"]],
        "count": 128,
    }
    (folder / "parameters.json").write_text(json.dumps([array, array | {"name": NASTY, "count": 72}]))
    (folder / "environment.json").write_text(
        json.dumps(
            [
                {
                    "session": 1,
                    "started": "2026-01-02T03:04:05+00:00",
                    "git": {"revision": "abc" * 10, "diff": NASTY, "dirty": True},
                }
            ]
        )
    )
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                "validation": {"loss": 2.0625, "perplexity": 7.866, "bits_per_byte": 1.5, "tokens": 4000},
                "baselines": [{"name": "gzip -9", "bits_per_byte": 1.96}, {"name": NASTY, "bits_per_byte": 1.25}],
                "samples": {"count": 8, "parsed": 6},
            }
        )
    )


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3", '"x"', "null"])
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


def test_a_long_run_makes_a_small_page_quickly(tmp_path):
    fill(tmp_path / "run", steps=20_000)
    began = time.process_time()
    path = write_report(tmp_path / "run")
    assert time.process_time() - began < 6  # about 1 on an idle machine
    assert path.stat().st_size < 300_000


def test_a_run_that_went_silent(run, monkeypatch):
    with MetricsWriter(run, tensorboard=False) as writer:
        writer.status("running", 600, total_steps=800)
    assert state(load(run)) == ("running", "step 600 of 800")
    later = time.time() + 7500
    monkeypatch.setattr(time, "time", lambda: later)
    assert state(load(run))[0] == "silent"
    assert "wrote nothing for 2h 05m" in state(load(run))[1]


def test_summary_is_golden(run):
    assert summary(run) == "\n".join(
        [
            f"{run}: finished, step 600 of 600",
            "  validation loss     2.0625  final evaluation",
            "  perplexity          7.8660  final evaluation",
            f"  bits per byte       1.5000  final evaluation; {NASTY} 1.250, gzip -9 1.960",
            "  training loss       2.0000  mean of the last 12 logged steps",
            "  tokens trained on    38.4k  192 per parameter",
            "  parameters             200  200",
            "  training time       1m 00s",
            "  tokens per second      640  median; MFU 30.0%",
            "  samples that parse     75%  6 of 8",
        ]
    )


def test_the_step_that_was_compiled_is_in_no_median(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for session in (1, 2):
            for step, speed in ((1, 1.0), (2, 500.0), (3, 700.0)):
                line = {"tokens_per_second": speed, "mfu": speed / 1000, "includes_compilation": step == 1}
                writer.throughput(3 * session - 3 + step, line)
    assert re.search(r"tokens per second +600  median; MFU 60\.0%", summary(tmp_path))
    assert load(tmp_path).metric("mfu", "throughput").steps.tolist() == [2, 3, 5, 6]


def test_padding_is_shown_where_there_is_some(run, tmp_path):
    assert "Padding" not in page_of(run).text
    with MetricsWriter(tmp_path / "padded", tensorboard=False) as writer:
        for step, padding in ((1, 0.5), (2, 0.25)):
            writer.train(step, {"loss": 1.0, "tokens": 100 * step, "padding": padding})
        writer.throughput(3, {"tokens": 250})
        writer.status("stopped", 3)
    assert "Padding 37.5% places in the batches without a target" in page_of(tmp_path / "padded").text
    assert "Padding, share of the batch" in page_of(tmp_path / "padded").text
    assert re.search(
        r"tokens trained on +250$", summary(tmp_path / "padded"), re.MULTILINE
    )  # of the last step, counted


def test_the_best_evaluation_is_named_when_it_was_not_the_last(run):
    (run / "evaluation.json").unlink()
    with MetricsWriter(run, tensorboard=False) as writer:
        writer.evaluation(700, {"loss": 2.5})
    assert re.search(r"validation loss +2\.5000  step 700; best 2\.1000 at 600", summary(run))


def test_the_comparison_is_sorted_with_this_run_in_it(run):
    assert comparison(load(run)) == [(NASTY, 1.25, False), ("this run", 1.5, True), ("gzip -9", 1.96, False)]


def test_training_time_over_sessions(tmp_path):
    """However long the first steps of a later one took."""
    sessions = {"goes_on": [[10, 20, 30, 40]], "soon": [[10, 20], [10, 20]], "slowly": [[10, 20], [30], [30, 40]]}
    for name, times in sessions.items():
        for session, seconds in enumerate(times):
            with MetricsWriter(tmp_path / name, tensorboard=False, session=session + 1) as writer:
                for value in seconds:
                    writer.throughput(100 * session + value, {"seconds": value})
        run = load(tmp_path / name)
        assert training_seconds(run) == sum(seconds[-1] for seconds in times)
        assert run.restarts().steps.tolist() == [100 * n + seconds[-1] for n, seconds in enumerate(times[:-1])]


def test_smoothing_is_centred_and_keeps_a_straight_line():
    line = np.arange(1000.0)
    smoothed = smooth(line)
    assert np.allclose(smoothed[:990], line[:990])
    noise = np.random.default_rng(0).normal(size=1000)
    assert np.std(smooth(noise)[100:]) < 0.35
    assert smooth(noise)[0] == noise[0]
    assert len(smooth(np.array([]))) == 0


def test_series_drops_what_is_not_finite():
    series = Series(steps=np.arange(4), values=np.array([1.0, np.nan, np.inf, 2.0])).finite()
    assert series.steps.tolist() == [0, 3]


def test_curve_png(run, tmp_path):
    path = tmp_path / "curve.PNG"  # the case of a suffix says nothing
    write_curve_png(run, path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1720, 740)
    assert len(data) > 10_000  # not a blank sheet


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
    assert f"{name} holds what is left out here: {said}" in text
    assert "Gradient norm" in text
    summary(run)


def test_a_name_of_any_characters(tmp_path):
    folder = tmp_path / "<x-y>\x1b[31m\n&'\""
    fill(folder, steps=3)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "&lt;x-y&gt;\u241b[31m" in page
    assert [word for word in ("<x-y>", "\x1b") if word in page] == []
    assert summary(folder).splitlines()[0].startswith(f"{tmp_path}/<x-y>\\x1b[31m\\n&'\": ")
