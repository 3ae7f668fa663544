"""Pages of instruments in a browser: each kind of part draws what its data say, and asks for nothing outside."""

import re

import numpy as np
import pytest

from tests.train.inspection.sources import BOTH, run_of
from tests.train.report.browser import look, needs_browser
from tests.train.report.pages import NASTY
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.inspection.attention import maps
from train.inspection.features.pages.top_texts import EDGES, Collected, Example, Unit
from train.inspection.features.pages.widget import units_widget
from train.inspection.page.page import packed, render
from train.inspection.result import Charts, Link, Links, Result, Table, Widget, Words
from train.inspection.stream import lens
from train.inspection.vocabulary import map as vocabulary_map
from train.inspection.vocabulary import tokens
from train.report.drawing import Chart, draw_svg
from train.run.loading import load_run

pytestmark = needs_browser

TEXT = "the <b>\n"
# What a reader does with a page, and what stands on it at each step.
DRIVE = """
  const texts = (root, names) => [...root.querySelectorAll(names)].map((each) => each.textContent);
  const fire = (element, kind, more) => element.dispatchEvent(new page.MouseEvent(kind, {bubbles: true, ...more}));
  const visible = () => document.querySelector("main").innerText;
  const painted = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x);
  const maps = () => [...document.querySelectorAll("table.map")].map((table) => ({
    corner: texts(table, "td.corner")[0], columns: texts(table, "thead th"), rows: texts(table, "tbody th"),
    cells: [...table.querySelectorAll("tbody tr")].map((row) => texts(row, "td")),
    colored: [...table.querySelectorAll("tbody td")].filter((cell) => cell.style.background).length,
  }));
  const told = [], seen = [visible()];
  const tell = () => { const about = document.getElementById("about"); told.push(about.hidden ? null : about.textContent); };
  const found = {
    maps: [maps()], texts: [...document.querySelectorAll("div.text")].map((text) => texts(text, "span")),
    canvases: [...document.querySelectorAll("canvas")].map(painted), headings: texts(document, "h1, h2, h3"),
    svg: document.querySelectorAll("svg").length, bars: document.querySelectorAll(".bins i").length,
  };
  for (const select of document.querySelectorAll("select")) for (let i = 0; i < select.options.length; i++) {
    select.value = i;
    fire(select, "change");
    found.maps.push(maps());
    seen.push(visible());
  }
  for (const slider of document.querySelectorAll("input[type=range]")) for (const value of [slider.max, slider.min]) {
    slider.value = value;
    fire(slider, "input");
    seen.push(visible());
  }
  for (const span of document.querySelectorAll(".text span, td[data-row]")) { fire(span, "mouseover"); fire(span, "mouseenter"); tell(); }
  for (const canvas of document.querySelectorAll("canvas")) {
    const box = canvas.getBoundingClientRect();
    for (let x = 2; x < box.width; x += 10) for (let y = 2; y < box.height; y += 10) fire(canvas, "mousemove", {clientX: box.left + x, clientY: box.top + y});
    tell();
    fire(canvas, "click", {clientX: box.left + 2, clientY: box.top + 2});
  }
  for (let i = 0; i < document.querySelectorAll("button").length; i++) {
    document.querySelectorAll("button")[i].click();
    seen.push(visible());
  }
  return {...found, told, seen, after: [...document.querySelectorAll("canvas")].map(painted)};
"""


def result(*parts):
    return Result(title="Parts", about=NASTY, numbers={}, arrays={}, parts=parts, notes=[NASTY])


def units():
    """Two features with texts, bins and logits; the second never fires."""
    counts = np.zeros(len(EDGES) - 1, np.int64)
    counts[[4, 6]] = 2, 1
    example = Example(np.array([104, 10, 105], np.int32), np.array([-0.5, 0.0, 1.5], np.float32), 2)
    found = Collected([Unit(9, [example], 3, counts), Unit(2, [], 0, np.zeros_like(counts))], 30)
    logits = np.arange(2.0)[:, None] * np.linspace(-1, 1, 257)
    return result(units_widget(found, BytesTokenizer(Bytes()), logits, "Features", "feature"))


def parts():
    """A map of signed numbers with a gap, and the parts without a script."""
    views = [[[0.5, -2], [np.nan, 0]], [[4e-4, -0.133], [-8e-5, 0]], [[4e-4, -1e-5], [np.nan, 0]], [[20000, -0.25]] * 2]
    data = {
        "rows": ["</script>", 1],
        "columns": ["a b", "\n"],
        "values": packed(np.array(views)),
        "views": list("abcd"),
    }
    data |= {"rowName": "layer", "columnName": "token", "turned": True, "low": -2, "high": 2}
    data |= {"notes": [[["note <i>", None], [None, None]]] * 4}
    svg = draw_svg("line", lambda axes, colors: axes.plot([0, 1]), width=2, height=2, label="a line")
    return result(
        Widget(name="heatmap", title="Signed", data=data),
        Table(title="Table", head=["", "n"], rows=[[NASTY, "1"]], caption="below"),
        Charts(title="Charts", charts=[Chart(title="Line", caption="rises", svg=svg)]),
        Words(title="Words", paragraphs=["Look at `<b>`."], commands=["python -m launch.inspect"]),
        Links(title="Links", links=[Link(title="<Next>", address="../next/index.html", text="a & b")]),
    )


