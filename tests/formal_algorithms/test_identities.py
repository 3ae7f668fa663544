"""Algorithms 8, 9, 11, 12 and 15, held to the decoder and to identities; and the derivatives that training takes."""

import copy

import numpy as np
import pytest

from tests.formal_algorithms.parameters import Hides, drawn_encoder, drawn_encoder_decoder
from tests.formal_algorithms.training import (
    e_training,
    ed_inference,
    ed_training,
    gradient,
    masked_token_loss,
    next_token_loss,
)
from tests.formal_algorithms.transformers import (
    attention,
    causal,
    e_transformer,
    ed_transformer,
    gelu,
    layer_norm,
    multi_head_attention,
    relu,
    softmax,
)

SIZE = {"d_e": 4, "d_mlp": 6, "heads": 2, "vocabulary": 5, "longest": 6}
TEXT, SOURCE = [3, 1, 4, 0, 1], [2, 0, 3]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def encoder(rng):
    return drawn_encoder(rng, layers=2, **SIZE)


@pytest.fixture
def both(rng):
    return drawn_encoder_decoder(rng, layers=1, **SIZE)


def columns(function, X):
    return np.stack([function(e) for e in X.T], axis=1)


def post_norm_stream(x, theta, layers, names, activation, mask):
    """A stack of post-norm layers with attention to themselves and an MLP: what encoders and decoders have in common."""
    X = theta["W_e"][:, x] + theta["W_p"][:, : len(x)]
    for W in layers:
        first, second = names
        X = X + multi_head_attention(X, X, W["attention"], mask)
        X = columns(lambda e, W=W: layer_norm(e, W[f"gamma_{first}"], W[f"beta_{first}"]), X)
        mlp = W["mlp"]
        hidden = activation(mlp["W_in"] @ X + mlp["b_in"][:, None])
        X = X + mlp["W_out"] @ hidden + mlp["b_out"][:, None]
        X = columns(lambda e, W=W: layer_norm(e, W[f"gamma_{second}"], W[f"beta_{second}"]), X)
    return X


def test_an_encoder_with_a_causal_mask_is_a_decoder(encoder):
    """Column t is then a function of the tokens up to t alone, and equals that of the text cut there."""
    mask = np.triu(np.ones((len(TEXT), len(TEXT))))
    P = e_transformer(TEXT, encoder, mask)
    for t in range(len(TEXT)):
        alone = e_transformer(TEXT[: t + 1], encoder, mask[: t + 1, : t + 1])
        np.testing.assert_allclose(alone[:, t], P[:, t], rtol=1e-12)
    X = post_norm_stream(TEXT, encoder, encoder["layers"], (1, 2), gelu, mask)
    X = gelu(encoder["W_f"] @ X + encoder["b_f"][:, None])
    X = columns(lambda e: layer_norm(e, encoder["gamma"], encoder["beta"]), X)
    np.testing.assert_allclose(P, softmax(encoder["W_u"] @ X), rtol=1e-12)


def test_every_token_of_an_encoder_sees_all_others(encoder):
    P = e_transformer(TEXT, encoder)
    for t in range(len(TEXT)):
        changed = e_transformer([*TEXT[:t], 2, *TEXT[t + 1 :]], encoder)
        assert (np.abs(changed - P).max(axis=0) > 1e-6).all()


def test_an_encoder_without_positions_does_not_know_the_order(encoder):
    encoder["W_p"][:] = 0
    order = [2, 0, 4, 1, 3]
    shuffled = e_transformer([TEXT[i] for i in order], encoder)
    np.testing.assert_allclose(shuffled, e_transformer(TEXT, encoder)[:, order], rtol=1e-12)


def test_without_cross_attention_an_encoder_decoder_is_a_decoder(both):
    """A norm of a normalised vector leaves it as it is, where gamma is 1 and beta 0."""
    for W in both["decoder"]:
        W["cross_attention"]["W_o"][:] = 0
        W["cross_attention"]["b_o"][:] = 0
        for name in ("3", "4"):
            W[f"gamma_{name}"][:], W[f"beta_{name}"][:] = 1, 0
    P = ed_transformer(SOURCE, TEXT, both)
    X = post_norm_stream(TEXT, both, both["decoder"], (3, 5), relu, np.triu(np.ones((len(TEXT), len(TEXT)))))
    np.testing.assert_allclose(P, softmax(both["W_u"] @ X), rtol=1e-12)
    np.testing.assert_array_equal(P, ed_transformer([4, 4], TEXT, both))


