"""A sweep from its file: what it resolves to, its search of rates, its results; and the ablations that are shipped."""

import json
import pathlib

import pytest

from model.cost import count_parameters
from model.errors import UserError
from tests.train.lab.ablation_files import pretend, write_ablation
from train.lab.sweep import Sweep, failures, require_searched

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHIPPED = sorted(path.name for path in (ROOT / "configs" / "ablations").glob("[a-z]*.py"))
VARIANTS = "variants={'wide': 'model.ffn.width=96', 'lion': 'optimizer=Lion()'}, seeds=(0, 1), "


@pytest.fixture
def opened(tiny_experiment, tmp_path):
    """A function that resolves the sweep of a file with these fields, in a folder that stays."""

    def make(fields=VARIANTS, measure=None, common=()):
        path = write_ablation(tmp_path / "mine.py", tiny_experiment(), fields)
        return Sweep.from_file(str(path), tmp_path / "runs", common, measure)

    return make


def test_a_sweep_is_resolved_and_comes_back(opened):
    hold = VARIANTS.replace("model.ffn.width=96", "model.num_layers=3") + "hold=Hold(equal='params', by='ffn')"
    sweep = opened(hold)
    assert [run.label for run in sweep.runs()][:3] == ["base-seed0", "wide-seed0", "lion-seed0"]
    assert sweep.variants["wide"].held
    (line, nothing) = sweep.notes()
    assert line.startswith(f"wide: {', '.join(sweep.variants['wide'].held)}: ")
    assert nothing.startswith("lion: ")
    sweep.folder.mkdir()
    sweep.save()
    assert opened(hold).content() == sweep.content()
    with pytest.raises(UserError, match="holds another sweep"):
        opened(VARIANTS)
    with pytest.raises(UserError, match="training.num_steps: 20 -> 30"):
        opened(hold, common=("training.num_steps=30",))


def test_a_measured_time_is_measured_once(opened):
    measured = []

    def measure(variants):
        measured.extend(variant.name for variant in variants)
        return {"base": 1.0, "wide": 2.0, "lion": 0.5}

    sweep = opened(VARIANTS + "hold='time'", measure)
    assert measured == ["base", "wide", "lion"]
    steps = {name: one.experiment.training.num_steps for name, one in sweep.variants.items()}
    assert steps == {"base": 20, "wide": 10, "lion": 40}
    sweep.folder.mkdir()
    sweep.save()
    again = opened(VARIANTS + "hold='time'", measure)
    assert len(measured) == 3
    assert again.content() == sweep.content()
    seconds = {"base": 3.0, "deep": 6.0}  # beside other work: what was found for the others stays
    more = VARIANTS.replace("}", ", 'deep': 'model.num_layers=3'}") + "hold='time'"
    grown = opened(more, lambda variants: {variant.name: seconds[variant.name] for variant in variants})
    steps = {name: one.experiment.training.num_steps for name, one in grown.variants.items()}
    assert list(steps.items()) == [("base", 20), ("wide", 10), ("lion", 40), ("deep", 10)]


def test_what_an_earlier_start_held_equal_stays(opened, monkeypatch):
    """Also where a later version counts parameters otherwise: the runs have the sizes that they began with."""
    hold = VARIANTS.replace("model.ffn.width=96", "model.num_layers=3") + "hold=Hold(equal='params', by='ffn')"
    sweep = opened(hold)
    sweep.folder.mkdir()
    sweep.save()
    monkeypatch.setattr("train.lab.sweep.hold_equal", lambda *_: pytest.fail("nothing is new"))
    assert opened(hold).content() == sweep.content()


SEARCH = VARIANTS + "search=RateSearch(factors=(0.5, 1.0, 2.0), lengths=(0.25, 0.5))"
BEST = {"base": 0.01, "wide": 0.005, "lion": 0.02}


def test_rates_are_searched_and_the_search_continues(opened):
    sweep, rounds = opened(SEARCH), []

    def execute(title, runs, only=None):
        rounds.append((title, [run.label for run in runs]))
        for run in runs:
            assert run.seed == run.experiment.data.seed == 1_000_000
            pretend(run, 1 + abs(run.experiment.schedule.peak - BEST[run.variant]))
        return dict.fromkeys((run.label for run in runs), 0)

    sweep.folder.mkdir()
    with pytest.raises(UserError, match="--to=slurm: the search of the learning rates comes first"):
        require_searched(sweep, "slurm")
    sweep.search_rates(lambda title, runs: execute(title, runs))
    assert [title for title, _ in rounds] == [f"learning rates, round {n} of 2" for n in (1, 2)]
    assert [len(labels) for _, labels in rounds] == [9, 6]
    assert rounds[0][1][0] == "base-rate0.005-steps5"
    found = opened(SEARCH)  # from sweep.json
    assert found.is_searched
    for name, rate in BEST.items():
        assert found.variants[name].experiment.schedule.peak == rate
        assert found.variants[name].experiment.schedule.final == pytest.approx(rate / 10)
    search = json.loads((sweep.folder / "sweep.json").read_text())["search"]
    assert {name: (one["rate"], one["runs"], one["at_edge"]) for name, one in search.items()} == {
        "base": (0.01, 5, False),
        "wide": (0.005, 5, True),
        "lion": (0.02, 5, True),
    }
    assert "base: learning rate 0.01, the best of 5 runs" in found.notes()
    assert any(line.startswith("lion: ") and "one beyond may be better" in line for line in found.notes())
    found.search_rates(execute)
    assert len(rounds) == 2  # nothing is left
    longer = SEARCH.replace("(0.25, 0.5)", "(0.25, 1.0)")
    with pytest.raises(UserError, match="search_rule"):
        opened(longer)


def test_a_search_that_breaks_off_and_one_that_diverges(opened):
    sweep = opened(SEARCH)
    sweep.folder.mkdir()

    def execute(status):
        def run_all(title, runs):
            for run in runs:
                lost = run.variant == "lion"
                pretend(run, 1.0, "failed" if lost else "finished", "steps 1 to 5 were all skipped" if lost else None)
            return {run.label: status if run.variant == "lion" else 0 for run in runs}

        return run_all

    with pytest.raises(UserError, match=r"cannot go on:\n  lion-rate0.005-steps5 ended with status 137 at step 5"):
        sweep.search_rates(execute(137))
    assert not any(sweep.rounds.values())
    with pytest.raises(UserError, match="variant lion: the search of the learning rate: every run failed or diverged"):
        sweep.search_rates(execute(2))


def test_failures_are_named(opened):
    sweep = opened()
    last = sweep.runs()[-1]
    pretend(last, 9.0, "failed", "no room")
    assert failures(sweep.runs(), {"wide-seed0": 0, last.label: 2}) == [
        f"lion-seed1 ended with status 2 at step 20: no room; see {last.folder / 'logs' / 'sweep.txt'}"
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_ablation_resolves(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = Sweep.from_file(f"configs/ablations/{name}", tmp_path, measure=lambda them: {one.name: 1.0 for one in them})
    assert len(sweep.ablation.seeds) >= 3
    assert len(sweep.variants) >= 2
    assert len(sweep.runs()) == len(sweep.variants) * len(sweep.ablation.seeds)
    if sweep.ablation.hold is not None:
        parameters = [count_parameters(variant.experiment.model) for variant in sweep.variants.values()]
        counts = [found.active if sweep.ablation.held.equal == "active_params" else found.total for found in parameters]
        assert max(counts) / min(counts) <= 1.02
