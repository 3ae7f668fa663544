"""The loop in this process: what it writes, how it ends, and that however it was interrupted it ends the same."""

import json
import os
import pathlib
import re
import shutil
import signal
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from launch.command.signals import StopRequest
from model.errors import UserError
from model.kernels import selection
from model.parameters.maker import Normal
from model.parameters.names import flatten
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK
from tests.tiers import SWEEP
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.data.config import BestFit, SentencePieceFile, SeparateText
from train.evaluation.validation import SplitEvaluation
from train.loop import train
from train.parallel.mesh import make_mesh
from train.report import summary
from train.report.run import load
from train.run.checks import check_vocabulary
from train.run.metrics import read_metrics, read_samples, read_status, read_throughput
from train.state import StateConfig, abstract_state, state_shardings


def silent(line):
    pass


def parameters(run, step=None):
    """The bytes of every array of the state of a run's checkpoint, by name."""
    experiment = experiments.load(run)
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, make_mesh(experiment.mesh), experiment.sharding)
    with CheckpointStore(run, experiment.checkpoints, silent, read_only=True) as store:
        state = store.restore(step or store.steps()[-1], experiment, shardings, abstract_state(state_config))
    return {name: np.asarray(x).tobytes() for name, x in flatten(jax.device_get(state)).items()}


def assert_ended_the_same(run, other):
    for name in ("metrics.jsonl", "samples.txt"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert (run / "metrics.jsonl").read_bytes()
    assert parameters(run) == parameters(other)


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A copy of the finished run; its data is still the first one's."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def test_metrics_are_complete_and_the_model_learns(tiny_run):
    lines = read_metrics(tiny_run)
    training = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in training] == list(range(1, 21))
    # The last row of the first epoch, in step 16, is 13 places short.
    assert [line["tokens"] for line in training] == [128 * step - 13 * (step >= 16) for step in range(1, 21)]
    assert {line["skipped"] for line in training} == {0}
    assert {line["step"]: line["padding"] for line in training if line["padding"]} == {16: 13 / 128}
    assert training[0]["loss"] == pytest.approx(np.log(257), abs=0.2)
    assert training[-1]["loss"] < 3.5
    assert training[0]["learning_rate"] == pytest.approx(1e-2 / 5)
    assert training[4]["learning_rate"] == pytest.approx(1e-2)
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in evaluations] == [10, 20]
    for line in evaluations:
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))
        assert line["bits_per_byte"] == pytest.approx(line["loss"] / np.log(2), rel=0.1)  # of bytes, and ends of files
    assert evaluations[1]["loss"] < evaluations[0]["loss"]


