"""Options as typed: --set, and other text that stands for a value."""

import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.norms import LayerNorm, RMSNorm
from model.options.assignments import override, parse_value
from model.options.json import to_json
from model.options.tree import check
from model.positions.rotary import Rotary
from tests.model.carts import CART, Cart, Ski, Wheel, refused


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("limit=3", {"limit": 3}),
        (" limit = 3 ", {"limit": 3}),
        ("limit=None", {"limit": None}),
        ("brake=True", {"brake": True}),
        ("colour=blue", {"colour": "blue"}),
        ("colour='blue'", {"colour": "blue"}),
        ("name=two words", {"name": "two words"}),
        ("name=a=b", {"name": "a=b"}),
        ("name=../data/x.txt", {"name": "../data/x.txt"}),
        ("name=x.txt", {"name": "x.txt"}),
        ("name=a-b", {"name": "a-b"}),
        ("name=7", {"name": "7"}),
        ("name='7'", {"name": "7"}),
        ("name={[]}", {"name": "{[]}"}),
        ("name=", {"name": ""}),
        ("loads=(1, 2.5)", {"loads": (1, 2.5)}),
        ("loads=[1]", {"loads": (1,)}),
        ("loads=()", {"loads": ()}),
        ("loads=1, -2", {"loads": (1, -2)}),
        ("places=there", {"places": "there"}),
        ("places=(there, '7', 8)", {"places": ("there", "7", "8")}),
        ("spare=Wheel", {"spare": Wheel()}),
        ("spare=Wheel()", {"spare": Wheel()}),
        ("spare=Wheel(radius=3e-1, spokes=4)", {"spare": Wheel(radius=0.3, spokes=4)}),
        ("runner=Ski(length=2)", {"runner": Ski(length=2)}),
        ("runner.spokes=4", {"runner": Wheel(spokes=4)}),
        ("wheels=(Wheel(spokes=1), Wheel)", {"wheels": (Wheel(spokes=1), Wheel())}),
        ("wheels.1.spokes=9", {"wheels": (Wheel(), Wheel(radius=0.5, spokes=9))}),
    ],
)
def test_override(assignment, expected):
    before = to_json(CART)
    assert override(CART, assignment) == dataclasses.replace(CART, **expected)
    assert to_json(CART) == before


def test_override_of_an_item_of_a_tuple():
    cart = dataclasses.replace(CART, loads=(1.0, 2.0))
    assert override(cart, "loads.1=5").loads == (1.0, 5)
    assert override(cart, "wheels.0=Wheel(spokes=1)").wheels == (Wheel(spokes=1), Wheel(radius=0.5))
    refused(lambda: override(cart, "loads.1=heavy"), "loads.1: expected float, got 'heavy' (str)")
    refused(lambda: override(cart, "wheels.0=Ski(length=1)"), "wheels.0: no option 'Ski' fits here", "known: Wheel")


