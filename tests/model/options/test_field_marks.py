import dataclasses
from fractions import Fraction

import pytest

from model.config import ModelConfig, model_differences
from model.errors import UserError
from model.options.field_marks import EXECUTION_ONLY, TRAINING_ONLY, exclude_paths, marked_fields, resized
from train import experiment as experiments
from train.checkpoints.store import check_same_model
from train.config_file import all_option_classes
from train.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    speed: int = dataclasses.field(default=1, metadata=EXECUTION_ONLY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(),)
    drawn: int = dataclasses.field(default=0, metadata=TRAINING_ONLY)


def test_marks_are_found_wherever_they_are_declared():
    assert list(marked_fields(Outer(), "execution")) == ["inner.speed", "many.0.speed"]
    assert list(marked_fields(Outer(), "training", path="root")) == ["root.drawn"]
    assert list(marked_fields(Outer(), "execution", "training")) == ["drawn", "inner.speed", "many.0.speed"]


def test_lines_of_marked_fields_and_of_those_below_them_are_left_out():
    lines = ["mesh: 1 -> 2", "mesh.data: 1 -> 2", "meshes: 1 -> 2", "model.width: 1 -> 2"]
    assert exclude_paths(lines, ["mesh"]) == ["meshes: 1 -> 2", "model.width: 1 -> 2"]


def test_a_wider_model_has_more_of_all_that_is_in_proportion(tiny_experiment):
    """Heads of the same width or wider heads; a single key head, experts and the vocabulary stay."""
    given = "num_heads=4, num_kv_heads=1, head_dim=8"
    experts = "Experts(num_experts=4, top_k=1, expert=Gated(width=24), shared=Shared(ffn=MLP(width=40)))"
    layer = "Except(layers='1', mixer=Latent(num_heads=2, kv_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=4))"
    model = tiny_experiment(
        model__mixer=f"GroupedQuery({given})", model__ffn=experts, model__exceptions=f"({layer},)"
    ).model
    more, wider = (resized(model, Fraction(3, 2), one) for one in ("heads", "head_dim"))
    for one, heads, head_dim in ((more, 1.5, 1), (wider, 1, 1.5)):
        latent = one.exceptions[0].mixer
        assert (one.width, one.vocab_size, one.ffn.num_experts) == (48, 257, 4)
        assert (one.ffn.expert.width, one.ffn.shared.ffn.width) == (36, 60)
        assert (one.mixer.num_heads, one.mixer.num_kv_heads, one.mixer.head_dim) == (4 * heads, 1, 8 * head_dim)
        assert (latent.num_heads, latent.kv_rank, latent.head_dim) == (2 * heads, 9, 4 * head_dim)
        assert (latent.rotary_head_dim, latent.value_head_dim) == (2 * head_dim, 4 * head_dim)
    with pytest.raises(UserError, match="GroupedQuery.num_heads=4 cannot be 1.125 times as large: that is 4.5; choose"):
        resized(model, Fraction(9, 8))
    with pytest.raises(UserError, match="num_heads=4 cannot be 0.125 times as large"):
        resized(model, Fraction(1, 8))


def test_the_fields_of_an_experiment_are_those_that_may_differ(tiny_experiment):
    """What three lists said before: of a run that goes on, of a checkpoint, of another model's parameters."""
    experiment = tiny_experiment()
    execution = {"mesh", "sharding", "checkpoints", "logging", "model.scan_layers", "model.remat", "data.prefetch"}
    execution |= {"model.kernels"}
    execution |= {"evaluations", "statistics", "samples", "spikes"}
    assert set(marked_fields(experiment, "execution")) == execution
    assert set(marked_fields(experiment, "training")) == {"model.dropout", "model.initialization", "model.precision"}


def test_a_mark_is_all_that_the_three_places_need(tiny_experiment, tmp_path, monkeypatch):
    """A field is refused by each of them, and with the mark by none."""
    one, other = tiny_experiment(), tiny_experiment(model__final_logit_softcap=20.0)
    experiments.save(one, tmp_path)
    note = {"experiment": experiments.to_json(one)}
    with pytest.raises(UserError, match="model.final_logit_softcap: None -> 20"):
        experiments.check_same_experiment(other, tmp_path)
    with pytest.raises(UserError, match="model.final_logit_softcap: None -> 20"):
        check_same_model(note, other, tmp_path)
    assert model_differences(one.model, other.model)
    field = next(field for field in dataclasses.fields(ModelConfig) if field.name == "final_logit_softcap")
    monkeypatch.setattr(field, "metadata", EXECUTION_ONLY)
    experiments.check_same_experiment(other, tmp_path)
    check_same_model(note, other, tmp_path)
    assert not model_differences(one.model, other.model)


def test_no_option_has_a_mark_that_nobody_reads():
    known = {"execution", "training", "parts", None}
    classes = all_option_classes(Experiment).values()
    assert {field.metadata.get("changes") for cls in classes for field in dataclasses.fields(cls)} == known
