"""The page of a comparison: one file, with what the terminal says and three curves of each loss."""

import dataclasses
import html.parser
import re

from tests.train.lab.comparison.test_table import paired
from train.data.text.cairn_files import REPORT_MARK
from train.lab.comparison.comparison import compare
from train.lab.comparison.page import charts, render


class Parser(html.parser.HTMLParser):
    """Notes the attributes that name other files."""

    def __init__(self):
        super().__init__()
        self.links = []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]


def test_it_is_self_contained_and_says_everything(tiny_run, spiky_run):
    found = compare(tiny_run, spiky_run, evaluate=False)
    found = dataclasses.replace(found, paired=paired(0.1, 0.3), notes=["<b>bold</b>"])
    page = render(found)
    parser = Parser()
    parser.feed(page)
    assert parser.links == ["data:,"]
    assert "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert REPORT_MARK.search(page.encode())
    assert "&lt;b&gt;bold" in page
    for words in ("Training loss against steps", "Training loss against tokens", "Training loss against seconds"):
        assert words in page
    for words in ("B is worse", "something odd", "spikes.window", "They part nowhere: all 20 common"):
        assert words in page
    assert page.count("<svg") == 1 + 6  # the mark, and three curves of two losses


def test_an_axis_that_one_run_does_not_know_is_left_out(tiny_run):
    found = compare(tiny_run, tiny_run)
    pair = found.curves[0]
    unknown = dataclasses.replace(pair.b, seconds=pair.b.seconds * float("nan"))
    titles = [chart.title for chart in charts(dataclasses.replace(pair, b=unknown))]
    assert titles == ["Training loss against steps", "Training loss against tokens"]
