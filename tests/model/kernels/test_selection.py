"""Kernels are chosen by name, and a record says which were taken and why."""

import jax
import jax.numpy as jnp
import pytest

from model import kernels
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP
from model.kernels import experts
from model.kernels.selection import Choice, Kernels, record_choice, recorded_choices
from model.kernels.xla.plain import Plain
from model.options.tree import check
from model.transformer import abstract_params, stream

MODEL = dict(vocab_size=20, context_length=8, num_layers=1, width=8, mixer=GroupedQuery(num_heads=2))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (Kernels(attention=("tile",)), "no kernel is called 'tile'; did you mean 'tiles'?"),
        (Kernels(attention=("tiles", "tiles")), "names 'tiles' twice"),
        (Kernels(experts=("megabloks",)), "no kernel is called 'megabloks'; did you mean 'megablox'?"),
    ],
)
def test_unknown_names(option, message):
    with pytest.raises(UserError) as caught:
        check(ModelConfig(**MODEL, ffn=MLP(width=8), kernels=option))
    assert message in str(caught.value)


def test_names_are_kernels_in_that_order():
    some = Kernels(attention=("plain", "blocks"), experts=("ragged_dot",))
    assert [kernel.name for kernel in some.named("attention")] == ["plain", "blocks"]
    assert some.named("experts") == experts.KERNELS[-1:]
    assert Kernels().named("attention") == kernels.KERNELS
    assert Kernels().named("experts") == experts.KERNELS


def lines(option):
    config = ModelConfig(**MODEL, ffn=Experts(num_experts=2, top_k=1, expert=MLP(width=8)), kernels=option)
    params = abstract_params(config)
    with recorded_choices() as chosen:
        jax.eval_shape(lambda params: stream(config, params, jnp.zeros((1, 8), jnp.int32)).stream_BTD, params)
    return chosen


def test_a_record_of_what_a_program_uses():
    assert lines(Kernels()) == ["attention: blocks", "experts: tiles"]
    assert lines(Kernels(attention=("splash", "plain"))) == ["attention: plain", "experts: tiles"]


def test_a_forced_kernel_that_does_not_take_the_request():
    with pytest.raises(
        UserError, match="no kernel for attention supports this request on a cpu: cudnn: it runs on a gpu"
    ):
        lines(Kernels(attention=("cudnn",)))


def test_no_record_without_a_reader():
    record_choice("attention", "plain")
    with recorded_choices() as chosen:
        for _ in range(2):
            record_choice("attention", Choice(Plain(), {"splash": "on a tpu", "tiles": "too small"}, ("splash",)))
    assert chosen == ["attention: plain (not tiles: too small)"]
