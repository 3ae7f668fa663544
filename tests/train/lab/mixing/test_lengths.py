"""The speed of variants against the length of a row: what is timed, what is kept, what is refused."""

import jax
import pytest

from model.errors import UserError
from tests.train.lab.sweeps import STEPS, write_sweep
from train.lab.mixing import lengths
from train.lab.mixing.lengths import length_times, measure_lengths, pass_seconds
from train.lab.results import read_results

FEW = {"base": [], "wide": ["model.ffn.width=96"]}


@pytest.fixture
def sweep(tmp_path, tiny_experiment):
    write_sweep(tmp_path / "sweep", tiny_experiment(training__num_steps=STEPS, model__num_layers=1), FEW, seeds=(0, 1))
    return tmp_path / "sweep"


def test_a_pass_is_timed_with_rows_longer_than_the_context(tiny_experiment):
    experiment = tiny_experiment(model__num_layers=1)
    length = 2 * experiment.model.context_length
    found = pass_seconds({"a": experiment}, jax.device_count() * length, length, rounds=2)
    assert len(found["a"]) == 2
    assert min(found["a"]) > 0


def test_variants_take_turns(sweep, monkeypatch):
    asked, said = [], []

    def timed(experiments, tokens, length, rounds):
        asked.append((list(experiments), experiments["wide"].model.ffn.width, tokens % 64, length, rounds))
        return {"base": [0.2, 0.1, 0.4], "wide": [0.3 * length, 0.3, 0.3]}

    monkeypatch.setattr(lengths, "pass_seconds", timed)
    measure_lengths(read_results(sweep), [64, 16, 64], said.append, rounds=3)
    assert asked == [(["base", "wide"], 96, 0, 16, 3), (["base", "wide"], 96, 0, 64, 3)]
    assert said == [f"the speed of 2 variants with rows of {length} tokens" for length in (16, 64)]
    found = length_times(read_results(sweep))
    assert found.seconds == {
        "base": {16: (0.2, 0.1, 0.4), 64: (0.2, 0.1, 0.4)},
        "wide": {16: (0.3, 0.3, 4.8), 64: (0.3, 0.3, 19.2)},
    }


def test_what_cannot_be_timed_is_refused(sweep):
    results = read_results(sweep)
    assert length_times(results) is None
    for numbers in ([], [1, 4], [64, 48]):
        with pytest.raises(UserError, match="expected numbers from 2 that divide the longest"):
            measure_lengths(results, numbers)
    (sweep / "lengths.json").write_text("[]")
    assert length_times(results) is None
