import json
import math
import pathlib
import struct
import sys
import textwrap

import pytest

import train.run.trackers
from model.errors import UserError
from train.run.metrics import MetricsWriter, read_metrics
from train.run.trackers import Trackers


def events(folder):
    """The events in the TensorBoard files of a folder: records of length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event()
            event.ParseFromString(data[place + 12 : place + 12 + length])
            found.append(event)
            place += length + 16
    return found


def test_tensorboard_gets_every_value_and_hides_what_a_resumed_run_repeats(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.train(1, {"loss": 2.5, "grad_norm": math.nan})
        writer.evaluation(1, {"loss": 3.0})
        writer.sample(1, "a\nb")
        writer.train(2, {"loss": 2.0})
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(1)
        writer.throughput(2, {"tokens_per_second": 100.0, "mfu": None})
    found = events(tmp_path)
    scalars = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value if v.HasField("simple_value")]
    assert (1, "train/loss", 2.5) in scalars
    assert (1, "eval/loss", 3.0) in scalars
    assert (2, "throughput/tokens_per_second", 100.0) in scalars
    assert any(tag == "train/grad_norm" and math.isnan(value) for _, tag, value in scalars)
    assert not any("mfu" in tag for _, tag, _ in scalars)
    assert any(
        "    a\n    b" in str(v.tensor.string_val[0].decode())
        for e in found
        for v in e.summary.value
        if "samples" in v.tag
    )
    assert [e.step for e in found if e.session_log.status == e.session_log.START] == [2]


STATISTICS = [
    {"part": "blocks", "layer": 3, "role": "projection", "parameters": 0.5, "ratio": None},
    {"part": "embedding", "layer": None, "role": "embedding", "ratio": 0.25},
    {"part": "blocks", "layer": 3, "role": "stream", "stream": 2.0},
]
STATISTICS_AS_SCALARS = {
    "statistics/blocks/3/projection/parameters": 0.5,
    "statistics/embedding/embedding/ratio": 0.25,
    "statistics/blocks/3/stream/stream": 2.0,
}


def test_tensorboard_gets_the_statistics_of_layers_and_roles(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for line in STATISTICS:
            writer.statistics(7, line)
    values = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    assert {value.tag: value.simple_value for _, value in values} == STATISTICS_AS_SCALARS
    assert {step for step, _ in values} == {7}


def test_wandb_gets_the_statistics_of_layers_and_roles(tmp_path, fake_wandb):
    with MetricsWriter(tmp_path / "run", tensorboard=False, wandb_project="project") as writer:
        for line in STATISTICS:
            writer.statistics(7, line)
    _, *calls = json.loads(fake_wandb.read_text())
    assert {name: value for _, values in calls for name, value in values.items()} == STATISTICS_AS_SCALARS
    assert {step for step, _ in calls} == {7}


def test_a_relative_path_like_that_of_a_bucket_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trackers = Trackers(pathlib.Path("gs:/run"), True, None, None)
    trackers.log("train", 1, {"loss": 1.0})
    trackers.close()
    assert len(list((tmp_path / "gs:" / "run" / "tensorboard").iterdir())) == 1


def test_a_tracker_that_does_not_start_does_not_end_the_run(tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise AttributeError("bucket")

    monkeypatch.setattr(train.run.trackers.TensorBoard, "__init__", fail)
    trackers = Trackers(tmp_path, True, None, None)
    trackers.log("train", 1, {"loss": 1.0})
    trackers.close()


def test_a_broken_tracker_does_not_end_the_run(tmp_path, monkeypatch):
    from tensorboardX.event_file_writer import EventsWriter

    def broken(self, event):
        raise OSError("no space left")

    with MetricsWriter(tmp_path) as writer:
        writer.train(1, {"loss": 1.0})
        monkeypatch.setattr(EventsWriter, "write_event", broken)
        writer.train(2, {"loss": 1.0})
        monkeypatch.undo()
        writer.train(3, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert max(event.step for event in events(tmp_path)) == 1


def test_missing_packages_are_named_before_anything_is_written(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        MetricsWriter(tmp_path / "run", tensorboard=False, wandb_project="p")
    with pytest.raises(UserError, match="pip install tensorboardX"):
        MetricsWriter(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """A module that records its calls."""
    (tmp_path / "wandb.py").write_text(
        textwrap.dedent("""
        import json, os, pathlib

        def init(**options):
            if options["project"] == "forbidden":
                raise RuntimeError("not logged in")
            return Run(options)

        def Html(text):
            return {"html": text}

        class Run:
            def __init__(self, options):
                self.calls = [options]
            def log(self, values, step):
                self.calls.append([step, values])
            def finish(self):
                with open(os.environ["FAKE_WANDB"], "a") as file:
                    file.write(json.dumps(self.calls) + "\\n")
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "calls"))
    yield tmp_path / "calls"
    sys.modules.pop("wandb", None)


def test_wandb_continues_its_run(tmp_path, fake_wandb):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"seed": 1}')
    for step in (1, 2):
        with MetricsWriter(run, tensorboard=False, wandb_project="project") as writer:
            writer.train(step, {"loss": 1.5})
            writer.sample(step, "<b>")
    first, second = (json.loads(line) for line in fake_wandb.read_text().splitlines())
    assert first[0]["id"] == second[0]["id"]
    assert first[0]["resume"] == "allow"
    assert first[0]["config"] == {"seed": 1}
    assert first[1:] == [[1, {"train/loss": 1.5}], [1, {"samples": {"html": "<pre>&lt;b&gt;</pre>"}}]]


def test_wandb_that_does_not_start_is_a_clear_error(tmp_path, fake_wandb):
    with (
        pytest.raises(UserError, match=r"not logged in.*wandb login"),
        MetricsWriter(tmp_path / "run", tensorboard=False, wandb_project="forbidden") as writer,
    ):
        writer.train(1, {"loss": 1.0})
