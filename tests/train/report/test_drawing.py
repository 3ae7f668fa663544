"""How charts are drawn: SVG in the colours of a page, and the numbers at ticks."""

import re

import pytest

from train.report.drawing import LIGHT, draw_svg, format_tick, new_figure, set_log_ticks, style


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (3e-5, "3e-5"), (1500, "1.5k"), (2e6, "2M"), (1e18, "1e+18"), (-0.5, "-0.5")],
)
def test_ticks(value, text):
    assert format_tick(value) == text


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.9, 110), ["1", "2", "5", "10", "20", "50", "100"]),
        ((90, 450), ["100", "150", "200", "300", "400"]),
        ((1.9e-4, 1.1e-3), ["2e-4", "3e-4", "4e-4", "5e-4", "7e-4", "1e-3"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(limits, expected):
    assert shown_ticks(limits) == expected


def test_a_logarithmic_axis_has_the_ticks_that_are_given():
    assert shown_ticks((40, 2000), at=[1024, 64, 64, 1536]) == ["64", "1,024", "1,536"]


def shown_ticks(limits, **given):
    """The numbers at the ticks between the limits of a logarithmic axis; no smaller tick is there."""
    _, axes = new_figure(4, 2)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    set_log_ticks(axes.yaxis, **given)
    assert len(axes.yaxis.get_minorticklocs()) == 0
    ticks = axes.yaxis.get_majorticklocs()
    found = zip(ticks, axes.yaxis.get_major_formatter().format_ticks(ticks), strict=True)
    return [text for tick, text in found if limits[0] <= tick <= limits[1]]


def test_a_picture_takes_its_colours_from_the_page_and_has_no_style_of_its_own():
    def draw(axes, colors):
        axes.plot([1, 2], [3, 4], color=colors.train)
        axes.set_xlabel("<steps>")

    svg = draw_svg("one", draw, width=4, height=2, label='a "label"')
    assert svg == draw_svg("one", draw, width=4, height=2, label='a "label"')  # the same bytes every time
    assert svg != draw_svg("two", draw, width=4, height=2, label='a "label"')  # its ids are its own
    assert "var(--train)" in svg
    assert not re.search(r"#0102|<style|<metadata|font-family", svg)
    assert 'aria-label="a &quot;label&quot;"' in svg
    assert 'viewBox="0 0 288 144"' in svg
    assert "&lt;steps&gt;" in svg


def test_the_style_ends_with_its_context():
    import matplotlib

    before = matplotlib.rcParams["text.color"]
    with style(LIGHT):
        _, axes = new_figure(2, 1)
        assert matplotlib.rcParams["text.color"] == LIGHT.ink
        assert not axes.spines["top"].get_visible()
    assert matplotlib.rcParams["text.color"] == before
