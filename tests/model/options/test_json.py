import json

import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.options.assignments import override
from model.options.json import from_json, option_from_json, to_json
from model.options.tree import check
from model.positions.absolute import NoPositions
from tests.model.carts import CART, Cart, Ski, Wheel, refused


@pytest.mark.parametrize(
    "cart",
    [
        CART,
        Cart(name="two", runner=Ski(length=1.7), spare=Wheel(), colour="blue", loads=(1.0, 2.5), limit=3, brake=True),
        Cart(name="three", wheels=(), places=("a", "b")),
    ],
)
def test_json_round_trip(cart):
    assert from_json(Cart, json.loads(json.dumps(to_json(cart)))) == cart


def test_json_round_trip_of_a_model():
    config = ModelConfig(
        vocab_size=7,
        context_length=8,
        num_layers=1,
        width=4,
        mixer=GroupedQuery(num_heads=2, qk_norm=QKNorm(norm=LayerNorm(bias=False)), logit_softcap=3.0),
        ffn=MLP(width=8, activation="relu2"),
        position=NoPositions(),
        final_logit_softcap=30.0,
    )
    assert from_json(ModelConfig, json.loads(json.dumps(to_json(config)))) == config


def test_json_form():
    assert to_json(Cart(name="x", runner=Ski(length=2.0), wheels=(Wheel(),), loads=(1.5,))) == {
        "type": "Cart",
        "name": "x",
        "runner": {"type": "Ski", "length": 2.0},
        "spare": None,
        "colour": "red",
        "loads": [1.5],
        "wheels": [{"type": "Wheel", "radius": 0.3, "spokes": 32}],
        "places": "here",
        "limit": None,
        "brake": False,
    }


def test_json_without_a_type_where_only_one_class_fits():
    assert from_json(Cart, {"name": "x", "spare": {"spokes": 3}}) == Cart(name="x", spare=Wheel(spokes=3))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "Cart", "name": "x", "colur": "red"}, ["colur: Cart has no such field", "did you mean 'colour'?"]),
        ({"name": "x", "runner": {"type": "Wheel", "radus": 1.0}}, ["runner.radus: Wheel", "did you mean 'radius'?"]),
        (
            {"name": "x", "runner": {"type": "Wheell"}},
            ["runner: no option 'Wheell' fits here", "did you mean 'Wheel'?"],
        ),
        ({"name": "x", "runner": {}}, ["runner: no option", "fits here", "Ski, Wheel"]),
        ({"type": "Waggon", "name": "x"}, ["the root: no option 'Waggon' fits here"]),
        ({"name": "x", "limit": {"type": "Wheel"}}, ["limit: expected int or None, got an option of type 'Wheel'"]),
        ({"type": "Cart"}, ["Cart needs a value for name"]),
        ({"name": "x", "runner": {"type": "Ski"}}, ["runner: Ski needs a value for length"]),
        ({"name": "x", "wheels": [{}, {"type": "Ski"}]}, ["wheels.1: no option 'Ski' fits here"]),
        ({"type": ["Cart"], "name": "x"}, ["the root: no option"]),
    ],
)
def test_json_that_does_not_fit(value, expected):
    refused(lambda: from_json(Cart, value), *expected)


def test_json_of_the_wrong_type_is_left_to_check():
    refused(lambda: check(from_json(Cart, {"name": 3})), "name: expected str, got 3 (int)")


def test_a_whole_number_in_the_place_of_a_float_is_a_float():
    for wheel in (override(Wheel(), "radius=3000000000"), from_json(Wheel, {"radius": 3_000_000_000})):
        assert (wheel.radius, type(wheel.radius)) == (3e9, float)  # JAX would read an int as an int of 32 bits


def test_an_option_of_a_file_is_checked():
    assert option_from_json(Wheel | Ski, {"type": "Ski", "length": 2}) == Ski(length=2.0)
    refused(lambda: option_from_json(Wheel, [], "tokenizer"), "tokenizer: expected Wheel(...), got []")
    refused(lambda: option_from_json(Wheel, {"radius": -1.0}, "wheel"), "wheel.radius: must be above 0")
    refused(lambda: option_from_json(Wheel, {"radius": "x"}), "radius: expected float, got 'x' (str)")
