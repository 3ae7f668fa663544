"""The rules for an ablation, each refused by name."""

import dataclasses

import pytest

from model.errors import UserError
from train.lab.ablation import Ablation, Hold, RateSearch, check_ablation

VARIANTS = {"wide": "model.width=64"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base": None}, "base: expected an Experiment, got NoneType"),
        ({"variants": {}}, "expected at least one named variant"),
        ({"variants": {"a/b": "model.width=64"}}, "'a/b' is no name"),
        ({"variants": {"base": "model.width=64"}}, "'base' is the name of the base"),
        ({"seeds": ()}, "seeds: expected whole numbers"),
        ({"seeds": (1, 1)}, "a seed is given twice"),
        ({"seeds": (1,)}, "one seed gives no verdict, because it does not show the noise"),
        ({"seeds": (1,), "claim": "loss <= 3, p < 0.01"}, "one seed cannot support claim='loss <= 3, p < 0.01'"),
        ({"alpha": 1.5}, "alpha: expected a rate between 0 and 1"),
        ({"metric": "a b"}, "metric: expected a name such as loss"),
        ({"claim": "better"}, "claim: "),
        ({"hold": "weight"}, "hold: expected tokens, flops, params, active_params, time or None, got 'weight'"),
        ({"hold": Hold(equal="params", by="steps")}, "the number of steps changes no params"),
        ({"hold": Hold(equal="tokens", by="width")}, "tokens are held by steps"),
        ({"hold": Hold(equal="params", tolerance=0)}, "hold.tolerance: expected a share"),
        ({"search": RateSearch(factors=(1.0,))}, "search.factors: expected at least two"),
        ({"search": RateSearch(lengths=(0.5, 0.25))}, "search.lengths: expected increasing"),
        ({"search": RateSearch(keep=1)}, "search.keep: expected a share"),
        ({"search": RateSearch(seed=2)}, "search.seed: 2 is one of the seeds that are compared"),
    ],
)
def test_mistakes(fields, words, tiny_experiment):
    with pytest.raises(UserError, match="this ablation cannot be run") as caught:
        check_ablation(Ablation(**({"base": tiny_experiment(), "variants": VARIANTS} | fields)))
    assert words in str(caught.value)


def test_all_mistakes_are_listed(tiny_experiment):
    with pytest.raises(UserError, match="this ablation has 2 problems"):
        check_ablation(Ablation(base=tiny_experiment(), variants=VARIANTS, seeds=(), alpha=0))


def test_one_seed_without_a_verdict_is_a_table(tiny_experiment):
    check_ablation(Ablation(base=tiny_experiment(), variants=VARIANTS, seeds=(3,), alpha=None))


def test_the_part_that_is_changed():
    parts = {equal: Hold(equal=equal).knob for equal in ("tokens", "flops", "params", "active_params", "time")}
    assert parts == {"tokens": "steps", "flops": "steps", "params": "width", "active_params": "width", "time": "steps"}
    assert Hold(equal="flops", by="layers").knob == "layers"


def test_hold_as_a_word(tiny_experiment):
    ablation = Ablation(base=tiny_experiment(), variants=VARIANTS, hold="flops")
    assert ablation.held == Hold(equal="flops")
    assert dataclasses.replace(ablation, hold=None).held is None
