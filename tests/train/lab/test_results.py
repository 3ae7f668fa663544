import json
import math
import shutil

import pytest

from model.cost import count_parameters, training_flops_per_token
from model.errors import UserError
from tests.train.lab.sweeps import SETTINGS, STEPS, final, write_run, write_sweep
from train.config_file import with_overrides
from train.lab.folder import is_sweep
from train.lab.results import read_results

FEW = {name: SETTINGS[name] for name in ("base", "wide")}


@pytest.fixture(scope="module")
def base(tiny_experiment):
    return tiny_experiment(training__num_steps=STEPS)


@pytest.fixture
def sweep(tmp_path, base):
    write_sweep(tmp_path / "sweep", base, FEW)
    return tmp_path / "sweep"


def edit(folder, **changes):
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def states(results):
    return {f"{run.variant}{run.seed}": run.state for run in results.runs() if run.state != "finished"}


def test_a_finished_sweep(sweep):
    results = read_results(sweep)
    assert states(results) == {}
    assert results.notes == []
    assert (results.name, results.base, results.seeds, results.metric, results.alpha) == (
        "demo",
        "base",
        (0, 1, 2),
        "loss",
        0.05,
    )
    expected = {name: {seed: final(name, seed) for seed in (0, 1, 2)} for name in FEW}
    assert results.final() == expected
    assert results.final("wiki/loss") == {n: {s: v + 1.0 for s, v in g.items()} for n, g in expected.items()}
    run = results.variants["wide"].runs[1]
    assert (run.step, run.total_steps, run.tokens_per_second, run.peak_bytes) == (STEPS, STEPS, 1000.0, 300_000_200)
    assert run.seconds == pytest.approx(STEPS * 0.064)
    assert len(run.curve.steps) == 10


def test_sizes_are_those_of_the_models(sweep, base):
    results = read_results(sweep)
    for name, settings in FEW.items():
        model = with_overrides(base, settings).model
        sizes = results.variants[name].sizes
        assert sizes.parameters == count_parameters(model).total
        assert sizes.flops_per_token == training_flops_per_token(model, base.data.sequence_length)
        assert sizes.tokens_before(3) == 3 * base.data.batch_size * base.data.sequence_length
    assert results.variants["wide"].config["model"]["ffn"]["width"] == 96


def test_the_last_evaluation_counts_and_not_the_best(sweep, base):
    write_run(sweep, base, "wide", 0, FEW["wide"], end=9.0)
    assert read_results(sweep).final()["wide"][0] == 9.0


def test_runs_that_are_not_at_their_end_have_no_value(sweep, base):
    wide = FEW["wide"]
    shutil.rmtree(sweep / "wide-seed0")
    write_run(sweep, base, "wide", 1, wide, stop=100, state="failed")
    write_run(sweep, base, "wide", 2, wide, stop=120)
    write_run(sweep, base, "base", 1, stop=100, state="interrupted")
    results = read_results(sweep)
    assert states(results) == {"base1": "interrupted", "wide0": "missing", "wide1": "failed", "wide2": "ended early"}
    assert results.variants["wide"].final("loss") == {}
    runs = results.variants["wide"].runs
    assert "the disk is full" in runs[1].detail
    assert runs[2].detail == "at step 120 of 200"


def test_a_diverged_run_keeps_its_value(sweep, base):
    write_run(sweep, base, "wide", 1, FEW["wide"], end=math.nan)
    results = read_results(sweep)
    assert states(results) == {"wide1": "diverged"}
    assert math.isnan(results.final()["wide"][1])


def test_a_metric_that_was_not_measured(sweep):
    edit(sweep, metric="books/loss")
    results = read_results(sweep)
    assert set(states(results).values()) == {"not evaluated"}
    assert results.variants["base"].runs[0].detail == "no books/loss at its last step, 200"


def test_a_run_of_another_config_is_left_out(sweep, base):
    write_run(sweep, base, "wide", 1, ["model.ffn.width=32"])
    results = read_results(sweep)
    assert states(results) == {"wide1": "another run"}
    assert "model.ffn.width: 32 -> 96" in results.variants["wide"].runs[1].detail
    (sweep / "base-seed2/config.json").write_bytes((sweep / "base-seed1/config.json").read_bytes())
    assert states(read_results(sweep)) == {"wide1": "another run", "base2": "another run"}


def test_without_the_base_the_configs_of_runs_are_read(sweep, base):
    edit(sweep, experiment={"type": "Experiment", "gone": 1})
    results = read_results(sweep)
    assert any("no longer fits the code" in note for note in results.notes)
    assert results.variants["wide"].sizes.parameters == count_parameters(with_overrides(base, FEW["wide"]).model).total


def test_other_vocabularies_have_other_losses(tmp_path, base):
    settings = {"base": [], "wide": ["model.vocab_size=300"]}
    write_sweep(tmp_path / "sweep", base, settings, seeds=(0,))
    assert "compare metric='bits_per_byte'" in read_results(tmp_path / "sweep").notes[0]
    edit(tmp_path / "sweep", metric="bits_per_byte")
    assert read_results(tmp_path / "sweep").notes == []


def test_the_better_side_of_a_metric(sweep):
    assert read_results(sweep).lower_is_better
    edit(sweep, metric="wiki/top1_accuracy")
    assert not read_results(sweep).lower_is_better


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"base": "gone"}, "the base 'gone' is none of the variants"), ({"seeds": ["x"]}, "seeds")],
)
def test_a_damaged_description_is_refused(sweep, changes, message):
    edit(sweep, **changes)
    with pytest.raises(UserError, match=message):
        read_results(sweep)


def test_other_folders_are_refused(sweep):
    assert is_sweep(sweep)
    assert not is_sweep(sweep / "base-seed0")
    with pytest.raises(UserError, match="holds no sweep.json"):
        read_results(sweep / "base-seed0")
