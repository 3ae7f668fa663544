import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from model.errors import UserError
from train.run.metrics import MetricsWriter, read_metrics, read_samples, read_statistics, read_status, read_throughput


def write_steps(writer, first, last):
    """Writes the lines of a run; every line depends only on its step."""
    for step in range(first, last + 1):
        scalars = {"grad_norm": np.float32(1 / step), "loss": np.float32(8 / step), "skipped": np.int32(0)}
        writer.train(step, scalars)
        writer.throughput(step, {"seconds": 0.1 * step, "mfu": None})
        if step % 2 == 0:
            writer.evaluation(step, {"loss": 9 / step, "perplexity": math.exp(9 / step)})
            writer.sample(step, f"sample of\nstep {step}")


def writer_of(folder, **options):
    return MetricsWriter(folder, tensorboard=False, **options)


FILES = ("metrics.jsonl", "throughput.jsonl", "samples.txt")


def test_the_line_is_golden(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.train(3, {"zebra": True, "tokens": np.int64(12), "loss": np.float32(0.1), "grad_norm": 1.0, "ant": 2})
        writer.evaluation(3, {"bits_per_byte": 0.5, "loss": 2.25})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"kind": "train", "step": 3, "loss": 0.10000000149011612, "grad_norm": 1.0, "tokens": 12, "ant": 2, '
        '"zebra": true}\n{"kind": "eval", "step": 3, "loss": 2.25, "bits_per_byte": 0.5}\n'
    )


def test_order_of_fields_does_not_hang_on_the_dictionary(tmp_path):
    values = {"loss": 1.0, "learning_rate": 0.1, "b": 2, "a": 1}
    for name, items in (("one", values.items()), ("other", reversed(values.items()))):
        with writer_of(tmp_path / name) as writer:
            writer.train(1, dict(items))
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (tmp_path / "other/metrics.jsonl").read_bytes()


def test_every_float32_reads_back_to_itself(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**31 - 2**23, 200).astype(np.uint32).view(np.float32)
    with writer_of(tmp_path) as writer:
        for step, value in enumerate(values):
            writer.train(step, {"loss": value})
    read = np.array([line["loss"] for line in read_metrics(tmp_path)], dtype=np.float32)
    assert np.array_equal(read, values)


def test_jax_scalars_are_taken_and_arrays_refused(tmp_path):
    import jax.numpy as jnp

    with writer_of(tmp_path) as writer:
        writer.train(jnp.int32(1), {"loss": jnp.float32(0.5), "half": jnp.bfloat16(0.25), "n": jnp.int32(3)})
        with pytest.raises(ValueError, match=r"'loss' must be a scalar, got an array of shape \(2,\)"):
            writer.train(2, {"loss": jnp.ones(2)})
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1, "loss": 0.5, "half": 0.25, "n": 3}]


def test_not_finite_values_are_valid_json_and_read_back(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.train(1, {"loss": np.float32("nan"), "grad_norm": math.inf, "z_loss": -math.inf})
    raw = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (raw["loss"], raw["grad_norm"], raw["z_loss"]) == ("NaN", "Infinity", "-Infinity")
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["loss"])
    assert (line["grad_norm"], line["z_loss"]) == (math.inf, -math.inf)


