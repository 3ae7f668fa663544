import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.routing import Groups, SigmoidRouter, SoftmaxRouter, route


def chosen_and_weighed(option, logits, top_k, load_bias=None):
    bias = None if load_bias is None else jnp.asarray(load_bias, jnp.float32)
    routing = route(option, jnp.asarray(logits, jnp.float32)[None, None], top_k, bias)
    return np.asarray(routing.chosen_BTR)[0, 0], np.asarray(routing.weight_BTR)[0, 0]


SCORES = np.log([1.0, 5.0, 2.0, 8.0])  # shares of 16


def test_softmax_over_all_experts():
    chosen, weights = chosen_and_weighed(SoftmaxRouter(renormalize=False), SCORES, 2)
    np.testing.assert_array_equal(chosen, [3, 1])
    np.testing.assert_allclose(weights, [8 / 16, 5 / 16], rtol=1e-6)


def test_softmax_over_the_chosen():
    chosen, weights = chosen_and_weighed(SoftmaxRouter(scale=2.0), SCORES, 2)
    np.testing.assert_array_equal(chosen, [3, 1])
    np.testing.assert_allclose(weights, [2 * 8 / 13, 2 * 5 / 13], rtol=1e-6)


def test_sigmoid():
    sigmoid = np.array([1 / 2, 5 / 6, 2 / 3, 8 / 9])
    chosen, weights = chosen_and_weighed(SigmoidRouter(renormalize=False), SCORES, 3)
    np.testing.assert_array_equal(chosen, [3, 1, 2])
    np.testing.assert_allclose(weights, sigmoid[[3, 1, 2]], rtol=1e-6)
    _, weights = chosen_and_weighed(SigmoidRouter(scale=2.5), SCORES, 3)
    np.testing.assert_allclose(weights, 2.5 * sigmoid[[3, 1, 2]] / sigmoid[[3, 1, 2]].sum(), rtol=1e-6)


@pytest.mark.parametrize("router", [SoftmaxRouter(renormalize=False), SigmoidRouter(renormalize=False)])
def test_a_load_bias_chooses_and_does_not_weigh(router):
    _, all_weights = chosen_and_weighed(router, SCORES, 3)
    chosen, weights = chosen_and_weighed(router, SCORES, 2, load_bias=[0, 0, 1, 0])
    np.testing.assert_array_equal(chosen, [2, 3])
    np.testing.assert_allclose(weights, all_weights[[2, 0]], rtol=1e-6)


def test_groups_by_their_best_or_by_their_two_best():
    """The first of three groups has the best expert, the second the best pair, the third the second-best expert."""
    logits = np.log([[9.0, 1, 1], [6, 6, 1], [1, 1, 7]]).ravel()
    choose = lambda score, groups, top_k: set(  # noqa: E731
        chosen_and_weighed(SoftmaxRouter(groups=Groups(count=3, top_k=groups, score=score)), logits, top_k)[0].tolist()
    )
    assert choose("max", 1, 1) == {0}
    assert choose("max", 2, 2) == {0, 8}
    assert choose("top2_sum", 1, 2) == {3, 4}
    assert choose("top2_sum", 2, 3) == {0, 3, 4}


def test_experts_outside_the_top_groups_stay_out_even_when_biased_scores_are_negative():
    option = SoftmaxRouter(groups=Groups(count=2, top_k=1))
    chosen, _ = chosen_and_weighed(option, [0.0, 0.0, 0.0, 0.0], 2, load_bias=[-2.0, -2.0, -1.0, -9.0])
    np.testing.assert_array_equal(chosen, [2, 3])


def test_shares_sum_to_one_and_only_weights_have_a_gradient():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)
    bias = jnp.zeros(6)
    for option in (SoftmaxRouter(), SigmoidRouter(groups=Groups(count=2, top_k=1))):
        np.testing.assert_allclose(route(option, logits, 2).probabilities_BTE.sum(-1), 1, rtol=1e-6)
        by_bias = jax.grad(lambda b: route(option, logits, 2, b).weight_BTR[..., 0].sum())(bias)
        assert not by_bias.any()
        assert jax.grad(lambda x: route(option, x, 2).weight_BTR[..., 0].sum())(logits).any()
