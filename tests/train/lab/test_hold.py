"""Quantities that are held equal: what is changed, and how near it comes."""

import pytest

from model.cost import count_parameters, training_flops
from model.errors import UserError
from train.config_file import with_overrides
from train.lab.ablation import Hold
from train.lab.hold import flops_of, match_base, tokens_of


def matched(base, variant, hold, *seconds):
    """The variant after its change, and the sentence."""
    match = match_base(base, variant, hold, *seconds)
    return with_overrides(variant, match.settings), match


def test_tokens(tiny_experiment):
    base, variant = (
        tiny_experiment(training__num_steps=300),
        tiny_experiment(training__num_steps=300, data__batch_size=12),
    )
    found, match = matched(base, variant, Hold(equal="tokens"))
    assert match.settings == ("training.num_steps=200", "schedule.warmup_steps=3")
    assert tokens_of(found) == tokens_of(base) == 300 * 8 * 16


@pytest.mark.parametrize("change", [{"model__num_layers": 3}, {"data__sequence_length": 32}])
def test_flops(change, tiny_experiment):
    base = tiny_experiment(training__num_steps=300)
    found, _ = matched(base, tiny_experiment(training__num_steps=300, **change), Hold(equal="flops"))
    of_all = [
        one.training.num_steps * one.data.batch_size * training_flops(one.model, one.data.sequence_length)
        for one in (found, base)
    ]
    assert of_all[0] == pytest.approx(of_all[1], rel=0.01)
    assert flops_of(base) == pytest.approx(of_all[1])


@pytest.mark.parametrize(
    ("change", "by"), [({"model__mixer__num_kv_heads": None}, "ffn"), ({"model__num_layers": 3}, "auto")]
)
def test_parameters(change, by, tiny_experiment):
    base, variant = tiny_experiment(model__ffn__width=128), tiny_experiment(model__ffn__width=128, **change)
    found, match = matched(base, variant, Hold(equal="params", by=by))
    assert count_parameters(found.model).total == pytest.approx(count_parameters(base.model).total, rel=0.01)
    assert f"-> {count_parameters(found.model).total:,} parameters" in match.note
    assert found.model.width // found.model.mixer.num_heads % 2 == 0


def test_active_parameters_of_experts(tiny_experiment):
    base = tiny_experiment()
    experts = "Experts(num_experts=4, top_k=2, expert=Gated(width=64))"
    found, _ = matched(base, tiny_experiment(model__ffn=experts), Hold(equal="active_params", by="ffn"))
    counts = count_parameters(found.model)
    assert counts.active == pytest.approx(count_parameters(base.model).active, rel=0.01)
    assert counts.total > 1.2 * counts.active


def test_time(tiny_experiment):
    base = tiny_experiment(training__num_steps=300)
    found, match = matched(base, tiny_experiment(training__num_steps=300), Hold(equal="time"), 0.5, 0.75)
    assert found.training.num_steps == 200
    assert "2m 30s of steps" in match.note


def test_a_match_needs_no_change(tiny_experiment):
    match = match_base(tiny_experiment(), tiny_experiment(model__position="ALiBi()"), Hold(equal="params"))
    assert match.settings == ()
    assert "nothing changed" in match.note


def test_the_closest_is_named_when_nothing_fits(tiny_experiment):
    with pytest.raises(UserError) as caught:
        match_base(tiny_experiment(), tiny_experiment(model__width=48), Hold(equal="params", by="layers"))
    message = str(caught.value)
    assert "no value of layers brings it within 1% of the base, which has" in message
    assert "the closest is model.num_layers=1 with" in message
    assert "another `by`" in message
    with pytest.raises(UserError, match=r"the closest is training.num_steps=\d+, "):
        match_base(tiny_experiment(), tiny_experiment(model__num_layers=3), Hold(equal="flops"))


def test_a_batch_ramp_counts_the_rows_that_are_read(tiny_experiment):
    ramp = {"data__ramp": "Ramp(start=2, double_every=20)"}
    base = tiny_experiment(training__num_steps=100)
    found, _ = matched(base, tiny_experiment(training__num_steps=100, **ramp), Hold(equal="tokens"))
    read = sum(found.data.batch_size_at(n) for n in range(found.training.num_steps))
    assert tokens_of(found) == read * 16
    assert read == pytest.approx(100 * 8, rel=0.01)
    assert found.training.num_steps > 100
    with pytest.raises(UserError, match=r"measures one step, and data\.ramp makes steps differ"):
        match_base(base, tiny_experiment(**ramp), Hold(equal="time"), 0.5, 0.5)