@SWEEP
@pytest.mark.parametrize("joined", [False, True])
def test_the_training_loss_does_not_depend_on_padding(joined, tiny_experiment, tmp_path):
    """A document with its end, in rows that it fills and in longer ones: positions are scaled by its length."""
    (text := tmp_path / "text.txt").write_text("abcdabc")
    losses = []
    for length in (8, 12):
        experiment = tiny_experiment(
            model__position=Rotary(theta=9.0, scaling=DynamicNTK(factor=4.0, original_length=3)),
            model__initialization=Normal(std=0.5),
            data__path=str(text),
            data__validation=SeparateText(path=str(text)),
            data__packing=BestFit(),
            data__cross_document_attention=joined,
            data__sequence_length=length,
            training__num_steps=1,
            schedule="Constant(peak=1e-3)",
            samples__prompts=(),
        )
        train(experiment, tmp_path / str(length), say=silent)
        (line,) = (line for line in read_metrics(tmp_path / str(length)) if line["kind"] == "train")
        assert line["tokens"] == 8 * experiment.data.batch_size
        losses.append(line["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_folder_explains_itself(tiny_run, tiny_experiment):
    assert experiments.load(tiny_run) == tiny_experiment()
    assert read_status(tiny_run) == {"state": "finished", "step": 20, "total_steps": 20, "reason": None}
    assert [step for step, _ in read_samples(tiny_run)] == [10, 20]
    assert all(text.startswith("the ") for _, text in read_samples(tiny_run))
    timings = read_throughput(tiny_run)
    assert [line["step"] for line in timings] == list(range(1, 21))
    assert all(line["tokens_per_second"] > 0 and 0 <= line["data_wait_fraction"] <= 1 for line in timings)
    rows = json.loads((tiny_run / "parameters.json").read_text())
    assert {row["role"] for row in rows} == {"embedding", "projection", "value", "residual", "scale"}
    assert sum(row["count"] for row in rows) == 257 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 64) + 32
    assert {"environment.json", "report.html", "checkpoints", "data"} <= {path.name for path in tiny_run.iterdir()}
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["10", "20"]


def test_interrupted_and_stopped_it_ends_the_same(tiny_experiment, tiny_run, tmp_path):
    """A signal amid the first evaluation, a hard stop at 13, and on to the end."""
    run = tmp_path / "run"

    def interrupt(line):
        if line.startswith("step 10:"):
            os.kill(os.getpid(), signal.SIGTERM)

    with StopRequest() as stop:
        outcome = train(tiny_experiment(), run, say=interrupt, stop=stop)
    assert (outcome.state, outcome.step) == ("interrupted", 10)
    assert outcome.reason == "SIGTERM; the same command continues from step 10"
    assert read_status(run)["state"] == "interrupted"
    outcome = train(tiny_experiment(), run, hard_stop=13, say=silent)
    assert (outcome.state, outcome.step, outcome.reason) == ("stopped", 13, "--hard_stop=13")
    assert [line["step"] for line in read_metrics(run)][-1] == 13
    assert re.search(r"tokens trained on +1.66k", summary(run))  # 13 steps of 128
    outcome = train(tiny_experiment(), run, hard_stop=99, say=silent)  # never beyond the schedule
    assert (outcome.state, outcome.step) == ("finished", 20)
    assert_ended_the_same(run, tiny_run)
    assert {line["session"] for line in read_throughput(run)} == {1, 2, 3}


def test_a_finished_run_stays_as_it_is(tiny_experiment, tiny_run, copied):
    def contents():
        return {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != ".lock"}

    said, before = [], contents()
    outcome = train(tiny_experiment(mesh="Mesh(fsdp=2)"), copied, say=said.append)
    assert (outcome.state, outcome.step) == ("finished", 20)
    assert said == [
        f"{copied} is finished: nothing is left to train, and nothing in it was changed; --run names another run"
    ]
    assert contents() == before
    with pytest.raises(UserError, match="training.seed: 0 -> 1"):
        train(tiny_experiment(training__seed=1), copied, say=silent)


def test_a_damaged_latest_checkpoint_costs_its_steps_and_nothing_else(tiny_experiment, tiny_run, copied):
    for path in (copied / "checkpoints" / "20" / "params").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:5_000])
    # Lines that a killed session wrote after the checkpoint it goes back to, the last of them torn.
    with open(copied / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 21, "loss": 9.0}\n{"kind": "tra')
    said = []
    assert train(tiny_experiment(), copied, say=said.append).state == "finished"
    assert any("checkpoint 20" in line and "is damaged" in line for line in said)
    assert f"resuming {copied} at step 10 of 20" in said
    assert_ended_the_same(copied, tiny_run)


def test_a_full_disk_at_the_last_save_is_no_good_end(tiny_experiment, tiny_run, copied, monkeypatch, capsys):
    shutil.rmtree(copied / "checkpoints" / "20")
    before = parameters(copied, 10)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(
            UserError,
            match=r"the checkpoint of step 20.* could not be written .*: No space left on device; .* continues from step 10",
        ):
            train(tiny_experiment(), copied, say=silent)
    assert "WARNING: checkpoint 20 could not be written: No space left" in capsys.readouterr().err
    assert read_status(copied)["state"] == "failed"
    assert parameters(copied, 10) == before
    assert train(tiny_experiment(), copied, say=silent).state == "finished"
    assert_ended_the_same(copied, tiny_run)


def test_it_goes_on_on_another_mesh(tiny_experiment, tiny_run, copied):
    """Begun with rows split eight ways, continued with parameters and heads split too: the numbers of one mesh."""
    shutil.rmtree(copied / "checkpoints" / "20")
    experiment = tiny_experiment(
        mesh="Mesh(data=2, fsdp=2, tensor=2)", sharding__parameters__vocab=(), samples__prompts=()
    )
    outcome = train(experiment, copied, say=silent)
    assert (outcome.state, outcome.step) == ("finished", 20)
    for line, expected in zip(read_metrics(copied), read_metrics(tiny_run), strict=True):
        assert line.pop("kind") == expected.pop("kind")
        assert line == pytest.approx(expected, rel=1e-4)
    ended = parameters(copied)
    for name, value in parameters(tiny_run).items():
        if name.startswith("params."):
            one, other = (np.frombuffer(x, np.float32) for x in (ended[name], value))
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=name)


