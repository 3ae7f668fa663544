"""How variants mix tokens in the report: pictures and tables of what was measured, and nothing of what was not."""

import json
import shutil

from tests.train.lab.sweeps import STEPS
from train.lab.report.analysis import analyse
from train.lab.report.mixing import chart, measurements
from train.lab.report.page import render
from train.lab.report.tables import latex, markdown
from train.lab.results import read_results


def test_what_was_measured_is_shown(finished, tmp_path):
    assert measurements(finished) == []
    pictures = render(finished).count("<svg")
    shutil.copytree(finished.results.folder, tmp_path / "sweep")
    (tmp_path / "sweep" / "reach").mkdir()
    for name, norms in (("base-seed0", {"0": 1.0, "1": 0.25}), ("wide-seed1", {"0": 2.0, "1": 0.5})):
        content = {"step": STEPS, "windows": 64, "norms": norms}
        (tmp_path / "sweep" / "reach" / f"{name}.json").write_text(json.dumps(content))
    seconds = {"base": {"16": [0.2, 0.1, 0.4], "64": [0.25, 0.2, 0.3]}, "wide": {"64": [0.3, 0.2, 0.4]}}
    content = {"device": "cpu", "tokens": 64, "rounds": 3, "seconds": seconds}
    (tmp_path / "sweep" / "lengths.json").write_text(json.dumps(content))
    analysis = analyse(read_results(tmp_path / "sweep"))
    page, text = render(analysis), markdown(analysis)
    for words in ("How far back they look", "Speed against the length of a row", "rows of 16", "1 back"):
        assert words in page
        assert words in text
    reach, speed = measurements(analysis)
    assert reach.rows == [["wide", "2,000", "500"], ["base", "1,000", "250"]]
    assert speed.rows == [["wide", "\u2013", "300"], ["base", "200", "250"]]
    paper = latex(analysis)
    assert "wide & 2,000 & 500" in paper
    assert "wide & -- & 300" in paper
    assert "% How far back they look. The norm" in paper
    assert paper.count(r"\begin{tabular}") == paper.count(r"\end{tabular}") == 3 + ("% the other" in paper)
    assert page.count("<svg") == pictures + 2
    drawn = chart(analysis, speed).svg
    assert all(f">{tick}<" in drawn for tick in ("150", "200", "300", "ms a pass"))  # less than a decade
