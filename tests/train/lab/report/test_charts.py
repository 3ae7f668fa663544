import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from train.lab.report import charts
from train.lab.report.analysis import analyse


def texts(chart):
    root = ElementTree.fromstring(chart.svg)
    return [text for element in root.iter() if (text := (element.text or "").strip())]


def without_curves(analysis):
    results = analysis.results
    variants = {
        name: dataclasses.replace(
            v, search={}, runs={s: dataclasses.replace(r, curve=None, final={}) for s, r in v.runs.items()}
        )
        for name, v in results.variants.items()
    }
    return analyse(dataclasses.replace(results, content=results.content | {"claim": None}, variants=variants))


def test_every_chart_has_the_variants_and_the_colours_of_the_page(broken):
    chart = charts.difference_chart(broken)
    assert [name for name in texts(chart) if name in broken.results.variants] == ["wide", "same", "slow", "hot_100%"]
    curves = charts.cost_charts(broken)
    assert [curve.title for curve in curves] == ["Loss against tokens", "Loss against FLOPs", "Loss against wall time"]
    assert set(broken.results.variants) <= set(texts(curves[0]))
    for each in (chart, *curves):
        assert not re.search("#0200|#01020", each.svg)
    assert "var(--ink)" in curves[0].svg
    assert "var(--series-1)" in curves[0].svg


def test_wide_differences_have_more_ticks_than_whole_numbers(finished):
    wide = finished.results.variants["wide"]
    runs = {s: dataclasses.replace(r, final={name: x - 1 for name, x in r.final.items()}) for s, r in wide.runs.items()}
    variants = finished.results.variants | {"wide": dataclasses.replace(wide, runs=runs)}
    shown = texts(charts.difference_chart(analyse(dataclasses.replace(finished.results, variants=variants))))
    assert {"-1", "-0.4", "0"} <= {text.replace("\N{MINUS SIGN}", "-") for text in shown}


def test_bands_go_from_the_lowest_to_the_highest_seed(finished):
    row = next(row for row in finished.rows if row.name == "wide")
    x, low, mean, high = charts._band(row, "tokens")
    values = np.array([run.curve.values for run in row.variant.runs.values()])
    assert x.tolist() == [64 * step for step in range(20, 201, 20)]
    np.testing.assert_allclose([low, mean, high], [values.min(axis=0), values.mean(axis=0), values.max(axis=0)])


def test_runs_that_ended_early_do_not_cut_the_curve(broken):
    """Two runs of "slow" are at their end, and the third, which failed, is not drawn; a diverged point is left out."""
    bands = {row.name: charts._band(row, "tokens") for row in broken.rows}
    assert bands["slow"][0][-1] == 64 * 200
    assert bands["hot_100%"][0][-1] == 64 * 180


def test_the_rates_of_a_search(finished, broken):
    chart = charts.rate_chart(finished)
    assert {"base", "wide", "slow"} <= set(texts(chart))
    assert "same" not in texts(chart)
    assert charts.rate_chart(broken) is None


def test_the_colour_of_a_variant_does_not_depend_on_its_rank(finished, broken):
    def colors(analysis):
        return {row.name: charts.series_color(analysis, row) for row in analysis.rows}

    assert colors(finished).items() <= colors(broken).items()
    assert colors(broken)["base"] == "var(--ink)"
    assert len(set(colors(broken).values())) == 5


def test_nothing_is_drawn_of_nothing(finished):
    empty = without_curves(finished)
    assert charts.difference_chart(empty) is None
    assert charts.cost_charts(empty) == []


def test_a_variant_without_a_curve_is_named(finished):
    """Such as a short branch with one evaluation, at its end."""
    results = finished.results
    wide = results.variants["wide"]
    short = dataclasses.replace(wide, runs={s: dataclasses.replace(r, curve=None) for s, r in wide.runs.items()})
    analysis = analyse(dataclasses.replace(results, variants=results.variants | {"wide": short}))
    assert charts.cost_chart(analysis, "tokens").caption.endswith("No curve of wide: too few evaluations.")
    row = next(row for row in analysis.rows if row.name == "wide")
    assert set(row.speedups.values()) == {"too few evaluations during training"}


@pytest.mark.parametrize(
    ("value", "largest", "text"),
    [
        *((0, 1e13, "0"), (250, 300, "250"), (1500, 2e3, "1.5k"), (2e7, 3e7, "20M"), (3e9, 4e9, "3B")),
        *((1.5e13, 2e13, "1.5e13"), (8e11, 2e12, "8e11")),
    ],
)
def test_ticks_of_costs(value, largest, text):
    assert charts._format_cost(value, largest) == text


def test_of_many_variants_the_base_and_the_best_are_drawn(finished):
    results = finished.results
    same = results.variants["same"]
    many = {f"same{i}": dataclasses.replace(same, name=f"same{i}") for i in range(12)} | results.variants
    analysis = analyse(dataclasses.replace(results, content=results.content | {"claim": None}, variants=many))
    chart = charts.cost_chart(analysis, "tokens")
    assert {"base", "wide"} <= set(texts(chart))
    assert "slow" not in texts(chart)
    assert len(set(texts(chart)) & many.keys()) == 12
    assert "Of 16 variants, the base and the best 11 are drawn." in chart.caption