def test_steps_between_two_lines_of_the_log_are_timed_and_counted(
    own_steps, tiny_experiment, tmp_path, monkeypatch, capsys
):
    """And kernels are recorded while the first step is compiled, and in no step after it."""
    opened, record = [], selection.recorded_choices
    monkeypatch.setattr(selection, "recorded_choices", lambda: opened.append(1) or record())
    experiment = tiny_experiment(logging__every=10, samples__prompts=())
    train(experiment, tmp_path, hard_stop=13, say=silent)
    assert (len(opened), capsys.readouterr().err.count("kernel for attention: blocks")) == (1, 1)
    assert [line["step"] for line in read_metrics(tmp_path) if line["kind"] == "train"] == [10]
    assert [line["step"] for line in read_throughput(tmp_path)] == [1, 10, 13]  # the first is that of the compilation
    assert re.search(r"tokens trained on +1.66k", summary(tmp_path))
    train(experiment, tmp_path, say=silent)
    assert [line["step"] for line in read_throughput(tmp_path)] == [1, 10, 13, 14, 20]
    assert load(tmp_path).restarts().steps.tolist() == [13]


def test_options_that_make_little_sense_in_training_are_warned_of(tiny_experiment, tmp_path):
    said, experts = [], "Experts(num_experts=2, top_k=1, expert=Gated(width=8))"
    train(tiny_experiment(model__ffn=experts, samples__prompts=()), tmp_path, hard_stop=1, say=said.append)
    (line,) = [line for line in said if line.startswith("WARNING")]
    assert line.startswith("WARNING: model.ffn.router.renormalize: with top_k=1 each weight is 1")


def test_a_run_needs_text_that_is_held_out(tiny_experiment, tmp_path):
    with pytest.raises(UserError, match=r"data.validation: .*held out, got None; .*Tail\(fraction=0.1\)"):
        train(tiny_experiment(data__validation=None), tmp_path / "run", say=silent)
    missing = tiny_experiment(data__validation=None, data__path=str(tmp_path / "no such"), data__tokenizer=None)
    with pytest.raises(UserError, match="no such text: .*no such"):
        train(missing, tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_with_rows_to_spare(tiny_experiment):
    """What to say hangs on whether the model is given, and whether its tokenizer can be made to fit."""
    tokenizer = types.SimpleNamespace(option=SentencePieceFile(path="x"), vocab_size=60)
    for init_from, size, message in (
        (None, 257, r"use --set model.vocab_size=60, or --set data.tokenizer.vocab_size=257, where .*, or a dataset"),
        ("run", 257, r"use --set data.tokenizer.vocab_size=257, where the model has rows that no token uses, or a"),
        ("run", 50, r"use a dataset that was made for this model$"),
    ):
        experiment = tiny_experiment(training__init_from=init_from, model__vocab_size=size)
        with pytest.raises(UserError, match=message):
            check_vocabulary(experiment, tokenizer, pathlib.Path("data"))


def test_processes_that_only_jax_knows_are_refused(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="jax runs in 2 processes, which Cairn has not joined; start them with launch"):
        train(tiny_experiment(), tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()


def test_the_best_checkpoint_is_kept(tiny_experiment, tmp_path, monkeypatch):
    """The loss is lowest at step 4, where no checkpoint was due, and it stays when later ones come."""
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5, 10: 1.5}
    monkeypatch.setattr(
        SplitEvaluation,
        "__call__",
        lambda self, state: {"loss": losses[int(state.step)], "perplexity": 1.0, "bits_per_byte": 1.0},
    )
    experiment = tiny_experiment(
        training__num_steps=10, evaluation__every=2, checkpoints__every=5, checkpoints__keep_last=1, samples__prompts=()
    )
    train(experiment, tmp_path, say=silent)
    with CheckpointStore(tmp_path, experiment.checkpoints, silent, read_only=True) as store:
        assert (store.steps(), store.best_step()) == ([4, 10], 4)


def test_too_many_skipped_steps_stop_the_run(tiny_experiment, tmp_path):
    experiment = tiny_experiment(
        optimizer="SGD()",
        schedule="Constant(peak=1e30)",
        training__clip_norm="None",
        training__guard__max_consecutive=3,
        training__num_steps=40,
    )
    with pytest.raises(UserError, match=r"steps \d+ to \d+ were all skipped: .* not finite.*Lower schedule\.peak"):
        train(experiment, tmp_path, say=silent)
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert lines[-1]["skipped"] == 2  # the third in a row is the error
    assert not np.isfinite(lines[-1]["loss"]) or not np.isfinite(lines[-1]["grad_norm"])
    assert read_status(tmp_path)["state"] == "failed"
    assert "were all skipped" in read_status(tmp_path)["reason"]
