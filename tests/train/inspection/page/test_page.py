"""The page: complete in itself, its widgets, arrays as the script unpacks them."""

import base64
import json
import re

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.page import page
from train.inspection.result import Link, Links, Result, Table, Widget, Words


def result(*parts, **changes):
    return Result(title="<T>", about="a & b", numbers={}, arrays={}, parts=parts, **changes)


def heatmap(**data):
    values = page.packed(np.ones((1, 2)))
    return Widget(name="heatmap", title="h", data={"rows": ["</script>"], "columns": [1, 2], "values": values, **data})


def test_a_page_refers_to_nothing_outside_itself():
    text = page.render(result(heatmap(), Table(title="t", head=["<b>"], rows=[["\x1b"]]), notes=["was cut"]))
    assert not re.search(r"(src|href)=\"(?!data:,)", text)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "&lt;T&gt;" in text
    assert "&lt;b&gt;" in text
    assert "\x1b" not in text
    assert "was cut" in text
    assert text.count("inspection.widgets.heatmap =") == 1
    assert "inspection.widgets.attention =" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert data[0]["rows"] == ["</script>"]


def test_arrays_are_packed_little_endian():
    packed = page.packed(np.array([[1.5, -2.0]], np.float64))
    assert packed["shape"] == [1, 2]
    assert np.frombuffer(base64.b64decode(packed["base64"]), "<f4").tolist() == [1.5, -2.0]
    assert base64.b64decode(page.packed(np.array([7], np.uint8))["base64"]) == b"\x07"


def test_an_unknown_widget_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'heatmap'"):
        page.render(result(Widget(name="heatmaps", title="", data={})))


def test_a_page_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", 10)
    with pytest.raises(UserError, match="too many to open"):
        page.render(result(heatmap()))


def test_words_have_code_between_backticks_and_links_are_cards():
    words = Words(title="What & why", paragraphs=["Look at `<b>` first."], commands=["python -m launch.inspect 'a'"])
    links = Links(title="More", links=[Link(title="<Next>", address="../next/index.html", text="a & b", note="done")])
    text = page.render(result(words, links))
    assert "Look at <code>&lt;b&gt;</code> first.</p>" in text
    assert "<h2>What &amp; why</h2>" in text
    assert "launch.inspect &#39;a&#39;" in text
    assert '<a class="card" href="../next/index.html"><b>&lt;Next&gt;</b>' in text
    assert "a &amp; b" in text
