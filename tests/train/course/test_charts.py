"""The picture of a sweep at its end."""

import dataclasses
import math
import xml.etree.ElementTree as ElementTree

import pytest

from tests.train.lab.sweeps import SETTINGS, STEPS, write_run, write_sweep
from train.course.charts import final_chart
from train.course.lesson import Folders, Sweep
from train.course.pages import shown
from train.inspection.result import Charts, Links, Table
from train.lab.report.analysis import analyse
from train.lab.results import read_results


@pytest.fixture
def folder(tiny_experiment, tmp_path):
    base = tiny_experiment(training__num_steps=STEPS)
    write_sweep(tmp_path / "sweep", base)
    write_run(tmp_path / "sweep", base, "slow", 1, SETTINGS["slow"], end=math.nan)
    return tmp_path


def test_every_variant_has_its_mean(folder):
    analysis = analyse(read_results(folder / "sweep"))
    chart = final_chart(analysis)
    root = ElementTree.fromstring(chart.svg)
    texts = [text for element in root.iter() if (text := (element.text or "").strip())]
    for row in analysis.rows:
        assert row.name in texts
        values = [value for value in row.values.values() if math.isfinite(value)]
        assert f"{math.fsum(values) / len(values):.3f}" in texts
    assert "left" in chart.caption
    assert "#0102" not in chart.svg
    without = [dataclasses.replace(row, values={}) for row in analysis.rows]
    assert final_chart(dataclasses.replace(analysis, rows=without)) is None


def test_a_sweep_has_a_table_pictures_and_its_report(folder):
    parts = shown(Sweep(note="A note."), Folders(folder, folder), {})
    assert parts[0].paragraphs == ["A note."]
    (table,) = (part for part in parts if isinstance(part, Table))
    assert {"variant", "loss", "verdict"} <= set(table.head)
    assert "memory" not in table.head
    (pictures,) = (part for part in parts if isinstance(part, Charts))
    assert len(pictures.charts) == 2
    assert pictures.wide
    assert [link.address for part in parts if isinstance(part, Links) for link in part.links] == ["sweep/report.html"]
