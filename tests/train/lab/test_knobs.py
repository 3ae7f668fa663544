"""Sizes that are found, against a look at all of them."""

import pytest

from model.cost import count_parameters
from model.errors import UserError
from model.recurrent.lstm import LSTM
from train.config_file import with_overrides
from train.lab.knobs import ffn_knob, layer_knob, mixer_knob, nearest, solve, step_knob, width_knobs
from train.schedules import WarmupStableDecay


def parameters(experiment):
    return count_parameters(experiment.model).total


@pytest.mark.parametrize(
    ("make", "share"), [(lambda e: ffn_knob(e, 8), 1.3), (layer_knob, 0.9), (lambda e: width_knobs(e)[1], 1.3)]
)
def test_the_nearest_of_all_sizes(make, share, tiny_experiment):
    experiment = tiny_experiment()
    knob, target, counted = make(experiment), share * parameters(experiment), []
    found = nearest(experiment, knob, lambda e: counted.append(e) or parameters(e), target)
    every = [parameters(with_overrides(experiment, knob.settings(size))) for size in knob.sizes[:16]]
    assert every[0] < target < every[-1]
    assert abs(found.quantity - target) == min(abs(one - target) for one in every)
    assert len(counted) <= 10


def test_a_target_out_of_reach_gives_the_last_size(tiny_experiment):
    experiment = tiny_experiment()
    assert nearest(experiment, layer_knob(experiment), parameters, 1).settings == ("model.num_layers=1",)
    assert nearest(experiment, layer_knob(experiment), parameters, 1e9).settings == ("model.num_layers=16",)


def test_sizes_with_problems_are_left_out(tiny_experiment):
    experiment = tiny_experiment(model__exceptions="(Except(layers='3', position=NoPositions()),)", model__num_layers=4)
    assert nearest(experiment, layer_knob(experiment), parameters, 1).settings == ("model.num_layers=4",)


def test_steps_take_the_phases_of_the_schedule_along(tiny_experiment):
    schedule = WarmupStableDecay(peak=1e-2, warmup_steps=4, decay_steps=8)
    knob = step_knob(tiny_experiment(schedule=schedule))
    assert knob.settings(10) == ("training.num_steps=10", "schedule.warmup_steps=2", "schedule.decay_steps=4")
    assert knob.settings(1) == ("training.num_steps=1", "schedule.warmup_steps=0", "schedule.decay_steps=1")


def test_wider_models_keep_the_width_of_heads_or_their_number(tiny_experiment):
    more, wider = width_knobs(tiny_experiment())
    assert more.settings(64) == (
        "model.width=64",
        "model.ffn.width=128",
        "model.mixer.num_heads=8",
        "model.mixer.num_kv_heads=4",
    )
    assert more.sizes[:3] == range(8, 32, 8)
    assert wider.settings(48) == ("model.width=48", "model.ffn.width=96")
    for knob in (more, wider):
        for size in (24, 40, 64):
            with_overrides(tiny_experiment(), knob.settings(size))


def test_a_head_width_that_is_given_stays(tiny_experiment):
    (only,) = width_knobs(tiny_experiment(model__mixer__head_dim=16))
    assert only.settings(36) == ("model.width=36", "model.ffn.width=72")


def test_units_of_a_recurrent_layer(tiny_experiment):
    experiment = tiny_experiment(model__mixer=LSTM(), model__position="NoPositions()")
    target = 1.2 * parameters(experiment)
    found = solve(experiment, "mixer", parameters, target)
    (setting,) = found.settings
    assert setting.startswith("model.mixer.head_dim=")
    assert found.quantity == pytest.approx(target, rel=0.01)


def test_a_width_is_made_up_for_by_the_feed_forward(tiny_experiment):
    experiment = tiny_experiment()
    target = 1.11 * parameters(experiment)
    found = solve(experiment, "width", parameters, target)
    assert found.quantity == pytest.approx(target, rel=0.005)
    assert {"model.width", "model.ffn.width"} <= {text.partition("=")[0] for text in found.settings}
    assert found.experiment.model.ffn.width % 8  # a multiple would not do
    assert parameters(with_overrides(experiment, found.settings)) == found.quantity


def test_models_without_the_part(tiny_experiment):
    bare = tiny_experiment(model__ffn=None)
    with pytest.raises(UserError, match="no feed-forward whose width"):
        ffn_knob(bare)
    with pytest.raises(UserError, match="no mixer with heads"):
        mixer_knob(tiny_experiment(model__mixer=None, model__position="Learned()"))
