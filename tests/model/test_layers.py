import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.errors import UserError
from model.feedforward.mlp import MLP, Gated
from model.layers import Except, Group, group_layers, stacked_layers
from model.options.tree import check
from model.positions.absolute import Learned, NoPositions
from model.positions.rotary import Rotary
from model.transformer import abstract_params


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        ("0", [0]),
        ("-1", [5]),
        ("6", []),
        ("-7", []),
        (":2", [0, 1]),
        ("4:", [4, 5]),
        ("::2", [0, 2, 4]),
        ("2::3", [2, 5]),
        ("-2:", [4, 5]),
        (" 1 : 4 ", [1, 2, 3]),
        ("9:", []),
    ],
)
def test_layers_are_chosen_as_python_slices(layers, numbers):
    assert list(Except(layers=layers, ffn=MLP(width=1)).layer_numbers(6)) == numbers


def test_the_last_exception_counts(small):
    local, none = GroupedQuery(num_heads=4, pattern=SlidingWindow(size=4)), NoPositions()
    config = small(
        num_layers=4,
        exceptions=(
            Except(layers="::2", mixer=local),
            Except(layers="2:", ffn=MLP(width=8), position=none),
            Except(layers="3", ffn=MLP(width=4)),
        ),
    )
    base = small()
    assert [layer.mixer for layer in config.layers] == [local, base.mixer, local, base.mixer]
    assert [layer.ffn for layer in config.layers] == [base.ffn, base.ffn, MLP(width=8), MLP(width=4)]
    assert [layer.position for layer in config.layers] == [Rotary(), Rotary(), none, none]
    assert {layer.position for layer in small(position=Learned()).layers} == {none}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("aaaa", [(0, "a", 4)]),
        ("abababab", [(0, "ab", 4)]),
        ("abababa", [(0, "ab", 3), (6, "a", 1)]),
        ("llllglllglllg", [(0, "l", 1), (1, "lllg", 3)]),
        ("aaabbbbb", [(0, "a", 3), (3, "b", 5)]),
        ("lllllg" * 4 + "ll", [(0, "lllllg", 4), (24, "l", 2)]),
        ("abc", [(0, "abc", 1)]),
        ("a", [(0, "a", 1)]),
        ("aab" * 3 + "c", [(0, "aab", 3), (9, "c", 1)]),
        ("d" + "aab" * 20, [(0, "d", 1), (1, "aab", 20)]),
    ],
)
def test_layers_are_grouped_by_what_repeats(kinds, expected):
    groups = group_layers(tuple(kinds))
    assert [(group.start, "".join(group.pattern), group.repeats) for group in groups] == expected
    numbers = sorted(n for group in groups for index in range(len(group.pattern)) for n in group.layer_numbers(index))
    assert numbers == list(range(len(kinds)))


def test_the_layers_of_a_place_are_a_pattern_apart():
    assert list(Group(start=3, pattern=("a", "b"), repeats=3).layer_numbers(1)) == [4, 6, 8]


def test_stacks_are_named_after_their_first_layer(small):
    config = small(num_layers=7, exceptions=(Except(layers="::3", ffn=Gated(width=20)),))
    blocks = abstract_params(config)["blocks"]
    assert {name: stack["ffn"]["up"].shape for name, stack in blocks.items()} == {
        "0": (2, 16, 20),
        "1": (2, 16, 24),
        "2": (2, 16, 24),
        "6": (1, 16, 20),
    }
    assert abstract_params(small())["blocks"]["ffn"]["up"].shape == (2, 16, 24)


LOCAL = GroupedQuery(num_heads=4, pattern=SlidingWindow(size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exceptions": (Except(layers="1"),)}, "exceptions.0.layers: these layers differ in nothing"),
        ({"exceptions": (Except(layers="one", mixer=LOCAL),)}, "exceptions.0.layers: expected a number or a slice"),
        ({"exceptions": (Except(layers="", mixer=LOCAL),)}, "exceptions.0.layers: expected a number or a slice"),
        ({"exceptions": (Except(layers="::0", mixer=LOCAL),)}, "exceptions.0.layers: expected a number or a slice"),
        ({"exceptions": (Except(layers="2", mixer=LOCAL),)}, "exceptions.0.layers: '2' is none of the 2 layers"),
        ({"exceptions": (Except(layers=":", mixer=LOCAL),)}, "mixer: no layer has it: the exceptions replace"),
        (
            {"exceptions": (Except(layers="1", ffn=MLP(width=3)), Except(layers="-1", ffn=MLP(width=4)))},
            "exceptions.0.ffn: no layer has it: later exceptions replace it",
        ),
        (
            {"position": Learned(), "exceptions": (Except(layers="1", position=Rotary()),)},
            "exceptions.0.position: Learned positions are added before the first layer",
        ),
        (
            {"exceptions": (Except(layers="1", mixer=GroupedQuery(num_heads=3)),)},
            "exceptions.0.mixer.num_heads: 3 heads do not divide width=16",
        ),
        (
            {
                "position": NoPositions(),
                "mixer": GroupedQuery(num_heads=16),
                "exceptions": (Except(layers="1", position=Rotary()),),
            },
            "exceptions.0.position: Rotary rotates pairs of dimensions",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(small, changes, message):
    with pytest.raises(UserError) as caught:
        check(small(**changes))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2, "one problem, one line under the heading"


def test_the_layers_that_a_parameter_stacks(tiny_experiment):
    model = tiny_experiment(model__num_layers=5, model__exceptions="(Except(layers='1::2', ffn=None),)").model
    assert list(stacked_layers(model.layers, "blocks.0.mixer.query", 2)) == [0, 2]
    assert list(stacked_layers(model.layers, "blocks.1.mixer.query", 2)) == [1, 3]
    assert list(stacked_layers(model.layers, "blocks.4.mixer.query", 1)) == [4]
    assert list(stacked_layers(tiny_experiment().model.layers, "blocks.ffn.up", 2)) == [0, 1]
    assert list(stacked_layers(model.layers, "multi_token.ffn.up", 3)) == [0, 1, 2]  # depths
