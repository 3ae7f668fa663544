"""The planner against published speeds: a few rows of the file that tests/benchmarks/plan_accuracy.py reads."""

import csv
import json
import math
import pathlib
import subprocess
import sys

import pytest

from model.errors import UserError
from tests.benchmarks import plan_fit, published_jobs
from train.parallel.planner.efficiency import FITTED
from train.parallel.planner.job import Ways
from train.parallel.planner.step_time import step_time

ROOT = pathlib.Path(__file__).resolve().parents[4]
FIXTURE = ROOT / "tests" / "fixtures" / "published_speeds" / "pod_speeds.csv"
SHAPES = json.loads(FIXTURE.with_name("model_shapes.json").read_text())
with FIXTURE.open(newline="") as file:
    GIVEN = {row["name"]: row for row in csv.DictReader(file)}
MIXTRAL, KEMPNER = GIVEN["v6e-mixtral-8x7b-256-b2048"], GIVEN["h200-kempnerforge-13b-fsdp8-8"]


def test_published_steps_are_predicted_within_a_fifth():
    rows, left_out = published_jobs.read_rows(FIXTURE)
    assert ({row.name for row in rows}, left_out) == (set(GIVEN), [])
    for row in rows:
        assert step_time(row.job).total == pytest.approx(row.seconds, rel=0.2), row.name


def test_a_row_becomes_a_job():
    job = published_jobs.row_of(MIXTRAL, SHAPES).job
    assert (str(job.cluster), job.ways, job.batch, job.kept) == ("v6e:16x16", Ways(fsdp=256), 2048, frozenset())
    assert {p.slots for p in job.work.layers[0].products if p.routed} == {2.5}  # top 2 with capacity 1.25
    assert published_jobs.row_of(KEMPNER, SHAPES).job.microbatches == 4
    pipeline = published_jobs.row_of(GIVEN["h100-dgxc-nemo-gpt3-175b-bf16-128"], SHAPES).job
    assert pipeline.ways == Ways(data=4, tensor=4, stage=8)
    assert (pipeline.virtual_stages, pipeline.microbatches) == (6, 64)
    devices = published_jobs.row_of(GIVEN["v7x-deepseek3-bf16-256"], SHAPES).job
    assert devices.ways == Ways(fsdp=256)  # 512 devices on 256 chips
    slices = published_jobs.row_of(GIVEN["v5p-maxtext-256b-2xv5p-1024"], SHAPES).job
    assert (slices.cluster.slices, slices.ways) == (2, Ways(data=2, fsdp=64, tensor=8))


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"notes": "no flash attention"}, "attention", "arrays"),
        ({"source": "pytorch/torchtitan x"}, "attention", "older tiles"),
        ({"notes": "bf16 weights"}, "parameter_bytes", 2),
        ({"remat": "custom: offload query_proj; recompute key_proj"}, "kept", frozenset({"query"})),
        ({"remat": "custom: save decoder_layer_input,context,mlpwi_0"}, "kept", frozenset({"attention", "ffn_gate"})),
        (
            {"remat": "save q,k,v,out projections (policy save_dot_except_mlp)"},
            "kept",
            {"query", "key", "value", "mixer_output"},
        ),
        ({"remat": "minimal (offloaded)"}, "kept", frozenset(published_jobs.KEPT) - {"attention"}),
        ({"remat": "save q,k,v,context,o projections"}, "kept", published_jobs.QKV | {"attention", "mixer_output"}),
        ({"precision": "int8"}, "number_format", "int8"),
        ({"parallelism": "fsdp=64,expert=4"}, "ways", Ways(fsdp=64, expert=4)),
        ({"slices": "2", "chips": "512", "parallelism": "fsdp=256,dcn_fsdp=2"}, "across_slices", "fsdp"),
    ],
)
def test_columns_and_notes_are_read(changes, field, value):
    assert getattr(published_jobs.row_of(MIXTRAL | changes, SHAPES).job, field) == value


def test_expert_groups_of_gpus_lie_inside_the_data_ranks():
    row = MIXTRAL | {"chip": "h100", "topology": "nodes=32x8", "parallelism": "data=64,tensor=4,expert=8"}
    assert published_jobs.row_of(row, SHAPES).job.ways == Ways(data=8, tensor=4, expert=8)


