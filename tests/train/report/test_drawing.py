import xml.etree.ElementTree as ElementTree

import pytest

from train.report.drawing import LIGHT, draw_svg, format_tick, new_figure, style


def drawing(name="loss", draw=lambda axes, colors: axes.plot([0, 1], [0, 1], color=colors.train, label="a<b")):
    return draw_svg(name, draw, width=4.0, height=2.0, label='loss & "rate"')


def test_a_chart_takes_the_colours_and_the_font_of_the_page():
    svg = drawing()
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == "0 0 288 144"
    assert root.attrib["aria-label"] == 'loss & "rate"'
    assert "var(--train)" in svg
    assert "font-family" not in svg
    assert "#01020" not in svg
    assert "<style" not in svg


def test_the_same_chart_is_the_same_text_and_another_has_other_ids():
    def ids(svg):
        return {value for element in ElementTree.fromstring(svg).iter() if (value := element.attrib.get("id"))}

    assert drawing() == drawing()
    assert ids(drawing())
    assert not ids(drawing()) & ids(drawing("other"))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (1500, "1.5k"), (2e6, "2M"), (3e-5, "3e-5"), (-0.5, "-0.5")]
)
def test_ticks(value, text):
    assert format_tick(value) == text


def test_a_figure_has_the_colours_of_a_palette():
    with style(LIGHT):
        figure, axes = new_figure(4.0, 2.0)
    assert figure.get_size_inches().tolist() == [4.0, 2.0]
    assert not axes.spines["top"].get_visible()
