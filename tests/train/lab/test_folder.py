"""The folder of a sweep: what is refused, the states of runs, the texts that they share."""

import dataclasses
import json
import shutil

import pytest

from model.errors import UserError
from model.feedforward.mlp import MLP
from tests.train.lab.ablation_files import pretend
from train.data import prepare
from train.lab import folder as folders
from train.lab.ablation import Ablation, RateSearch
from train.lab.folder import (
    check_branches,
    check_same,
    describe,
    earlier_seeds,
    is_done,
    progress_of,
    read,
    runs_of,
    share_texts,
)
from train.lab.variants import resolve


@pytest.fixture
def ablation(tiny_experiment):
    """A small one, with fields changed."""

    def make(**fields):
        given = {"base": tiny_experiment(), "variants": {"wide": "model.ffn.width=96"}, "seeds": (0, 1)}
        return Ablation(**(given | fields))

    return make


def content(ablation):
    return json.loads(json.dumps(describe("configs/a.py", "a", ablation, resolve(ablation), None)))


def test_the_runs_of_a_sweep(ablation, tmp_path):
    runs = runs_of(tmp_path, ablation(), resolve(ablation()))
    assert [run.label for run in runs] == ["base-seed0", "wide-seed0", "base-seed1", "wide-seed1"]
    assert runs[3].settings == ("model.ffn.width=96", "training.seed=1", "data.seed=1")
    assert (runs[3].experiment.model.ffn.width, runs[3].experiment.data.seed) == (96, 1)


def test_sweep_json_has_what_the_report_reads(ablation):
    found = content(ablation(hold="params"))
    assert found["format"] == 1
    assert (found["name"], found["base"], found["seeds"], found["hold"]) == ("a", "base", [0, 1], "params")
    assert found["variants"]["wide"]["settings"] == ["model.ffn.width=96"]
    assert {"settings", "held", "note"} <= found["variants"]["base"].keys()
    assert (found["metric"], found["claim"], found["alpha"], found["search"]) == ("loss", None, 0.05, None)


def test_a_sweep_may_grow(ablation, tmp_path):
    before = ablation()
    more = ablation(variants=before.variants | {"deep": "model.num_layers=3"}, seeds=(0, 1, 2))
    check_same(tmp_path, content(before), content(more), more.base)
    often = ablation(base=dataclasses.replace(before.base, logging=dataclasses.replace(before.base.logging, every=5)))
    check_same(tmp_path, content(before), content(often), often.base)


def test_seeds_that_come_after_results_are_written_down(ablation, tmp_path):
    before, more = content(ablation()), ablation(seeds=(0, 1, 2))
    runs = runs_of(tmp_path, more, resolve(more))
    assert earlier_seeds(None, runs) == earlier_seeds(before, runs) == []  # no run had ended
    pretend(runs[0], 3.0)
    assert earlier_seeds(before, runs) == [[0, 1]]
    assert earlier_seeds(before | {"seeds": [2, 1, 0]}, runs) == []
    now = json.loads(json.dumps(describe("configs/a.py", "a", more, resolve(more), None, [[0, 1]])))
    most = ablation(seeds=(0, 1, 2, 3))
    assert earlier_seeds(now, runs_of(tmp_path, most, resolve(most))) == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("run", "step", "words"),
    [
        ("base-seed{seed}", 20, None),  # the last step
        ("base-seed{seed}", 8, None),  # kept for its number
        ("base-seed{seed}", 18, None),  # the last but one
        ("base-seed{seed}", 16, None),
        ("base-seed{seed}", 14, "variant cool: training.branch_from: base-seed0 keeps no checkpoint of step 14; give"),
        ("base-seed{seed}", 7, "every=7, keep_every=7"),
        ("bas-seed{seed}", 20, "bas-seed0 is no other run of this sweep; did you mean 'base-seed0'?"),
        ("cool-seed{seed}", 20, "cool-seed0 is no other run of this sweep"),
    ],
)
def test_a_branch_needs_a_trunk_that_keeps_its_step(run, step, words, ablation, tiny_experiment, tmp_path):
    branch = f"training.branch_from=Branch(run='{tmp_path / run}', step={step})"
    base = tiny_experiment(checkpoints__every=2, checkpoints__keep_every=8, checkpoints__keep_last=3)
    option = ablation(base=base, variants={"cool": ("training.num_steps=40", branch)})
    runs = runs_of(tmp_path, option, resolve(option))
    if words is None:
        check_branches(tmp_path, runs)
        check_branches(tmp_path / "elsewhere", runs)
        return
    with pytest.raises(UserError) as caught:
        check_branches(tmp_path, runs)
    assert words in str(caught.value)
    check_branches(tmp_path / "elsewhere", runs)  # a run of no sweep is checked when it is read


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"variants": {"wide": "model.ffn.width=128"}},
            "variant wide: ['model.ffn.width=96'] -> ['model.ffn.width=128']",
        ),
        ({"variants": {"deep": "model.num_layers=3"}}, "variant wide: ['model.ffn.width=96'] -> not there"),
        ({"seeds": (1, 2)}, "seeds: [0] -> not there"),
        ({"metric": "bits_per_byte"}, "metric: 'loss' -> 'bits_per_byte'"),
        ({"base_name": "tiny"}, "base: 'base' -> 'tiny'"),
        ({"claim": "loss <= 3, p < 0.05"}, "claim: None -> 'loss <= 3, p < 0.05'"),
    ],
)
def test_a_folder_of_another_sweep(fields, words, ablation, tmp_path):
    with pytest.raises(UserError, match="holds another sweep") as caught:
        check_same(tmp_path, content(ablation()), content(ablation(**fields)), ablation().base)
    assert words in str(caught.value)