def test_a_line_of_a_kind_of_ones_own(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.line("probe", 2, {"zebra": np.float32(0.5), "loss": math.inf})
        writer.line("probe", 3, {"zebra": 1})
        for kind in ("train", "eval", "throughput", ""):
            with pytest.raises(UserError, match=f"the kind '{kind}' is the run's own"):
                writer.line(kind, 3, {"loss": 1.0})
        for name in ("kind", "step", "name"):
            with pytest.raises(UserError, match=f"kind 'probe': '{name}' is no name of a value"):
                writer.line("probe", 3, {name: 1.0})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[0] == (
        '{"kind": "probe", "step": 2, "loss": "Infinity", "zebra": 0.5}'
    )
    with writer_of(tmp_path) as writer:
        writer.truncate(2)
    assert read_metrics(tmp_path) == [{"kind": "probe", "step": 2, "loss": math.inf, "zebra": 0.5}]


def test_a_name_may_be_a_word_for_a_number(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.evaluation(1, {"loss": math.inf}, name="NaN")
        writer.statistics(1, {"part": "NaN", "layer": None, "role": "Infinity", "ratio": math.inf})
        writer.line("-Infinity", 1, {"loss": 1.0})
    assert read_metrics(tmp_path) == [
        {"kind": "eval", "step": 1, "name": "NaN", "loss": math.inf},
        {"kind": "-Infinity", "step": 1, "loss": 1.0},
    ]
    (line,) = read_statistics(tmp_path)
    assert line == {"step": 1, "part": "NaN", "layer": None, "role": "Infinity", "ratio": math.inf}


@pytest.mark.parametrize("checkpoint", [0, 3, 4, 7])
@pytest.mark.parametrize("torn", [b"", b'{"kind": "tr', b"=== step 99 =", b'{"kind": "train", "step": 9}'])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, checkpoint, torn):
    with writer_of(tmp_path / "whole") as writer:
        write_steps(writer, 1, 10)
    with writer_of(tmp_path / "killed") as writer:
        write_steps(writer, 1, 7)
    for name in FILES:
        with open(tmp_path / "killed" / name, "ab") as file:
            file.write(torn)
    with writer_of(tmp_path / "killed") as writer:
        writer.truncate(checkpoint)
        write_steps(writer, checkpoint + 1, 10)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_starting_over_sets_everything_aside_even_step_0(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.evaluation(0, {"loss": 8.0})
        writer.sample(0, "noise")
        write_steps(writer, 1, 3)
        writer.flush()
        before = {name: (tmp_path / name).read_bytes() for name in FILES}
        assert writer.rename_old_files()
        assert {name: (tmp_path / f"{name}.old").read_bytes() for name in FILES} == before
        assert read_metrics(tmp_path) == read_throughput(tmp_path) == read_samples(tmp_path) == []
        writer.evaluation(0, {"loss": 8.0})
    assert len(read_metrics(tmp_path)) == 1
    with writer_of(tmp_path / "new") as writer:
        assert not writer.rename_old_files()


def test_rewinding_to_the_last_step_leaves_the_files_alone(tmp_path):
    with writer_of(tmp_path) as writer:
        write_steps(writer, 1, 4)
        before = {name: (tmp_path / name).stat().st_ino for name in FILES}
        writer.truncate(4)
    assert {name: (tmp_path / name).stat().st_ino for name in FILES} == before


def test_a_killed_process_leaves_whole_lines(tmp_path):
    code = (
        "import sys, train.run.metrics as m\n"
        "w = m.MetricsWriter(sys.argv[1], tensorboard=False)\n"
        "for step in range(10**9): w.train(step, {'loss': step / 7, 'tokens': step})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    path, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 20_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert all(line["loss"] == line["step"] / 7 for line in lines)
    assert len(lines) > 100


def test_reading_a_damaged_file_names_the_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"kind": "train", "step": 1}\n{"kind": "tr\n{"kind": "train", "step": 3}\n'
    )
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*got b'\{\"kind\": \"tr'"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="line 2"):
        writer_of(tmp_path).truncate(1)
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


def test_reading_while_a_line_is_being_written(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"kind": "train", "step": 1}\n{"kind": "tr')
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1}]


def test_samples_read_back_whatever_they_hold(tmp_path):
    texts = [
        "def f():\n\treturn 1",
        "a\n=== step 7 ===\nb",
        "\r\x00\x1b[31m \u00e9\u6f22 \x85\u2028 end",
        "lone \ud800",
    ]
    with writer_of(tmp_path) as writer:
        for step, text in enumerate(texts):
            writer.sample(step, text)
    read = read_samples(tmp_path)
    assert [step for step, _ in read] == [0, 1, 2, 3]
    assert read[0][1] == texts[0]
    assert read[1][1] == "a\n === step 7 ===\nb"
    assert read[2][1] == texts[2]
    assert read[3][1] == "lone \\ud800"


def test_throughput_carries_the_session(tmp_path):
    with writer_of(tmp_path, session=3) as writer:
        writer.throughput(5, {"tokens_per_second": np.float64(10.5), "mfu": None})
    assert read_throughput(tmp_path) == [{"step": 5, "tokens_per_second": 10.5, "mfu": None, "session": 3}]


def test_status_is_replaced_whole(tmp_path):
    assert read_status(tmp_path) is None
    with writer_of(tmp_path) as writer:
        writer.status("running", 0, total_steps=10)
        writer.status("failed", 4, total_steps=10, reason="no space")
    assert read_status(tmp_path) == {"state": "failed", "step": 4, "total_steps": 10, "reason": "no space"}
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": true}',
        b'{"step": 3.5}',
        b'{"step": 9223372036854775808}',
        b'{"kind": 5, "step": 3}',
        b'{"step": 3, "loss": "low"}',
        b'{"step": 3, "loss": [1]}',
        b'{"step": 3, "tokens": 1' + b"0" * 400 + b"}",
        b'{"step": 3, "loss": ' + b"[" * 100_000,
        b"9" * 5000,
        b"\xff",
        b"null",
    ],
)
def test_a_line_that_is_no_line_of_numbers_is_named(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"kind": "train", "step": 1, "loss": "NaN", "mfu": null}\n' + line + b"\n"
    )
    with pytest.raises(UserError, match="metrics.jsonl, line 2: expected a JSON object with a whole number 'step' and"):
        read_metrics(tmp_path)


def test_a_status_without_a_bottom_is_none(tmp_path):
    (tmp_path / "status.json").write_text("[" * 100_000)
    assert read_status(tmp_path) is None


def test_a_file_that_cannot_be_read_is_not_an_empty_one(tmp_path):
    for name, read in (
        ("status.json", read_status),
        ("metrics.jsonl", read_metrics),
        ("samples.txt", read_samples),
        ("metrics.jsonl", lambda folder: MetricsWriter(folder).truncate(3)),
    ):
        path = tmp_path / name
        path.unlink(missing_ok=True)
        path.symlink_to(path)  # a loop, which nobody can open, root neither
        with pytest.raises(UserError, match=rf"cannot read .*{name}: Too many levels .*; nothing was changed"):
            read(tmp_path)
