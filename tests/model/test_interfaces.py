"""The interface that every mixer and every feed-forward option implements."""

import dataclasses

import jax
import pytest

from model.attention.grouped_query import GroupedQuery
from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.interfaces import AttentionOption, FeedForwardOption, MixerOption
from model.layers import Layer
from model.mixers import Mixer
from model.options.annotations import fields_of, option_classes

QUESTIONS = {MixerOption: ("build", "cost", "empty_cache"), FeedForwardOption: ("build", "cost")}


@pytest.mark.parametrize(("field", "base"), [("mixer", MixerOption), ("ffn", FeedForwardOption)])
def test_every_option_of_a_layer_answers_for_itself(field, base):
    classes = option_classes(fields_of(Layer)[field])
    assert len(classes) > 2
    for cls in classes.values():
        assert issubclass(cls, base)
        for name in QUESTIONS[base]:
            assert getattr(cls, name) is not getattr(base, name), f"{cls.__name__} has no {name} of its own"


def test_which_mixers_attend():
    assert {name for name, cls in option_classes(Mixer).items() if issubclass(cls, AttentionOption)} == {
        "GroupedQuery",
        "Latent",
    }


def test_a_token_leaves_experts_idle_and_nothing_else():
    shapes = {"router": (8, 6), "gate": (6, 8, 10), "up": (6, 8, 10), "down": (6, 10, 8), "down_bias": (6, 8)}
    abstract = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    experts = Experts(num_experts=6, top_k=2, expert=Gated(width=10))
    assert experts.inactive_parameters(abstract) == 4 * (3 * 80 + 8)
    assert MLP(width=10).inactive_parameters({"up": abstract["gate"]}) == 0


def test_options_take_the_words_of_another():
    given, follows = GroupedQuery(num_heads=4, num_kv_heads=4, head_dim=2), GroupedQuery(num_heads=4)
    assert given.written_like(follows, 8) == follows
    assert given.written_like(follows, 16) == dataclasses.replace(given, num_kv_heads=None)
    assert given.written_like(None, 8) == given
    loss, bias = BalanceLoss(coefficient=0.1), LoadBias(rate=0.5)
    one = Experts(num_experts=6, top_k=2, expert=Gated(width=10), load_bias=LoadBias())
    other = dataclasses.replace(one, balance_loss=loss, router_z_loss=0.2, load_bias=bias)
    assert one.written_like(other) == other
    assert one.written_like(dataclasses.replace(other, load_bias=None)).load_bias == LoadBias()
    assert one.written_like(MLP(width=3)) == one
