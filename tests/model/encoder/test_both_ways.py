"""Two recurrences are the sum of one, and of another over documents that are reversed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.context import Context
from model.encoder.both_ways import BothWays
from model.encoder.source import PADDING
from model.parameters.maker import Normal, ParameterMaker
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace

WIDTH, DOCUMENTS = 8, (slice(0, 4), slice(4, 9))
MIXERS = {
    "gru": GRU(),
    "state_space": StateSpace(num_heads=2, head_dim=4, state_dim=4, chunk=4),
    "lstm": LSTM(num_heads=2),
    "linear": LinearAttention(num_heads=2, head_dim=4, chunk=4),
    "delta": GatedDelta(num_heads=2, head_dim=4, chunk=4),
}
SWEPT = ("lstm", "linear", "delta")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.sweep] * (n in SWEPT)) for n in MIXERS])
def test_layer(name):
    """A row of two documents and padding, against each document in a row of its own."""
    make = ParameterMaker(jax.random.key(0), Normal(std=0.4), 1, "float32")
    both = BothWays(mixer=MIXERS[name]).build(WIDTH, 0.0, "float32", make, NoPositions())
    x = np.random.default_rng(0).standard_normal((1, 11, WIDTH)).astype(np.float32)
    ids = jnp.array([[0] * 4 + [1] * 5 + [PADDING] * 2])
    graph, weights = nnx.split(both)

    @jax.jit
    def run(weights, x):
        both, alone = nnx.merge(graph, weights), Context(index_BT=None)
        packed, kept = both(x, Context(index_BT=None, segment_ids_BT=ids), None)
        assert kept is None
        apart = [
            (both.forward(x[:, document], alone, None)[0], both.backward(x[:, document][:, ::-1], alone, None)[0])
            for document in DOCUMENTS
        ]
        return packed, apart

    packed, apart = run(weights, x)
    for document, (forward, backward) in zip(DOCUMENTS, apart, strict=True):
        np.testing.assert_allclose(packed[:, document], forward + backward[:, ::-1], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(forward) - np.asarray(backward)).max() > 1e-3


def test_parameters_and_operations():
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    names = ("forward", "backward")
    state = nnx.to_pure_dict(nnx.state(BothWays(mixer=GRU()).build(WIDTH, 0.0, "float32", make, NoPositions())))
    assert state.keys() == set(names)
    assert state["forward"].keys() == state["backward"].keys()
    assert np.abs(state["forward"]["input"] - state["backward"]["input"]).max() > 0
    assert BothWays(mixer=GRU()).cost(WIDTH, 7) == 2 * GRU().cost(WIDTH, 7)
