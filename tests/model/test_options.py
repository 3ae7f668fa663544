import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import MLP, Gated
from model.norms import LayerNorm, RMSNorm
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
    parse_value,
    shown,
    to_json,
    walk,
)
from model.positions.absolute import NoPositions
from model.positions.rotary import Rotary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    radius: float = 0.3
    spokes: int = 32

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.radius <= 0:
            yield "radius", f"must be above 0, got {self.radius}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ski:
    length: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cart:
    name: str
    runner: Wheel | Ski = Wheel()
    spare: Wheel | None = None
    colour: Literal["red", "blue"] = "red"
    loads: tuple[float, ...] = ()
    wheels: tuple[Wheel, ...] = (Wheel(), Wheel(radius=0.5))
    places: str | tuple[str, ...] = "here"
    limit: int | None = None
    brake: bool = False


CART = Cart(name="one")


def refused(action, *expected):
    """Runs an action that a user must be told about, and looks for each piece of what they must be told."""
    with pytest.raises(UserError) as caught:
        action()
    for piece in expected:
        assert piece in str(caught.value), str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ checking


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


# ---------------------------------------------------------------------------------------------------------- JSON


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
        attention=GroupedQuery(num_heads=2, qk_norm=QKNorm(norm=LayerNorm(bias=False)), logit_softcap=3.0),
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


# ---------------------------------------------------------------------------------------------------- overriding


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
        vocab_size=7, context_length=8, num_layers=1, width=4, attention=GroupedQuery(num_heads=2), ffn=Gated(width=8)
    )
    config = override(config, "attention.qk_norm=QKNorm(norm=RMSNorm(epsilon=1e-3))")
    assert config.attention == GroupedQuery(num_heads=2, qk_norm=QKNorm(norm=RMSNorm(epsilon=1e-3)))
    config = override(config, "attention=GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=LayerNorm(bias=False)))")
    assert config.attention == GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=LayerNorm(bias=False)))
    assert override(config, "position=Rotary(theta=5e5)").position == Rotary(theta=5e5)
    assert override(config, "attention.qk_norm=None").attention.qk_norm is None


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("limit", ["'limit'", "expected path.to.field=value"]),
        ("=3", ["expected path.to.field=value"]),
        ("limt=3", ["limt: Cart has no field 'limt'", "did you mean 'limit'?"]),
        ("runner.radus=3", ["runner.radus: Wheel has no field 'radus'", "did you mean 'radius'?"]),
        ("runner.length=3", ["Wheel has no field 'length'", "known: radius, spokes"]),
        ("name.first=x", ["name.first: there is nothing below str 'one'"]),
        ("spare.spokes=3", ["spare.spokes: there is nothing below NoneType None"]),
        ("wheels.2.spokes=3", ["'2' is no index into a tuple of 2"]),
        ("wheels.last=3", ["'last' is no index into a tuple of 2"]),
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


# ----------------------------------------------------------------------------------------------------- comparing


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


# ------------------------------------------------------------------------------------------- what may be typed


@pytest.mark.parametrize(
    ("wheel", "problem"),
    [
        (Wheel(radius=float("nan")), "radius: expected a finite number"),
        (Wheel(radius=float("inf")), "radius: expected a finite number"),
        (Wheel(radius=1e39), "radius: expected a finite number"),  # float32 makes infinity of it
        (Wheel(radius=1e-40), "radius: expected a finite number"),  # and 0 of this
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
        ("runner=Wheel(radius=1 2)", "texts in it need quotes"),
        ("wheels.²=Wheel()", "'²' is no index into a tuple of 2"),
        ("wheels.-1=Wheel()", "'-1' is no index into a tuple of 2"),
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


def test_a_whole_number_in_the_place_of_a_float_is_a_float():
    for wheel in (override(Wheel(), "radius=3000000000"), from_json(Wheel, {"radius": 3_000_000_000})):
        assert (wheel.radius, type(wheel.radius)) == (3e9, float)  # JAX takes an int for one of 32 bits


def test_an_option_of_a_file_is_checked():
    assert option_from_json(Wheel | Ski, {"type": "Ski", "length": 2}) == Ski(length=2.0)
    refused(lambda: option_from_json(Wheel, [], "tokenizer"), "tokenizer: expected Wheel(...), got []")
    refused(lambda: option_from_json(Wheel, {"radius": -1.0}, "wheel"), "wheel.radius: must be above 0")
    refused(lambda: option_from_json(Wheel, {"radius": "x"}), "radius: expected float, got 'x' (str)")


def test_a_class_is_no_option():
    assert find_problems(dataclasses.replace(CART, runner=Wheel)) == [
        f"runner: expected Wheel(...) or Ski(...), got {Wheel!r} (type)"
    ]


def test_shown_is_never_long():
    assert shown("x" * 1000) == f"'{'x' * 159}... (1,002 characters)"
    assert shown(10**5000) == "a number of thousands of digits"