def test_override_of_a_nested_option_in_an_option():
    config = ModelConfig(
        vocab_size=7, context_length=8, num_layers=1, width=4, mixer=GroupedQuery(num_heads=2), ffn=Gated(width=8)
    )
    config = override(config, "mixer.qk_norm=QKNorm(norm=RMSNorm(epsilon=1e-3))")
    assert config.mixer == GroupedQuery(num_heads=2, qk_norm=QKNorm(norm=RMSNorm(epsilon=1e-3)))
    config = override(config, "mixer=GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=LayerNorm(bias=False)))")
    assert config.mixer == GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=LayerNorm(bias=False)))
    assert override(config, "position=Rotary(theta=5e5)").position == Rotary(theta=5e5)
    assert override(config, "mixer.qk_norm=None").mixer.qk_norm is None


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("limit", ["'limit'", "expected path.to.field=value"]),
        ("=3", ["expected path.to.field=value"]),
        ("limt=3", ["limt: Cart has no field 'limt'", "did you mean 'limit'?"]),
        ("runner.radus=3", ["runner.radus: Wheel has no field 'radus'", "did you mean 'radius'?"]),
        ("runner.length=3", ["Wheel has no field 'length'", "known: radius, spokes"]),
        ("name.first=x", ["name.first: str 'one' has no fields"]),
        ("spare.spokes=3", ["spare.spokes: NoneType None has no fields"]),
        ("wheels.2.spokes=3", ["'2' is not an index of a tuple of length 2"]),
        ("wheels.last=3", ["'last' is not an index of a tuple of length 2"]),
        ("limit=ten", ["limit: expected int or None, got 'ten' (str)"]),
        ("limit=2.5", ["limit: expected int or None, got '2.5' (float)"]),
        ("brake=1", ["brake: expected bool, got '1' (int)"]),
        ("colour=green", ["colour: expected 'red' or 'blue', got 'green'"]),
        ("loads=3", ["loads: expected a tuple of float, got '3' (int)"]),
        ("loads=(1, x)", ["loads: expected a tuple of float"]),
        ("limit={[]}", ["limit: expected int or None"]),
        ("runner=None", ["runner: expected Wheel(...) or Ski(...), got 'None' (NoneType)"]),
        ("runner=Sky(length=1)", ["runner: no option 'Sky' fits here", "did you mean 'Ski'?"]),
        ("runner=Sledge()", ["no option 'Sledge' fits here", "known: Ski, Wheel"]),
        ("spare=Ski(length=1)", ["spare: no option 'Ski' fits here", "known: Wheel"]),
        ("runner=tools.Wheel()", ["no option 'tools.Wheel' fits here"]),
        ("limit=int(3)", ["limit: expected int or None, got 'int(3)'"]),
        ("runner=Wheel(radus=1)", ["Wheel has no field 'radus'", "did you mean 'radius'?"]),
        ("runner=Wheel(**{})", ["Wheel has no field '**'"]),
        ("runner=Wheel(1.0)", ["write the fields of Wheel by name, such as Wheel(radius=...)"]),
        ("runner=Ski", ["Ski needs a value for length"]),
        ("runner=Ski()", ["runner: Ski needs a value for length"]),
    ],
)
def test_override_that_does_not_fit(assignment, expected):
    refused(lambda: override(CART, assignment), *expected)


def test_a_value_of_the_wrong_type_inside_an_option_is_found_by_check():
    cart = override(CART, "runner=Wheel(spokes=many)")
    refused(lambda: check(cart), "runner.spokes: expected int, got 'many' (str)")


@pytest.mark.parametrize(
    "text",
    [
        "a,b.txt",
        "(a, b)",
        "book(1)",
        "f(x).txt",
        "a#b",
        "runs/a b",
        "x\0y",
        "b\udcff",
        "[1]",
        "1_000",
        "'",
        "*",
        "...",
        "(",
    ],
)
def test_a_text_is_taken_as_it_is_typed(text):
    assert override(CART, f"name={text}").name == text


def test_a_tuple_is_a_tuple_where_one_may_stand():
    assert override(CART, "places=(a, 'b c')").places == ("a", "b c")


def test_a_path_inside_an_option_keeps_its_form():
    assert parse_value("Cart(name=runs/a-b)", Cart, "--x") == Cart(name="runs/a-b")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("runner.radius=nan", "--set runner.radius: expected float, got 'nan' (str)"),
        ("runner.radius=1e999", "--set runner.radius: expected a finite number"),
        ("runner.spokes=1e3", "--set runner.spokes: expected int, got '1e3' (float)"),
        ("runner.spokes=" + "9" * 5000, "--set runner.spokes: expected int, got '9999"),
        ("runner.spokes=0x" + "f" * 5000, "--set runner.spokes: expected a whole number of at most 4,294,967,295"),
        ("runner=Wheel(radius=1, radius=2)", "radius is given twice in 'Wheel(radius=1, radius=2)'; leave one out"),
        ("runner=Wheel(radius=1 2)", "strings in it need quotes"),
        ("wheels.²=Wheel()", "'²' is not an index of a tuple of length 2"),
        ("wheels.-1=Wheel()", "'-1' is not an index of a tuple of length 2"),
        ("runner.spokes=" + "-" * 20_000 + "1", "runner.spokes"),
        ("runner=" + "a" + ".a" * 20_000, "runner"),
        ("limit=" + "(" * 300, "limit: expected int or None"),
        ("__class__=Wheel()", "Cart has no field '__class__'"),
        ("runner.__init__.__globals__=1", "Wheel has no field '__init__'"),
        ("limit=__import__('os').getpid()", "limit: expected int or None, got"),
        ("brake=true", "--set brake: expected bool, got 'true' (str)"),
        ("=3", "expected path.to.field=value"),
    ],
)
def test_what_fits_nothing_is_one_error(assignment, message):
    assert len(refused(lambda: override(CART, assignment), message)) < 1000