def test_power_and_memory_of_the_notes_change_the_chip():
    row = KEMPNER | {"chip": "h100", "notes": "H100 96 GB HBM2e 2.4 TB/s at 500 W"}
    chip = published_jobs.row_of(row, SHAPES).job.cluster.chip
    assert chip.hbm_rate == 2.4e12
    assert chip.rate("bf16") == pytest.approx(989.5e12 * math.sqrt(5 / 7))


def test_a_step_without_seconds_is_derived():
    seconds = published_jobs.row_of(MIXTRAL, SHAPES).seconds
    by_speed = published_jobs.row_of(MIXTRAL | {"step_seconds": ""}, SHAPES).seconds
    assert by_speed == pytest.approx(seconds, rel=1e-3)
    by_mfu = MIXTRAL | {"step_seconds": "", "tokens_per_s_per_chip": "", "mfu_percent": "35.2"}
    assert published_jobs.row_of(by_mfu, SHAPES).seconds == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "gpt-5"}, "model_shapes.json has no model 'gpt-5'"),
        ({"precision": "fp4"}, "precision 'fp4' is not known; known: bf16, fp8, int8"),
        ({"chips": ""}, "cannot be read .ValueError: invalid literal"),
        ({"chip": "v3"}, "'v3' is no known chip"),
        ({"parallelism": "fsdp=16"}, "the mesh fsdp=16 does not multiply to 256 chips"),
        ({"step_seconds": "", "tokens_per_s_per_chip": "", "mfu_percent": ""}, "neither the time of a step nor"),
    ],
)
def test_rows_that_cannot_be_predicted_say_why(changes, words):
    with pytest.raises(UserError, match=words):
        published_jobs.row_of(MIXTRAL | changes, SHAPES)


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="cannot be read .KeyError: 'remat'"):
        published_jobs.row_of({name: value for name, value in MIXTRAL.items() if name != "remat"}, SHAPES)


def test_shapes_become_models():
    deepseek = published_jobs.row_of(GIVEN["v7x-deepseek3-bf16-256"], SHAPES).job.work
    assert deepseek.parameters == 671_026_419_200 - 58 * 256  # without the load biases
    llama = published_jobs.row_of(GIVEN["v6e-llama3.1-70b-256"], SHAPES).job.work
    assert llama.parameters == 70_553_706_496
    gemma = {"layers": 12, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocab": 512}
    gemma |= {"experts": None, "tied": True, "gated": True, "sliding_window": 8}
    gemma |= {"attention_pattern": "5 sliding, 1 global", "global_head_dim": 32}
    layers = published_jobs.config_of(gemma, 128).layers
    assert [layer.mixer.pattern.reach() for layer in layers] == [8, 8, 8, 8, 8, None] * 2
    assert layers[5].mixer.head_dim == 32


def test_a_fit_finds_the_constants_that_made_the_speeds():
    """With other constants for dense products, from step times that these predict."""
    rows, _ = published_jobs.read_rows(FIXTURE)
    items = plan_fit.items_of(rows)
    values = plan_fit.flatten(FITTED)
    assert plan_fit.unflatten(values) == FITTED
    other = plan_fit.unflatten(values | {"matmul.v5e": 0.6, "matmul.v5p": 0.6})
    made = [
        (plan_fit.dataclasses.replace(row, seconds=plan_fit.predicted((row, loads), other)), loads)
        for row, loads in items
    ]
    found = plan_fit.fit(made)
    assert found.matmul["v5e"] < 0.68
    assert found.matmul["v5p"] < 0.68
    assert abs(plan_fit.log_errors(made, found)).max() < 0.1


@pytest.mark.sweep
def test_the_command_prints_rows_and_correlations(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.plan_accuracy"]
    done = subprocess.run([*command, str(FIXTURE)], cwd=ROOT, capture_output=True, text=True, check=True)
    for words in (
        *GIVEN,
        "all                                   8 rows  median",
        "rank: step time",
        "mixtures of experts",
    ):
        assert words in done.stdout
    missing = subprocess.run([*command, str(tmp_path / "speeds.csv")], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 2
    assert f"{tmp_path}/speeds.csv is not there; give the path of pod_speeds.csv" in missing.stderr
