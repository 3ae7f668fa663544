"""Published families against the numbers that `transformers` computed for small models (tests/fixtures/families)."""

import json
import pathlib

import numpy as np
import pytest

from model.errors import UserError
from model.families import FAMILIES, family_named, model_config, published_model
from model.families.multimodal import MULTIMODAL
from tests.parity import ours
from tests.parity.shapes import PROMPTS
from tests.tiers import first_of_each, representatives
from train.conversion.language_model import LanguageModelFolder

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"
CASES = sorted(FIXTURES.glob("*/*"), key=str)


def name_of(folder):
    return str(folder.relative_to(FIXTURES))


def read(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("folder", first_of_each(lambda folder: folder.parent, CASES), ids=name_of)
def test_logits_and_weights(folder):
    """Logits of whole and of packed rows agree; weights, written back, equal the weights that were read."""
    family, config, params = ours.load(folder)
    expected = np.load(folder / "expected.npz")
    bound = 1e-4 * expected["logits"].std()
    logits = ours.logits_of(config, params, *ours.one_document_rows(expected["tokens"]))
    assert np.abs(logits - expected["logits"]).max() < bound
    halves = np.concatenate([expected["halves"], expected["halves"][::-1]], axis=1)
    assert np.abs(ours.logits_of(config, params, *ours.packed_rows(expected["tokens"])) - halves).max() < bound
    tensors = ours.tensors_of(family, config, params)
    for name, x in ours.arrays_of(LanguageModelFolder(folder)).items():
        if name in tensors:
            np.testing.assert_array_equal(tensors[name], x.astype(np.float32), err_msg=name)


SCALED_BY_LENGTH = [folder for folder in CASES if model_config(read(folder)).reads_lengths]


@pytest.mark.parametrize("folder", representatives(SCALED_BY_LENGTH, SCALED_BY_LENGTH[0]), ids=name_of)
def test_greedy_texts_past_the_original_length(folder):
    """The `generate` of `transformers`: two texts that pass the original length of 16 at different steps."""
    _, config, params = ours.load(folder)
    expected = np.load(folder / "expected.npz")
    prompts = [row[:length].tolist() for row, length in zip(expected["tokens"], PROMPTS, strict=True)]
    assert ours.greedy(config, params, prompts, expected["greedy"].shape[1]) == expected["greedy"].tolist()


def test_the_families_with_scaling_by_length_are_recorded():
    assert {folder.parent.name for folder in SCALED_BY_LENGTH} == {"llama", "phi3"}


# Logits are compared for all families and fix the derivatives; these families together have the mechanisms of all.
DIFFERENTIATED = [
    family_named(name)
    for name in (
        "baichuan",
        "bert",
        "bloom",
        "cohere2",
        "deepseek_v3",
        "gemma2",
        "gemma4",
        "gpt1",
        "gpt_oss",
        "granitemoehybrid",
        "llama",
        "llama4",
        "modernbert",
        "olmo2",
        "qwen3_next",
        "t5",
    )
]
# Latent attention with experts, soft-caps, attention sinks, and a recurrent memory beside attention.
KEPT = [family_named(name) for name in ("gemma2", "gpt_oss")]


@pytest.mark.parametrize("family", representatives(DIFFERENTIATED, *KEPT), ids=lambda family: family.name)
def test_gradients(family):
    """One shape of each: compiling all shapes would take most of the time of all tests (make parity checks them)."""
    folder = FIXTURES / family.name / "1"
    _, config, params = ours.load(folder)
    expected = np.load(folder / "expected.npz")
    gradient = ours.gradient_of(config, params, *ours.one_document_rows(expected["tokens"]))
    gradients = ours.tensors_of(family, config, gradient)
    recorded = {name for name in expected if name.startswith(ours.GRADIENT_OF)}
    assert {ours.GRADIENT_OF + name for name in gradients if "correction_bias" not in name} <= recorded
    for name in recorded:
        norm, product = expected[name]
        got = ours.fingerprint(gradients[name.removeprefix(ours.GRADIENT_OF)])
        terms = norm
        if name.endswith("layer_scalar"):  # a norm follows the last one: what is left of large terms is its epsilon
            terms = norm + 1e-2 * max(expected[other][0] for other in recorded if other.endswith("layer_scalar"))
        np.testing.assert_allclose(got, (norm, product), rtol=0, atol=1e-3 * terms + 1e-7, err_msg=name)


def test_every_family_has_three_recorded_shapes_or_more():
    names = [*(family.name for family in FAMILIES), *(f"multimodal_{kind.model_type}" for kind in MULTIMODAL)]
    recorded = {name: len(list((FIXTURES / name).glob("*"))) for name in names}
    assert min(recorded.values()) >= 3, recorded


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_is_not_mapped_is_refused(family):
    folder = FIXTURES / family.name / "0"
    twisted = read(folder) | {"hidden_twist": "sideways"}
    if family.in_transformers:  # no class of it reads this key
        assert family.read(twisted).ignored == {"hidden_twist": "sideways"}
    else:
        with pytest.raises(UserError, match=r'hidden_twist="sideways"'):
            model_config(twisted)
    with pytest.raises(UserError, match="architectures="):
        model_config(read(folder) | {"architectures": ["SomethingForSequenceClassification"]})


def test_an_unknown_family_says_which_are_known():
    with pytest.raises(
        UserError,
        match=r"model_type=\"lama\"; did you mean 'llama'\?\nknown: baichuan, bart, bert, bloom, .*gemma3, .*starcoder2",
    ):
        published_model({"model_type": "lama"})
    with pytest.raises(UserError, match=r'model_type="mambo"\nknown: baichuan, bart, bert, bloom, '):
        published_model({"model_type": "mambo"})
    hqq = {"model_type": "mpt", "quantization_config": {"quant_method": "hqq", "bits": 4}}
    with pytest.raises(
        UserError, match=r'="mpt", and weights quantised with hqq \(4 bits\) are not read either\nknown: baichuan'
    ):
        published_model(hqq)
    with pytest.raises(UserError, match="no family is called 'zzz'; known: .*llama"):
        family_named("zzz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "softplus"}, 'hidden_act="softplus" is not supported'),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, r'rope_parameters.rope_type="spiral"'),
        ({"rope_scaling": {"type": "linear"}}, "config.json has no value for rope_scaling.factor"),
        ({"hidden_size": None}, "config.json has no value for hidden_size"),
        ({"quantization_config": {"quant_method": "hqq", "bits": 4}}, "quantised with hqq .4 bits. are not read"),
        ({"num_key_value_heads": 3}, "model.mixer.num_kv_heads: 3 does not divide"),
    ],
)
def test_a_mechanism_that_cannot_be_mapped_is_named(changes, message):
    published = read(FIXTURES / "llama" / "0") | {"rope_parameters": None} | changes
    with pytest.raises(UserError, match=message):
        model_config(published)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", ["llama"], 'config.json: no family reads model_type=["llama"]\n'),
        ("architectures", 7, "config.json: architectures=7, expected a list; correct it or download the file again"),
        ("hidden_act", [], "config.json: hidden_act=[], expected text; correct it"),
        ("attention_bias", "False", 'config.json: attention_bias="False", expected true or false; correct it'),
        ("rope_scaling", "None", 'config.json: rope_scaling="None", expected an object; correct it'),
        ("rms_norm_eps", "1e-6", 'config.json: rms_norm_eps="1e-6", expected a number; correct it'),
        ("intermediate_size", 0, "config.json describes no model of the family llama; correct it or download the file"),
        (
            "rope_scaling",
            {"type": "longrope", "short_factor": 1.0},
            "rope_scaling.short_factor=1.0, expected a list of",
        ),
        (
            "rope_scaling",
            {"type": "yarn", "original_max_position_embeddings": 0},
            "config.json: the family llama cannot read a value, rope_scaling.mscale_all_dim=null or one that goes with it",
        ),
        (
            "num_hidden_layers",
            2**40,
            "config.json: num_hidden_layers=1099511627776 is not supported: expected at most 10,000",
        ),
        (
            "hidden_size",
            "64",
            'config.json: hidden_size="64", expected a number; correct it or download the file again',
        ),
        ("hidden_size", 64.5, "model.width: expected int, got 64.5 (float)"),
        ("rope_scaling", [1], "config.json: rope_scaling=[1], expected an object; correct it"),
        ("rms_norm_eps", float("nan"), "expected a finite number"),
    ],
)
def test_values_of_another_kind_are_one_error(key, value, message):
    (values,) = [json.loads(path.read_text()) for path in FIXTURES.glob("llama/0/config.json")]
    with pytest.raises(UserError) as caught:
        model_config(values | {key: value})
    assert message in str(caught.value)
