"""The page of a law: it is valid, refers to nothing outside itself, and shows the numbers."""

import html.parser
import re

import pytest

from tests.train.lab.scaling.analyses import full_analysis
from train.lab.scaling.report.page import render

VOID = {"meta", "link", "br", "img", "path", "use", "rect", "ellipse", "line", "circle"}


@pytest.fixture(scope="module")
def page():
    return render(full_analysis(), "a <ladder>", "15 runs of configs/a.py --set 'x=<b>'")


def test_its_elements_nest(page):
    open_tags, problems = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in VOID and (not open_tags or open_tags.pop() != tag):
                problems.append((tag, self.getpos()))

    Parser().feed(page)
    assert (open_tags, problems) == ([], [])


def test_it_is_alone(page):
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert "<script" not in page
    assert "url(http" not in page
    assert "#0102" not in page  # a stand-in for a colour of the page that was not replaced
    assert set(re.findall(r"var\(--([a-z]+)\)", page)) <= set(re.findall(r"--([a-z]+):", page))


def test_it_shows_the_numbers(page):
    found = full_analysis()
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>|<style.*?</style>", "", page, flags=re.S)))
    for words in (
        "a <ladder>",
        "15 runs of configs/a.py --set 'x=<b>'",
        "run <14>",
        "c1e22<script>",
        f"{found.law.surface.alpha:.4g}",
        f"{found.projection.alpha:.4g}",
        "outside its 95% interval",
        "not trained yet",
        "Approach 2 is biased",
        "normal noise drawn around the fit",
        "a run read its text 7.5 times",
    ):
        assert words in text, words


def test_it_is_recognised_as_no_text_to_learn_from(page):
    from train.data.text.cairn_files import kind_of_file

    assert kind_of_file("report.html", page[:4096].encode()) == "a report"
