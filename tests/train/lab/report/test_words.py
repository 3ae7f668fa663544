import dataclasses
import math

import pytest

from model.options.annotations import fields_of, option_classes
from model.options.json import to_json
from train.data.config import Bytes, Data
from train.experiment import Experiment
from train.lab.report import words
from train.lab.report.analysis import analyse
from train.lab.statistics.speedup import Speedup


def rows(analysis):
    return {row.name: row for row in analysis.rows}


def test_decimals_show_two_digits_of_the_smallest_deviation(finished):
    deviations = [row.comparison.difference.deviation for row in finished.rows if row.comparison]
    assert min(deviations) < finished.noise
    assert words.decimals(finished) == 1 - math.floor(math.log10(min(deviations)))
    alone = dataclasses.replace(finished, rows=[finished.base])
    for noise, places in ((0.5, 3), (0.0009, 5), (1e-12, 6), (None, 4), (0.0, 4), (30.0, 3)):
        assert words.decimals(dataclasses.replace(alone, noise=noise)) == places


def test_numbers():
    assert words.number(-0.0123, 3, signed=True) == "\u22120.012"
    assert words.number(0.0123, 3, signed=True) == "+0.012"
    assert (words.number(None, 3), words.number(math.nan, 3)) == ("\u2013", "not finite")
    assert words.format_flops(1.234e18) == "1.23e18"


def test_cells(finished, broken):
    wide, slow = rows(finished)["wide"], rows(broken)["slow"]
    assert words.mean_cell(wide, 3) == f"{wide.mean:.3f} \u00b1 {wide.deviation:.3f}"
    assert words.interval_cell(None, 3) == words.p_cell(finished.base) == words.effect_cell(finished.base) == "\u2013"
    assert words.interval_cell(words.difference_of(wide), 2) == "[\u22120.06, \u22120.06]"
    assert (words.seeds_cell(wide), words.seeds_words(wide)) == ("3/3", "3 seeds")
    assert (words.seeds_cell(slow), words.seeds_words(slow)) == ("2/3 (1 failed)", "2 of 3 seeds, 1 failed")
    assert words.verdict_cell(finished, wide) == words.verdict_class(finished, wide) == "better"
    assert words.verdict_cell(finished, finished.base) == "the base"
    assert words.verdict_cell(broken, slow) == "not judged: it has no final value for seed 2 of 3 declared seeds"
    assert words.verdict_class(broken, slow) == ""
    assert "more would show" in words.verdict_cell(finished, rows(finished)["same"])


def test_no_verdict_where_none_was_asked_for(finished):
    results = finished.results
    plain = analyse(dataclasses.replace(results, content=results.content | {"alpha": None}))
    assert words.verdict_cell(plain, rows(plain)["wide"]) == "no verdict was asked for"
    assert words.verdict_class(plain, rows(plain)["wide"]) == ""
    assert not any("Holm" in line for line in words.method(plain))


def test_seeds_that_were_added_after_results_raise_the_stated_rate(finished):
    results = finished.results
    grown = analyse(dataclasses.replace(results, content=results.content | {"earlier_seeds": [[0, 1]]}))
    (note,) = grown.notes
    assert note.startswith("Seeds were added after results were there (2, now 3 seeds)")
    assert "at most 10% of such sweeps instead of 5%" in note
    assert any("stands in at most 10% of such sweeps" in line for line in words.method(grown))
    assert any("stands in at most 5% of such sweeps" in line for line in words.method(finished))


def test_other_evaluations_have_differences_of_their_own(finished, broken):
    head, table = words.other_table(finished)
    assert head == ["variant", "wiki/loss", "difference"]
    wide, (name, mean, difference) = rows(finished)["wide"], table[0]
    places = words.decimals(finished)
    expected = wide.comparison.difference  # the loss of "wiki" is the loss and 1
    assert name == "wide"
    assert mean == f"{wide.mean + 1:.{places}f} \u00b1 {wide.deviation:.{places}f}"
    assert difference == f"{words.number(expected.mean, places, True)} {words.interval_cell(expected, places)}"
    assert next(row for row in table if row[0] == "base")[2] == words.NONE
    (hot,) = [row for row in words.other_table(broken)[1] if row[0] == "hot_100%"]
    assert "\u00b1" in hot[1]  # of the seeds that did not diverge


def test_runs_that_trained_jointly_have_no_times(finished):
    results = finished.results
    wide = results.variants["wide"]
    joint = dataclasses.replace(wide, runs={s: dataclasses.replace(r, joint=True) for s, r in wide.runs.items()})
    found = analyse(dataclasses.replace(results, variants=results.variants | {"wide": joint}))
    assert rows(found)["slow"].speedups["seconds"] == "trained jointly"
    assert isinstance(rows(found)["slow"].speedups["steps"], Speedup)
    assert words.method(found)[-1].startswith("Runs that trained jointly")
    assert not words.method(finished)[-1].startswith("Runs that trained jointly")


def test_speedups():
    found = Speedup(ratio=1.318, low=1.2, high=1.449, level=0.95, n=3)
    assert words.speedup_cell(found) == "1.32 [1.20, 1.45]"
    assert words.speedup_cell(dataclasses.replace(found, high=math.inf)) == "1.32 [wide]"
    assert words.speedup_cell("no curve") == "no curve"


