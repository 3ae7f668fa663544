"""The loss of a reward model and its gradient against the equations, in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.options.tree import check
from model.transformer import forward
from model.vocabulary.score_head import ScoreHead
from train.objectives.reward import RewardModel

CHOSEN, REJECTED, MARGIN = np.random.default_rng(0).normal(size=(3, 5))
MARGIN = np.abs(MARGIN)


@pytest.mark.parametrize("centring", [0.0, 0.05])
@pytest.mark.parametrize("margins", [False, True])
def test_losses_and_slopes_are_those_of_the_equation(margins, centring):
    option = RewardModel(margins=margins, centring=centring)
    m = MARGIN if margins else np.zeros(5)

    def equation(chosen, rejected):
        return -np.log(1 / (1 + np.exp(-(chosen - rejected - m)))) + centring * (chosen + rejected) ** 2

    single = [jnp.asarray(x, jnp.float32) for x in (CHOSEN, REJECTED, m)]
    np.testing.assert_allclose(option.of_scores(*single), equation(CHOSEN, REJECTED), rtol=2e-6)
    slopes = jax.grad(lambda c, r: option.of_scores(c, r, single[2]).sum(), argnums=(0, 1))(*single[:2])
    wrong = 1 / (1 + np.exp(CHOSEN - REJECTED - m))  # sigmoid(-(r_w - r_l - m))
    pull = 2 * centring * (CHOSEN + REJECTED)
    np.testing.assert_allclose(slopes[0], -wrong + pull, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[1], wrong + pull, rtol=1e-5, atol=1e-7)


def test_the_score_is_that_of_the_last_token_of_each_answer(tiny_experiment, random_pairs):
    """The end of an answer, not the padding after it; checked against the stream of the whole model."""
    model = tiny_experiment(model__score_head=ScoreHead(), model__num_layers=1, objective=RewardModel(margins=True),
                            data=random_pairs.data, samples__prompts=()).model  # fmt: skip
    params, batch = random_pairs.params(model), random_pairs.batch()
    loss = lambda p: RewardModel(margins=True).loss(model, p, batch, dropout_key=None, layout=ONE_DEVICE)  # noqa: E731
    stream_of = jax.jit(lambda p, ids: forward(model, p, ids, taps=("final_norm",)).taps["final_norm"])
    (total, sums), found = jax.jit(loss)(params), []
    head = np.asarray(params["score_head"]["weight"], np.float64)[:, 0]
    for text in ("chosen", "rejected"):
        tapped = stream_of(params, batch[f"{text}_tokens"])
        for stream, weights in zip(np.asarray(tapped, np.float64).reshape(8, 8, -1), batch[f"{text}_weights"]):
            found.append(float(stream[int(np.flatnonzero(weights)[-1]) + 1] @ head))
    chosen, rejected = np.array(found).reshape(2, -1)
    expected = -np.log(1 / (1 + np.exp(-(chosen - rejected - batch["margin"][:, 0]))))
    assert float(total) == pytest.approx(expected.sum(), rel=1e-4)
    assert float(sums.numbers["accuracy"]) == (chosen > rejected).sum()
    assert float(sums.numbers["margin"]) == pytest.approx((chosen - rejected).sum(), rel=1e-3, abs=1e-4)


def test_what_a_reward_model_needs(tiny_experiment, random_pairs):
    changes = {"data": random_pairs.data, "samples__prompts": ()}
    with pytest.raises(
        UserError, match=r"model.score_head: RewardModel reads the scores of a head; set it to ScoreHead"
    ):
        tiny_experiment(objective=RewardModel(), **changes)
    with pytest.raises(UserError, match="model.score_head: NextToken reads no scores"):
        tiny_experiment(model__score_head=ScoreHead())
    with pytest.raises(UserError, match="objective: RewardModel reads 'chosen_tokens', and Data has tokens"):
        tiny_experiment(objective=RewardModel(), model__score_head=ScoreHead())
    with pytest.raises(UserError, match=r"objective.centring: must be 0 or more, got -1"):
        check(RewardModel(centring=-1.0), "objective")
