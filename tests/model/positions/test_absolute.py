import math

import numpy as np
import pytest

from model.positions.absolute import Learned, NoPositions, Sinusoidal, sinusoid
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.transformer import abstract_params


def test_sinusoid_by_the_equation_of_the_paper():
    positions = np.array([[0, 1, 5, 100], [3, 2, 1, 0]])
    got = sinusoid(Sinusoidal(theta=500.0), positions, 6)
    for b, t in np.ndindex(positions.shape):
        for i in range(3):
            angle = positions[b, t] / 500 ** (2 * i / 6)
            assert float(got[b, t, 2 * i]) == pytest.approx(math.sin(angle), abs=2e-5)
            assert float(got[b, t, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=2e-5)


def test_what_is_added_to_the_embedding(small, drawn, run):
    positions = np.array([[0, 1, 2, 3], [5, 0, 0, 15]], np.int32)
    tokens = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32)

    def added(option):
        config = small(position=option, num_layers=1)
        params = drawn(config)
        taps = run(config, params, tokens, positions_BT=positions, taps=["embedding"])[2]
        return np.asarray(taps["embedding"]) - np.asarray(params["embedding"]["table"])[tokens], params

    learned, params = added(Learned())
    np.testing.assert_allclose(learned, np.asarray(params["position"]["table"])[positions], atol=1e-6)
    shifted, params = added(Learned(offset=2))
    np.testing.assert_allclose(shifted, np.asarray(params["position"]["table"])[positions + 2], atol=1e-6)
    sinusoidal, _ = added(Sinusoidal(theta=50.0))
    np.testing.assert_allclose(sinusoidal, sinusoid(Sinusoidal(theta=50.0), positions, 16), atol=1e-6)
    for option in (NoPositions(), Rotary(), ALiBi()):
        assert not added(option)[0].any()


def test_only_learned_positions_have_parameters(small):
    assert abstract_params(small(position=Learned()))["position"]["table"].shape == (16, 16)
    assert abstract_params(small(position=Learned(offset=2)))["position"]["table"].shape == (18, 16)
    for option in (NoPositions(), Sinusoidal(), Rotary(), ALiBi()):
        assert not abstract_params(small(position=option)).get("position")


def test_without_positions_earlier_tokens_are_a_set(small, drawn, run):
    tokens = np.array([[3, 1, 4, 5], [4, 3, 1, 5]], np.int32)  # the same three tokens before the last, in another order
    for option in (NoPositions(), Learned(), Sinusoidal(), Rotary(), ALiBi()):
        config = small(position=option, num_layers=1)
        last = np.asarray(run(config, drawn(config), tokens)[0])[:, -1]
        assert bool(np.abs(last[0] - last[1]).max() < 1e-5) is (option == NoPositions()), option
