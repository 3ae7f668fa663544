"""The browser of these tests finds the errors of a page, those too that come long after it was drawn and driven."""

import pytest

from tests.train.report.browser import look, needs_browser

pytestmark = needs_browser

SCRIPTS = {
    "silent": "setTimeout(() => document.title = 'done', 1000)",
    "at once": "throw new Error('first')",
    "a timer": "setTimeout(() => { throw new Error('after a second') }, 1000)",
    "a rejection": "setTimeout(() => Promise.reject(new Error('rejected')), 1000)",
    "the console": "setTimeout(() => console.error('written', 7), 1000)",
    "an answer": "addEventListener('click', () => setTimeout(() => { throw new Error('clicked') }, 1000))",
    "a frame": "requestAnimationFrame(() => requestAnimationFrame(() => { throw new Error('drawn') }))",
    "an address": "setTimeout(() => document.body.append(Object.assign(new Image(), {src: 'http://late/a.png'})), 1000)",
}
DRIVE = "document.body.click(); return document.title"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pages = {
        name: f"<!DOCTYPE html><head><title>{name}</title></head><body><script>{script}</script></body>"
        for name, script in SCRIPTS.items()
    }
    return look(pages, DRIVE, tmp_path_factory.mktemp("browser"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("at once", "first"),
        ("a timer", "after a second"),
        ("a rejection", "rejected"),
        ("the console", "written 7"),
        ("an answer", "clicked"),
        ("a frame", "drawn"),
    ],
)
def test_an_error_is_found_whenever_it_comes(found, name, problem):
    (line,) = found[name]["problems"]
    assert problem in line


def test_a_page_without_errors_has_none(found):
    assert found["silent"] == {"said": "silent", "problems": [], "asked": []}


def test_an_address_that_is_asked_for_late_is_found(found):
    assert found["an address"]["asked"] == found["an address"]["problems"] == ["http://late/a.png"]
