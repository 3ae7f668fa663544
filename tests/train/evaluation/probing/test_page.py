import dataclasses
import html.parser

from tests.train.evaluation.probing.samples import GRID, RESULTS
from train.evaluation.probes.letters import Letters
from train.evaluation.probing.page import draw, render, write_page


def test_the_page_has_each_probe_with_its_numbers_and_pictures(tmp_path):
    write_page(RESULTS, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<h2>") == 2
    assert text.count("<svg viewBox") == 2
    assert "runs/&lt;a&gt;" in text
    assert "runs/<a>" not in text
    assert "loss of: bigram" in text
    assert "<p>Sequences of a Markov chain whose transition matrix is drawn anew for each.</p>" in text
    assert "http://" not in text.replace("http://www.w3.org", "")  # nothing outside itself
    html.parser.HTMLParser().feed(text)
    assert render(RESULTS).split("<footer>")[0] == text.split("<footer>")[0]


def test_a_probe_is_described_without_marks_of_code():
    letters = RESULTS.entries[0]._replace(name="letters", probe=Letters())
    text = render(dataclasses.replace(RESULTS, entries=(letters,)))
    assert "<p>Questions about words and letters after num_examples answered ones" in text


def test_a_grid_shows_its_values():
    svg = draw(GRID, "grid").svg
    for words in ("100%", "25%", "32", "64", "depth"):
        assert f">{words}<" in svg
    assert svg.count("var(--train)") == 4
