import shutil

import pytest

from tests.train.lab.sweeps import OFFSETS, write_sweep
from tests.train.report.pages import Page
from train.lab.report import summary, write_sweep_report
from train.lab.report.page import render


@pytest.fixture(scope="module")
def page(broken):
    return Page(render(broken))


def test_the_page_refers_to_nothing_outside_itself(page):
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_the_table_says_what_is_missing(page):
    assert "1 of 15 runs: failed (slow seed 2). They are not in the means below." in page.text
    assert "2 of 3 seeds, 1 failed" in page.text
    assert "not judged: it has no final value for seed 1 of 3 declared seeds" in page.text
    assert "step 120 of 200; the disk is full" in page.text
    assert "Runs at their end 13 of 15 1 missing, 1 failed" in page.text


def test_all_parts_are_there(page):
    for heading in (
        "Claim",
        "Results",
        "Curves",
        "Speed-up to equal loss",
        "Learning rates",
        "Variants",
        "Runs",
        "Method",
    ):
        assert heading in page.text
    assert "Fixed before the runs: difference <= -0.03, p < 0.05" in page.text
    assert "No rate was tuned" in page.text
    assert "model.ffn.width: 64 -> 96" in page.text
    assert len([tag for tag, _ in page.tags if tag == "figure"]) == 4


def test_a_finished_sweep(finished):
    page = Page(render(finished))
    assert "Shown to be better 1 wide" in page.text
    assert "4 rates from 0.0001 to 0.003" in page.text
    assert "holds: mean" in page.text
    assert "the number of parameters held equal by the width" in page.text
    assert "1 field of the resolved config differs model.ffn.width: 64 -> 96" in page.text


def test_a_sweep_that_has_not_begun(base, tmp_path):
    write_sweep(tmp_path, base)
    for folder in tmp_path.glob("*-seed*"):
        shutil.rmtree(folder)
    path, analysis = write_sweep_report(tmp_path)
    page = Page(path.read_text())
    assert "12 of 12 runs: missing" in page.text
    assert "No curves yet" in page.text
    assert "not judged: the base has no final value for seeds 0, 1, 2 of 3 declared seeds" in summary(analysis)
    assert (tmp_path / "results.csv").read_text().count("missing") == 12


def test_all_files_are_written_with_the_order_in_a_larger_sweep(finished, base, tmp_path):
    write_sweep(tmp_path, base, offsets=OFFSETS | {"same": -0.1}, name="large")
    path, analysis = write_sweep_report(finished.results.folder, [tmp_path])
    assert path == finished.results.folder / "report.html"
    for name in ("results.csv", "results.md", "results.tex"):
        assert (finished.results.folder / name).stat().st_size > 500
    changed = "same before base, same before wide"
    expected = f"order in large: 67% [16%, 95%] of 6 pairs of 4 variants the same; reversed: {changed}"
    assert summary(analysis).splitlines()[-1] == expected
    text = Page(path.read_text()).text
    assert f"large 26.8k to 26.8k parameters 67% [16%, 95%] 6 pairs of 4 variants {changed}" in text


def test_the_summary_is_plain_text(broken):
    lines = summary(broken).splitlines()
    assert lines[0] == "1 of 15 runs: missing (same seed 1). They are not in the means below."
    wide = next(line for line in lines if line.startswith("wide"))
    assert "better, p = 0.0" in wide
    assert any(line.startswith("claim, wide: holds") for line in lines)