def test_a_decoder_sees_all_of_the_source_and_nothing_of_the_future(both):
    P = ed_transformer(SOURCE, TEXT, both)
    for t in range(len(SOURCE)):
        changed = ed_transformer([*SOURCE[:t], 1, *SOURCE[t + 1 :]], TEXT, both)
        assert (np.abs(changed - P).max(axis=0) > 1e-6).all()
    for t in range(len(TEXT)):
        changed = np.abs(ed_transformer(SOURCE, [*TEXT[:t], 2, *TEXT[t + 1 :]], both) - P).max(axis=0)
        assert (changed[:t] == 0).all()
        assert (changed[t:] > 1e-6).all()


def test_attention_to_one_token_is_its_value(both):
    W = both["decoder"][0]["cross_attention"]["heads"][0]
    X, Z = both["W_e"], both["W_p"][:, :1]
    expected = W["W_v"] @ Z + W["b_v"][:, None]
    everything = np.ones((1, X.shape[1]))
    np.testing.assert_allclose(attention(X, Z, W, everything), np.tile(expected, X.shape[1]), rtol=1e-14)
    first = attention(X, X, W, causal(X))[:, :1]
    np.testing.assert_allclose(first, attention(X[:, :1], X[:, :1], W, np.ones((1, 1))), rtol=1e-14)


def test_derivatives_are_those_of_differences(both):
    """Along one direction in the space of all parameters."""

    def loss(theta):
        return next_token_loss(ed_transformer(SOURCE, TEXT, theta), TEXT)

    slopes = gradient(loss, both)
    rng = np.random.default_rng(1)
    values = []
    for sign in (1, -1):
        moved, rise = copy.deepcopy(both), 0.0
        draw = copy.deepcopy(rng)
        for w, slope in zip(leaves(moved), leaves(slopes), strict=True):
            direction = draw.standard_normal(w.shape)
            rise += (slope * direction).sum()
            w += sign * 1e-5 * direction
        values.append(loss(moved))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(rise, rel=1e-5)


def leaves(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    return [w for branch in (tree.values() if isinstance(tree, dict) else tree) for w in leaves(branch)]


def test_training_on_pairs_lowers_their_loss(both):
    def loss(theta):
        return next_token_loss(ed_transformer(SOURCE, TEXT, theta), TEXT)

    trained = ed_training([(SOURCE, TEXT)], both, eta=0.02)
    assert loss(trained) < 0.9 * loss(both)


def test_training_on_masked_tokens_lowers_their_loss(encoder):
    mask_token, masked = 4, np.array([False, True, False, True, True])
    before = masked_token_loss(TEXT, masked, mask_token, encoder)
    trained = e_training([TEXT], encoder, 0.02, 0.6, mask_token, Hides(masked))
    assert masked_token_loss(TEXT, masked, mask_token, trained) < 0.95 * before


def test_a_masked_token_does_not_see_itself(encoder):
    """The loss of a masked token depends on the text around it, not on the token that it hides."""
    masked = np.array([False, False, True, False, False])
    P = e_transformer([3, 1, 2, 0, 1], encoder)  # 2 is the mask
    for hidden in (0, 4):
        loss = masked_token_loss([3, 1, hidden, 0, 1], masked, 2, encoder)
        assert loss == pytest.approx(-np.log(P[hidden, 2]), rel=1e-12)


def test_training_without_masked_tokens_moves_nothing(encoder):
    trained = e_training([TEXT], encoder, 0.02, 0.0, 4, np.random.default_rng(0))
    for new, old in zip(leaves(trained), leaves(encoder), strict=True):
        np.testing.assert_array_equal(new, old)


def test_inference_writes_from_the_first_mark_to_the_last(both):
    answer = ed_inference(SOURCE, both, bos_token=0, eos_token=4, tau=0, longest=6)
    assert answer[0] == 0
    assert 4 not in answer[1:-1]
    assert answer[-1] == 4 or len(answer) == 6
    for t in range(1, len(answer)):
        assert answer[t] == np.argmax(ed_transformer(SOURCE, answer[:t], both)[:, -1])
    ends = answer[1]
    assert ed_inference(SOURCE, both, bos_token=0, eos_token=ends, tau=0) == [0, ends]