def test_another_base_is_another_sweep(ablation, tiny_experiment, tmp_path):
    other = ablation(base=tiny_experiment(training__num_steps=30))
    with pytest.raises(UserError, match="training.num_steps: 20 -> 30"):
        check_same(tmp_path, content(ablation()), content(other), other.base)


def test_a_sweep_of_an_earlier_version_goes_on(ablation, tmp_path):
    """Its fields had other names, and fields that have come since mean what they meant without them."""
    now = ablation(search=RateSearch(), variants={"wide": {"model.ffn": MLP(width=96)}})
    before = content(now)
    stored = before["experiment"]
    stored["optimizer"]["decayed"] = stored["optimizer"].pop("decay_also")
    del stored["training"]["branch_from"], stored["spikes"], before["search_rule"]["keep"], before["claim"]
    before["variants"]["wide"]["settings"] = ["model.ffn=MLP(width=96)"]
    assert before["variants"] != content(now)["variants"]  # the text of a value has all its fields
    check_same(tmp_path, before, content(now), now.base)
    other = json.loads(json.dumps(before))
    other["variants"]["wide"]["settings"] = ["model.ffn=MLP(width=128)"]
    other["experiment"]["training"]["clip_norm"], other["search_rule"]["seed"] = 2.0, 7
    with pytest.raises(UserError) as caught:
        check_same(tmp_path, other, content(now), now.base)
    for words in ("variant wide: ['model.ffn=MLP(width=128)'] -> ", "training.clip_norm: 2.0 -> 1.0", "search_rule: "):
        assert words in str(caught.value)
    stored["model"]["gone"] = 1
    with pytest.raises(UserError, match="sweep.json does not fit this version of the code: model.gone: "):
        check_same(tmp_path, before, content(now), now.base)


def test_settings_that_can_no_longer_be_read_are_left_to_the_runs(ablation, tmp_path):
    option = ablation()
    before = content(option)
    before["variants"]["wide"]["settings"] = ["model.ffn.breadth=96"]
    check_same(tmp_path, before, content(option), option.base)


def test_no_further_seeds_beside_a_claim(ablation, tmp_path):
    before, after = (ablation(claim="loss <= 3, p < 0.05", seeds=seeds) for seeds in ((0, 1), (0, 1, 2)))
    with pytest.raises(UserError, match=r"seeds: \[0, 1\] -> \[0, 1, 2\], while claim='loss <= 3, p < 0.05'"):
        check_same(tmp_path, content(before), content(after), after.base)


def test_folders_that_are_no_sweep(tmp_path, tiny_run):
    assert read(tmp_path) is None
    with pytest.raises(UserError, match="holds a run, and a sweep needs a folder of its own"):
        read(tiny_run)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match="sweep.json is damaged"):
        read(tmp_path)


def test_two_sweeps_in_one_folder(tmp_path):
    with folders.locked(tmp_path / "a"), pytest.raises(UserError, match="a sweep runs in .*a already, in process"):
        with folders.locked(tmp_path / "a"):
            pass


@pytest.fixture
def run(ablation, tmp_path, tiny_run):
    """The first run of a sweep, whose folder is a copy of the finished tiny run."""
    first = runs_of(tmp_path, ablation(), resolve(ablation()))[0]
    shutil.copytree(tiny_run, first.folder)
    return first


def test_a_run_that_is_done(run, tiny_run):
    assert is_done(run)
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if line["kind"] == "eval"][-1]
    assert progress_of(run, "loss") == folders.Progress("finished", 20, 20, loss)
    assert progress_of(run, "other/loss").value is None
    assert not is_done(dataclasses.replace(run, folder=run.folder.with_name("none")))


def test_a_run_that_is_not(run):
    status = run.folder / "status.json"
    status.write_text(json.dumps({"state": "running", "step": 12, "reason": None}))
    assert not is_done(run)
    assert progress_of(run, "loss").state == "interrupted"  # it has no process
    assert progress_of(run, "loss", alive=True).state == "running"
    status.write_text(json.dumps({"state": "failed", "step": 12, "reason": "no room"}))
    assert (progress_of(run, "loss").state, progress_of(run, "loss").reason) == ("failed", "no room")
    longer = dataclasses.replace(run.experiment, training=dataclasses.replace(run.experiment.training, num_steps=30))
    status.write_text(json.dumps({"state": "finished", "step": 20}))
    with pytest.raises(UserError, match="holds a run of another config"):
        is_done(dataclasses.replace(run, experiment=longer))


def test_runs_share_a_text(ablation, tmp_path, tiny_text):
    other = ablation(variants={"wide": "model.ffn.width=96", "tail": "data.validation=Tail(fraction=0.2)"})
    runs = runs_of(tmp_path / "s", other, resolve(other))[:3]
    share_texts(tmp_path / "s", runs)
    made = prepare(runs[0].experiment.data, runs[0].folder / "data")
    assert prepare(runs[1].experiment.data, runs[1].folder / "data").resolve() == made.resolve()
    assert prepare(runs[2].experiment.data, runs[2].folder / "data").resolve() != made.resolve()
    moved = (tmp_path / "s").rename(tmp_path / "t")  # the links are relative
    assert (moved / "wide-seed0" / "data" / "dataset.json").exists() or any((moved / "wide-seed0" / "data").iterdir())
    share_texts(moved, runs_of(moved, other, resolve(other)))  # what is there stays
