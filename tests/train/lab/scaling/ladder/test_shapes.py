"""Shapes of other sizes: exact counts, the rule, and models it does not know."""

import dataclasses
import itertools
import math

import pytest

from configs.quickstart import experiment as quickstart
from configs.shakespeare_char import experiment as shakespeare
from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.cost import count_parameters
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.layers import Except
from model.options.assignments import override
from model.positions.absolute import Learned
from model.recurrent.lstm import LSTM
from train.lab.scaling.ladder.shapes import ASPECT, Shapes


def resized(base, shape):
    for setting in shape.settings:
        base = override(base, setting.removeprefix("model."))
    return base


@pytest.fixture(scope="module")
def shapes():
    """Of the quickstart: three query heads of 64 a key head, one key head, a feed-forward of 8/3."""
    return Shapes(quickstart.model)


def test_shapes_follow_the_rule_and_their_counts_are_exact(shapes):
    base = quickstart.model
    for wanted in (3e5, 1e6, 4e6, 3e7):
        shape = shapes.nearest(wanted)
        model = resized(base, shape)
        assert shape.count == count_parameters(model)
        assert abs(math.log(shape.parameters / wanted)) < 0.15
        assert (model.num_layers, model.width, model.mixer.num_heads) == (shape.layers, shape.width, shape.heads)
        aspect = (model.width / model.num_layers) / (base.width / base.num_layers)
        assert 1 / ASPECT <= aspect <= ASPECT
        assert model.width % (8 if model.width < 256 else 16) == 0
        assert model.ffn.width == pytest.approx(model.width * 512 / 192, abs=4)
        assert model.ffn.width % 8 == 0
        assert model.mixer.num_kv_heads == 1
        head = model.width // model.mixer.num_heads
        assert head % 2 == 0
        assert model.mixer.num_heads == 1 or 64 / 1.5 <= head <= 64 * 1.5
        assert shape.describe() == f"{shape.layers} x {shape.width}, {shape.heads} head{'s' * (shape.heads > 1)}"


def test_sizes_rise_and_the_base_is_among_the_shapes(shapes):
    sizes = [shapes.nearest(n).parameters for n in (3e5, 6e5, 1.2e6, 2.4e6)]
    assert all(2 ** (2 / 3) < b / a < 2 ** (4 / 3) for a, b in itertools.pairwise(sizes))
    assert resized(quickstart.model, shapes.shape(4, 192)) == quickstart.model
    characters = Shapes(shakespeare.model)
    assert characters.nearest(count_parameters(shakespeare.model).active).parameters == pytest.approx(
        count_parameters(shakespeare.model).active, rel=0.1
    )


def test_groups_of_heads_and_widths_of_heads_that_are_given():
    grouped = dataclasses.replace(quickstart.model, width=192, mixer=GroupedQuery(num_heads=6, num_kv_heads=2))
    mixer = resized(grouped, Shapes(grouped).nearest(6e6)).mixer
    assert mixer.num_heads == 3 * mixer.num_kv_heads > 3
    wide = dataclasses.replace(grouped, mixer=GroupedQuery(num_heads=6, num_kv_heads=2, head_dim=48))
    found = resized(wide, Shapes(wide).nearest(6e6))
    assert found.mixer.head_dim == 48
    assert found.mixer.num_heads == 3 * round(6 * found.width / 192 / 3)


def test_experts_and_recurrences():
    """Of a mixture N is the parameters that a token uses; an LSTM of full matrices keeps one head."""
    mixture = dataclasses.replace(quickstart.model, ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=256)))
    shape = Shapes(mixture).nearest(2e6)
    assert shape.parameters == shape.count.active < shape.count.total
    assert abs(math.log(shape.parameters / 2e6)) < 0.15
    assert resized(mixture, shape).ffn.expert.width % 8 == 0
    recurrent = dataclasses.replace(quickstart.model, mixer=LSTM(num_heads=1), position=Learned())
    assert Shapes(recurrent).nearest(2e6).heads is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mixer": Latent(num_heads=3, kv_rank=32, head_dim=32, rotary_head_dim=16, value_head_dim=32)},
            "ranks of Latent",
        ),
        (
            {"exceptions": (Except(layers="1::2", ffn=Gated(width=64)),)},
            r"model\.exceptions\.0\.ffn: layers of their own",
        ),
        ({"embedding_width": 64}, "model.embedding_width and model.per_layer_embedding have no rule"),
    ],
)
def test_models_without_a_rule_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        Shapes(dataclasses.replace(quickstart.model, **changes))


def test_a_size_that_no_shape_has_is_refused(shapes):
    with pytest.raises(UserError, match=r"no shape has about 1,000 parameters; the nearest, .*: ask for other sizes"):
        shapes.nearest(1000)