@pytest.fixture(scope="module")
def pages(tiny_run):
    run = load_run(tiny_run)
    named = tokens.open_tokenizer(tiny_run)
    return {
        "attention": maps.inspect(run, text=TEXT),
        "alignment": maps.inspect(run_of(BOTH), text="x<b>", source="</i>\n", layers=[1]),
        "lens": lens.inspect(run, text=TEXT),
        "tokens": tokens.inspect(named, text=TEXT + "é猫", against=str(tiny_run)),
        "scatter": vocabulary_map.inspect(run, text=TEXT, checkpoints=["10", "20"]),
        "units": units(),
        "parts": parts(),
    }


@pytest.fixture(scope="module")
def found(pages, tmp_path_factory):
    return look({name: render(each) for name, each in pages.items()}, DRIVE, tmp_path_factory.mktemp("browser"))


def test_every_page_draws_and_asks_for_nothing(pages, found):
    for name, each in found.items():
        assert (name, each["problems"], each["asked"]) == (name, [], [])
        words = "\n".join([*each["said"]["seen"], *filter(None, each["said"]["told"])])
        assert not re.search(r"\b(NaN|undefined|null|Infinity)\b|\[object", words)
        widgets = [part for part in pages[name].parts if isinstance(part, Widget)]
        assert "needs JavaScript" not in words
        assert {widget.title for widget in widgets} <= set(each["said"]["headings"])
        assert all(each["said"]["canvases"] + each["said"]["after"])


def test_attention(pages, found):
    said, length = found["attention"]["said"], 1 + len(TEXT)
    assert said["texts"] == [["<end>", *TEXT[:-1], "⏎\n"]]
    assert said["canvases"] == [True]
    (heads,) = said["maps"][0]
    assert (heads["corner"], heads["rows"], heads["columns"]) == ("layer ↓  head →", ["0", "1"], list("0123"))
    entropies = np.array(heads["cells"], float).ravel()
    expected = [each["entropy"] for each in pages["attention"].numbers["heads"]]
    np.testing.assert_allclose(entropies, expected, atol=6e-4)
    assert said["told"][length - 1].startswith(f"⏎token {length - 1}, id 10")
    assert re.search(r"attends to .*of token \d+ goes to token", said["told"][-1])


def test_attention_to_a_source(found):
    said = found["alignment"]["said"]
    source, text = [*"</i>", "⏎\n", "<end>"], ["<start>", *"x<b>"]
    assert said["texts"] == [text, text, source]  # of the decoder, and of cross-attention
    assert said["canvases"] == [True, True]
    told = said["told"]
    before = 2 * len(text) + 2  # both texts, and the two heads of the decoder
    of_source = told[before : before + len(source)]
    for number, (token, words) in enumerate(zip([*"</i>⏎", "<end>"], of_source, strict=True)):
        assert words.startswith(f"{token}token {number}, id ")
    assert re.search(r"attends to .*of token \d+ goes to token \d+ of the source", told[-1])


def test_the_lens_shows_tokens_in_its_cells(pages, found):
    said, length = found["lens"]["said"], 1 + len(TEXT)
    (cells,) = said["maps"][0]
    assert cells["corner"] == "after ↓  token →"
    assert cells["rows"] == ["layer 1", "layer 0", "embedding"]
    assert cells["columns"] == ["<end>", *"the␣<b>⏎"]
    data = pages["lens"].parts[0].data["texts"]
    assert [[len(cell) > 0 for cell in row] for row in cells["cells"]] == [[True] * length] * 3
    assert cells["cells"][0][0] == data[0][0].replace(" ", "␣").replace("\n", "⏎")
    assert cells["colored"] == 3 * length
    assert [shown[0]["colored"] for shown in said["maps"]] == [3 * length] * 3 + [3 * (length - 1)]  # no next token
    assert "KL to the last layer 0.000 nats" in said["told"][0]


def test_pieces_of_tokens(found):
    said = found["tokens"]["said"]
    assert said["texts"] == [[*TEXT[:-1], "⏎\n", "é", "猫"]] * 2
    assert re.search("猫3 bytes.*id 231.*id 140.*id 171", said["told"][len(TEXT) + 1])


def test_points(found):
    said = found["scatter"]["said"]
    assert said["canvases"] == [True]
    assert ["step 20" in words for words in said["seen"]] == [True, True, False]  # the slider goes to the first step
    assert "step 10" in said["seen"][2]


def test_units(found):
    said = found["units"]["said"]
    assert said["texts"] == [["h", "⏎\n", "i"]]
    assert said["bars"] == 3
    assert "feature 9: fires at 10.0% of tokens, at most 1.500" in said["headings"]
    assert "feature 2: fires at no token" in said["seen"][-1]
    assert said["told"][2].replace("\u00a0", " ") == "i  1.500"


def test_a_map_of_signed_numbers_and_parts_without_a_script(found):
    said = found["parts"]["said"]
    (drawn,) = said["maps"][0]
    assert [shown[0]["cells"] for shown in said["maps"][2:]] == [
        [["0.000", "-0.133"], ["0.000", "0.000"]],  # all numbers of a view are written as its largest one
        [["4.0e-4", "-1.0e-5"], ["\u2013", "0"]],
        [["20000.0", "-0.3"]] * 2,
    ]
    assert drawn["corner"] == "layer ↓  token →"
    assert (drawn["rows"], drawn["columns"]) == (["</script>", "1"], ["a␣b", "⏎"])
    assert drawn["cells"] == [["0.500", "-2.000"], ["\u2013", "0.000"]]
    assert drawn["colored"] == 3
    assert said["svg"] == 1
    assert said["told"][0].endswith("20000note <i>")
    for words in ("<Next>", "Look at <b>.", "<script>alert(1)</script>", "rises", "below"):
        assert words in said["seen"][0]
