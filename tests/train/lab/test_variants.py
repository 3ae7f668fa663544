"""Variants as settings on a base, and the mistakes that a file can have."""

import pytest

from model.errors import UserError
from model.feedforward.mlp import Gated
from model.options.json import to_json
from model.positions.absolute import Learned
from model.positions.rotary import Rotary
from model.positions.scaling import YaRN
from train.config_file import from_file, with_overrides
from train.lab.ablation import Ablation, Hold
from train.lab.variants import ablation_from_file, check_metrics, common_settings, hold_equal, resolve, seeded, texts_of

FILE = """from {config} import experiment
from train.lab.ablation import Ablation, Hold

ablation = Ablation(base=experiment, variants={variants!r})
"""


@pytest.fixture
def ablation(tiny_experiment):
    """A function that makes an ablation of the tiny experiment."""
    return lambda variants, **fields: Ablation(base=tiny_experiment(), variants=variants, **fields)


def test_the_forms_of_a_change(ablation):
    yarn = Rotary(theta=5e5, scaling=YaRN(factor=4.0, original_length=16))
    found = resolve(
        ablation(
            {
                "text": "model.width=64",
                "texts": ("model.width=64", "model.ffn.width=96"),
                "values": {
                    "model.position": yarn,
                    "data.tokenizer.end_of_document": False,
                    "samples.prompts": ("a b",),
                },
                "words": {"data.path": "elsewhere.txt"},
            }
        )
    )
    assert list(found) == ["base", "text", "texts", "values", "words"]
    assert found["texts"].experiment.model.ffn.width == 96
    assert found["values"].experiment.model.position == yarn
    assert found["values"].experiment.data.tokenizer.end_of_document is False
    assert found["values"].experiment.samples.prompts == ("a b",)
    assert found["words"].experiment.data.path == "elsewhere.txt"
    # The settings alone give the same experiment: this is what the process of a run gets.
    for variant in found.values():
        again = with_overrides(found["base"].experiment, variant.settings_of_run(0))
        assert to_json(again) == to_json(variant.experiment)


def test_a_seed_sets_parameters_data_and_the_word(ablation):
    assert seeded(("data.path=text{seed}.txt",), 7) == ("data.path=text7.txt", "training.seed=7", "data.seed=7")
    variant = resolve(ablation({"own": "data.path=text{seed}.txt"}, seeds=(4, 5)))["own"]
    assert (variant.experiment.data.path, variant.experiment.data.seed, variant.experiment.training.seed) == (
        "text4.txt",
        4,
        4,
    )


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"a": "model.wdth=64"}, "variant a: model.wdth: ModelConfig has no field 'wdth'; did you mean 'width'?"),
        ({"a": "model.width=true"}, "variant a: model.width: expected int"),
        ({"a": "model.width=63"}, "variant a: this config cannot be built"),
        ({"a": 7}, "variant a: expected a text path=value, several of them, or values by path, got 7"),
        ({"a": "model.width=64", "b": {"model.width": 64}}, "variants a and b are the same experiment"),
        ({"a": "model.width=32"}, "variants base and a are the same experiment"),
    ],
)
def test_mistakes(variants, words, ablation):
    with pytest.raises(UserError) as caught:
        resolve(ablation(variants))
    assert words in str(caught.value)


def test_a_quantity_is_held(ablation):
    asked = ablation({"deep": "model.num_layers=3"}, hold=Hold(equal="params", by="ffn"))
    found = hold_equal(asked, resolve(asked))
    assert found["base"].held == ()
    assert found["deep"].held[0].startswith("model.ffn.width=")
    assert found["deep"].note.startswith(", ".join(found["deep"].held))
    assert resolve(asked)["deep"].experiment != found["deep"].experiment


def test_the_change_of_a_variant_stays(ablation):
    asked = ablation({"narrow": "model.ffn.width=32"}, hold=Hold(equal="params", tolerance=0.05))
    held = hold_equal(asked, resolve(asked))["narrow"].held
    assert held[0].startswith("model.width=")
    assert not any(text.startswith("model.ffn.width") for text in held)
    for change, hold in (("training.num_steps=40", "tokens"), ("model.width=64", "params")):
        asked = ablation({"a": change}, hold=hold)
        with pytest.raises(
            UserError, match=rf"variant a: it sets {change.partition('=')[0]} itself, which a change of"
        ):
            hold_equal(asked, resolve(asked))


def test_variants_that_become_equal_when_held(ablation):
    asked = ablation({"a": {"model.ffn": Gated(width=96)}}, hold=Hold(equal="params", by="ffn"))
    with pytest.raises(UserError, match="variants base and a are the same experiment"):
        hold_equal(asked, resolve(asked))


def test_a_file(tmp_path, tiny_experiment, write_config, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write_config(tiny_experiment(), tmp_path / "sweep_base.py")
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(config="sweep_base", variants={"learned": "model.position=Learned()"}))
    found = ablation_from_file(str(path), ("training.num_steps=30",))
    assert found.base.training.num_steps == 30
    assert resolve(found)["learned"].experiment.model.position == Learned()
    assert from_file(str(path)) == tiny_experiment()  # for launch.train the file is the config of its base
    with pytest.raises(UserError, match=r"sweep_base.py defines no `ablation = Ablation\(...\)`, got an Experiment"):
        ablation_from_file(str(tmp_path / "sweep_base.py"))


def test_seeds_belong_to_the_sweep():
    assert common_settings(("model.width=64",)) == ("model.width=64",)
    with pytest.raises(UserError, match="a sweep sets the seeds of its runs"):
        common_settings(("data.seed=1",))


def test_texts_of_a_mapping_keep_paths_as_typed():
    assert texts_of({"data.path": "a/b.txt", "model.width": 64}) == ("data.path=a/b.txt", "model.width=64")


FAR = (
    "evaluations=(NamedEvaluation(name='far', sequence_length=32), InductionEvaluation(name='heads', late=9, early=2))"
)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": "bits_per_byte", "claim": "difference <= -0.1, p < 0.05"}, None),
        ({"metric": "far/loss", "claim": "heads/any_number <= 1, p < 0.05"}, None),
        ({"metric": "los"}, "metric: an evaluation has no number 'los'; did you mean 'loss'?"),
        ({"metric": "far/perplexty"}, "metric: an evaluation has no number 'perplexty'; did you mean 'perplexity'?"),
        ({"metric": "fat/loss"}, "metric: variant base has no evaluation 'fat' for 'fat/loss'; did you mean 'far'?"),
        ({"claim": "accuracy >= 1, p < 0.05"}, "claim: an evaluation has no number 'accuracy'; known: bits_per_byte"),
    ],
)
def test_a_metric_that_no_run_would_have(fields, words, tiny_experiment):
    base = with_overrides(tiny_experiment(), [FAR])
    option = Ablation(base=base, variants={"wide": "model.ffn.width=96"}, **fields)
    if words is None:
        check_metrics(option, resolve(option))
        return
    with pytest.raises(UserError) as caught:
        check_metrics(option, resolve(option))
    assert words in str(caught.value)
