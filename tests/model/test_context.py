"""The context of a forward pass: taps, which add nothing to a program unless a caller asks for them."""

import jax
import jax.numpy as jnp
import pytest

from model.context import Context
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.layers import Except
from model.taps.meanings import TAPS
from model.taps.request import Tap, Taps
from model.transformer import abstract_params, forward
from tests.tiers import representatives

MODELS = {
    "scanned": {},
    "written out": {"scan_layers": False},
    "recomputed": {"remat": "full"},
    "experts in one layer": {
        "exceptions": (Except(layers="1", ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=8))),)
    },
}


def program(config, tokens, taps=()):
    """The gradient of the logits, before the compiler sees it; all that it was traced from is new."""

    def loss(params, tokens):
        output = forward(config, params, tokens, taps=taps)
        return output.logits_BTV.sum() + sum(x.sum() for x in output.taps.values()), output.taps

    return jax.jit(jax.grad(loss, has_aux=True)).lower(abstract_params(config), tokens).as_text()


@pytest.mark.parametrize("name", representatives(MODELS, "scanned"))
def test_no_cost_when_not_asked(name, small, tokens, monkeypatch):
    """A program without taps is, letter for letter, that of a model that offers no taps; a requested tap changes it."""
    config = small(**MODELS[name])
    unasked = program(config, tokens)
    asked = {
        program(config, tokens, taps)
        for taps in (
            ("query",),
            (Tap("query", (1,)),),
            (Tap("query", (0, 1)),),
            Taps(edit={"query": lambda x, where: x * 2}),
            Taps(edit={Tap("query", (0,)): lambda x, where: x * 2}),
        )
    }
    assert unasked not in asked
    assert len(asked) >= 4  # written out, all layers are those chosen
    monkeypatch.setattr(Context, "tap", lambda self, name, value: value)
    monkeypatch.setattr(Context, "offer", lambda self, name, make: None)
    assert program(config, tokens) == unasked


def test_a_tap_that_is_not_in_the_list_is_a_mistake_of_its_module():
    context = Context(index_BT=None)
    with pytest.raises(AssertionError, match=r"model/taps/meanings.py lists no tap 'queries'"):
        context.tap("queries", jnp.zeros(1))
    with pytest.raises(AssertionError, match="tap 'query' is listed otherwise"):
        context.offer("query", lambda: jnp.zeros(1))
    assert TAPS["query"].editable