def test_costs(finished):
    wide = rows(finished)["wide"]
    sizes = wide.variant.sizes
    assert words.cost_cells(wide) == {
        "tokens/s": "1.00k",
        "FLOPs": words.format_flops(sizes.flops_per_token * sizes.tokens_before(200)),
        "parameters": "33.0k",
        "active": "33.0k",
        "memory": "300 MB",
    }
    unknown = dataclasses.replace(wide, variant=dataclasses.replace(wide.variant, sizes=None, runs={}))
    assert set(words.cost_cells(unknown).values()) == {"\u2013"}


def test_how_far_rates_were_tuned(finished, broken):
    found = {row["name"]: row for row in words.tuning_rows(finished)}
    assert found["wide"]["rate"] == "0.001"
    assert found["wide"]["tuned"] == "4 rates from 0.0001 to 0.003, rounds of 50, 100 steps; 1 run failed or diverged"
    assert "one beyond may be better" in found["slow"]["tuned"]
    peak = rows(finished)["same"].variant.config["schedule"]["peak"]
    assert found["same"] == {"name": "same", "rate": f"{peak:g}", "tuned": "not tuned: the rate of its config"}
    assert words.tuning_rows(broken) == []


@pytest.mark.parametrize(
    ("last", "best", "beyond", "expected"),
    [
        (("0.001", "0.002", "0.004"), 0.004, 6.1, "0.008 beside the best was left out after 75 steps"),
        (("0.001", "0.002", "0.004"), 0.002, 6.1, ""),
        (("0.001", "0.002", "0.004"), 0.004, None, ""),  # it diverged
        (("0.004", "0.008", "0.016"), 0.004, 6.1, "0.002 beside the best was left out after 75 steps"),
        (("0.004",), 0.004, None, "0.002 beside the best was left out after 75 steps"),  # one survivor
        (("0.004",), 0.004, 6.1, "0.002 beside the best was left out after 75 steps; 0.008 beside the best"),
    ],
)
def test_a_best_rate_at_the_end_of_its_last_round_was_not_tuned_on_both_sides(last, best, beyond, expected):
    first = dict.fromkeys(("0.001", "0.002", "0.004", "0.008", "0.016"), 6.0) | {"0.008": beyond}
    rounds = [{"steps": 75, "losses": first}, {"steps": 150, "losses": dict.fromkeys(last, 5.0)}]
    found = words.edge_words({"rate": best, "at_edge": False, "rounds": rounds})
    assert expected in found
    assert bool(found) == bool(expected)


def test_the_method_says_how_numbers_came_about(finished):
    text = " ".join(words.method(finished))
    for part in (
        "paired t test over 3 seeds",
        "3 comparisons (Holm)",
        "at most 5% of such sweeps",
        "one may leave out 0",
        "Speed-up",
    ):
        assert part in text
    assert words.equal_words(finished) == "the number of parameters held equal by the width"


DATA_OPTIONS = option_classes(fields_of(Experiment)["data"]).values()


def test_batches_are_the_same_only_where_the_data_and_their_batches_are(finished):
    def differences(**changes):
        data = to_json(Data())
        rows = []
        for row in finished.rows:
            config = row.variant.config | {"data": data | changes.get(row.name, {})}
            rows.append(dataclasses.replace(row, variant=dataclasses.replace(row.variant, config=config)))
        return words.method(dataclasses.replace(finished, rows=rows))[1]

    names = [row.name for row in finished.rows if not row.is_base]
    text, sizes, ahead = {"path": "another.txt"}, {"batch_size": 3}, {"prefetch": 1}
    same = "which has the same batches in the same order"
    assert f"{same}; intervals" in differences()
    assert f"{same}; intervals" in differences(**dict.fromkeys(names, ahead))
    assert f"{same} (other data have wide); intervals" in differences(wide=text | sizes)
    assert f"{same} (other batches of the same data have wide); intervals" in differences(wide=sizes | ahead)
    assert f"{same} (other data have slow; other batches of the same data have wide)" in differences(
        wide=sizes, slow={"tokenizer": to_json(Bytes())}
    )
    assert "whose data are others: the batches of a pair differ; intervals" in differences(**dict.fromkeys(names, text))
    assert "whose data are the same in other batches: the batches of a pair differ; intervals" in differences(
        **dict.fromkeys(names, sizes)
    )
    assert "whose batches are others than those of every variant (other data have wide; other batches" in differences(
        **{**dict.fromkeys(names, sizes), "wide": text}
    )


def test_a_base_alone_has_no_words_about_differences(finished):
    alone = dataclasses.replace(finished, rows=[finished.base])
    (line,) = words.method(alone)
    assert line.startswith("loss is that of the last evaluation")
    assert words._batches_words(alone) == "which has the same batches in the same order"


@pytest.mark.parametrize("option", DATA_OPTIONS, ids=lambda option: option.__name__)
def test_every_number_of_batches_made_ahead_is_left_out(option):
    values = {"type": option.__name__, "prefetch": 1, "batch_size": 2}
    assert words._changed_data(values, values | {"prefetch": 2}) == set()
    assert words._changed_data(values, values | {"batch_size": 3}) == {"batch_size"}


def test_the_fields_of_batching_are_those_of_data_options():
    known = {field.name for option in DATA_OPTIONS for field in dataclasses.fields(option)}
    assert known >= words._BATCHING


@pytest.mark.parametrize("name", ["wide", "same"])
def test_claims(finished, name):
    assert (name, rows(finished)[name].judgement.word, rows(finished)[name].judgement.text) in words.claim_words(
        finished
    )
