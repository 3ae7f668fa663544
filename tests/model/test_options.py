import dataclasses
import json
from typing import Any, Literal

import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.options import (
    check,
    conforms,
    describe,
    differences,
    find_problems,
    from_json,
    nearest,
    option_from_json,
    override,
    shown,
    to_json,
    walk,
)
from model.positions.absolute import NoPositions
from tests.model.carts import CART, Cart, Ski, Wheel, refused


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (True, bool, True),
        (1, bool, False),
        (None, int | None, True),
        (None, int, False),
        ("red", Literal["red", "blue"], True),
        ("green", Literal["red", "blue"], False),
        (True, Literal[1, 2], False),
        ((1, 2.5), tuple[float, ...], True),
        ((1, "2"), tuple[float, ...], False),
        ([1], tuple[float, ...], False),
        ((), tuple[Wheel, ...], True),
        (Wheel(), Wheel | Ski, True),
        (Wheel(), Ski, False),
        (Wheel, Wheel, False),
    ],
)
def test_conforms(value, annotation, fits):
    assert conforms(value, annotation) is fits


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "int or None"),
        (Literal["red", "blue"], "'red' or 'blue'"),
        (tuple[float, ...], "a tuple of float"),
        (Wheel | Ski, "Wheel(...) or Ski(...)"),
        (str | tuple[str, ...], "str or a tuple of str"),
    ],
)
def test_describe(annotation, words):
    assert describe(annotation) == words


def test_nearest_names_the_closest_word_or_lists_all():
    assert nearest("radus", ["spokes", "radius"]) == "did you mean 'radius'?"
    assert nearest("zzz", ["spokes", "radius"]) == "known: radius, spokes"
    assert nearest("zzz", []) == "known: none"


def test_walk_meets_every_option_with_its_path():
    cart = dataclasses.replace(CART, spare=Wheel(spokes=8))
    assert [(path, type(option)) for path, option in walk(cart, "cart")] == [
        ("cart", Cart),
        ("cart.runner", Wheel),
        ("cart.spare", Wheel),
        ("cart.wheels.0", Wheel),
        ("cart.wheels.1", Wheel),
    ]
    assert [path for path, _ in walk(cart)] == ["", "runner", "spare", "wheels.0", "wheels.1"]


def test_check_lists_every_problem_with_its_path():
    check(CART)
    wrong = dataclasses.replace(CART, limit="ten", runner=Wheel(radius=-1.0), wheels=(Wheel(), Wheel(spokes=2.5)))
    assert find_problems(wrong, "cart") == [
        "cart.limit: expected int or None, got 'ten' (str)",
        "cart.runner.radius: must be above 0, got -1.0",
        "cart.wheels.1.spokes: expected int, got 2.5 (float)",
    ]
    refused(lambda: check(wrong), "this config has 3 problems:", "\n  limit: ", "\n  runner.radius: ")
    refused(
        lambda: check(Wheel(radius=0.0), "wheel"),
        "this config cannot be built:\n  wheel.radius: must be above 0, got 0.0",
    )


def test_a_value_of_the_wrong_type_is_not_asked_whether_it_makes_sense():
    assert find_problems(Wheel(radius="wide")) == ["radius: expected float, got 'wide' (str)"]


@pytest.mark.parametrize(
    ("wheel", "problem"),
    [
        (Wheel(radius=float("nan")), "radius: expected a finite number"),
        (Wheel(radius=float("inf")), "radius: expected a finite number"),
        (Wheel(radius=1e39), "radius: expected a finite number"),  # infinity in float32
        (Wheel(radius=1e-40), "radius: expected a finite number"),  # 0 in float32
        (Wheel(radius=10**400), "radius: expected a finite number"),
        (Wheel(spokes=2**32), "spokes: expected a whole number of at most 4,294,967,295, got 4294967296"),
        (
            Wheel(spokes=-(10**5000)),
            "spokes: expected a whole number of at most 4,294,967,295, got a number of thousands",
        ),
    ],
)
def test_numbers_without_an_end_are_refused_wherever_they_stand(wheel, problem):
    assert find_problems(wheel)[0].startswith(problem)
    cart = dataclasses.replace(CART, wheels=(Wheel(), wheel))
    assert find_problems(cart)[0].startswith(f"wheels.1.{problem}")
    assert len(find_problems(dataclasses.replace(CART, loads=(1.0, float("nan"))))) == 1


def test_numbers_at_the_bounds_are_taken():
    for good in (Wheel(radius=3.4e38), Wheel(radius=1.2e-38), Wheel(spokes=2**32 - 1), Wheel(spokes=0, radius=7)):
        assert find_problems(good) == []


def test_a_class_is_no_option():
    assert find_problems(dataclasses.replace(CART, runner=Wheel)) == [
        f"runner: expected Wheel(...) or Ski(...), got {Wheel!r} (type)"
    ]


def test_shown_is_never_long():
    assert shown("x" * 1000) == f"'{'x' * 159}... (1,002 characters)"
    assert shown(10**5000) == "a number of thousands of digits"


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


def test_differences():
    old = to_json(CART)
    new: dict[str, Any] = to_json(Cart(name="two", runner=Ski(length=1.5), limit=3, wheels=(Wheel(),)))
    assert differences(old, old) == []
    assert differences(old, new) == [
        "limit: None -> 3",
        "name: 'one' -> 'two'",
        "runner: Wheel(radius=0.3, spokes=32) -> Ski(length=1.5)",
        f"wheels: {old['wheels']!r} -> {new['wheels']!r}",
    ]
    assert differences(old, to_json(override(CART, "runner.spokes=8")), "cart") == ["cart.runner.spokes: 32 -> 8"]
    assert differences(old, to_json(override(CART, "spare=Wheel"))) == ["spare: None -> Wheel(radius=0.3, spokes=32)"]
    del new["limit"]
    assert "limit: 3 -> None" in differences(to_json(override(CART, "limit=3")), new)


def test_a_whole_number_in_the_place_of_a_float_is_a_float():
    for wheel in (override(Wheel(), "radius=3000000000"), from_json(Wheel, {"radius": 3_000_000_000})):
        assert (wheel.radius, type(wheel.radius)) == (3e9, float)  # JAX would read an int as an int of 32 bits


def test_an_option_of_a_file_is_checked():
    assert option_from_json(Wheel | Ski, {"type": "Ski", "length": 2}) == Ski(length=2.0)
    refused(lambda: option_from_json(Wheel, [], "tokenizer"), "tokenizer: expected Wheel(...), got []")
    refused(lambda: option_from_json(Wheel, {"radius": -1.0}, "wheel"), "wheel.radius: must be above 0")
    refused(lambda: option_from_json(Wheel, {"radius": "x"}), "radius: expected float, got 'x' (str)")
