import json

import jinja2
import pytest

from train.report.template import as_script_data, fill, read_source


def page_with(monkeypatch, template, **content):
    monkeypatch.setattr("train.report.template.read_source", lambda package, name: template)
    return fill("any", "page.html", **content)


def test_values_are_escaped_and_control_characters_shown(monkeypatch):
    assert page_with(monkeypatch, "<p>{{ x }}</p>", x="<b>\x1b\x7f\t") == "<p>&lt;b&gt;\u241b\u2421\t</p>"
    assert page_with(monkeypatch, "{{ x | safe }}", x="<b>") == "<b>"


def test_a_missing_value_is_an_error(monkeypatch):
    with pytest.raises(jinja2.UndefinedError):
        page_with(monkeypatch, "{{ missing }}")


def test_the_style_of_all_pages_is_there(monkeypatch):
    style = read_source("train.report", "style.css")
    assert "--page" in style
    monkeypatch.setattr(
        "train.report.template.read_source", lambda package, name: "{{ style | safe }}" if name == "x" else style
    )
    assert fill("any", "x") == style


def test_no_text_ends_a_script():
    text = as_script_data({"a": "</script><!--\u2028é&"})
    assert not set(text) & set("<>&\u2028é")
    assert json.loads(text) == {"a": "</script><!--\u2028é&"}
