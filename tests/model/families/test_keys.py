"""Every key that a class of `transformers` reads is known to its family: read, required to be inert, or ignored by name.

Only so is it safe to ignore the keys that a family does not know: no released class reads them. The keys were found in
the source of `transformers` (tests/parity/keys.py), and `make parity` compares them with the installed release.
"""

import json
import pathlib

import pytest

from model.errors import UserError
from model.families import FAMILIES, family_named
from model.families.config_json import IRRELEVANT, SHARED
from tests.parity.keys import FIXTURE

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"
RECORDED = json.loads(FIXTURE.read_text())

# What the code of all models reads and no logit depends on: caches and shards that follow from sizes which the families
# read, heads for other tasks, the objects of quantisers and kernels, layers for multi-token prediction, old shortcuts.
WITHOUT_EFFECT = frozenset(
    "vocab_size hidden_size head_dim num_heads embed_dim num_attention_heads num_key_value_heads num_hidden_layers "
    "intermediate_size max_position_embeddings rms_norm_eps layer_norm_eps attention_dropout hidden_dropout "
    "rope_parameters rope_scaling rope_theta partial_rotary_factor original_max_position_embeddings "
    "tie_word_embeddings conv_kernel state_size number_of_conv_states first_k_dense_replace mlp_layer_types "
    "classifier_dropout token_classification_bias start_n_top end_n_top decoder_start_token_id init_kwargs "
    "summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels summary_type "
    "summary_use_proj loss_type tf_legacy_loss chain_hidden_post_norm logits_mup_width_multiplier mtp_hidden_states_first "
    "mtp_layer_types mtp_mlp_layer_types mtp_per_layer_config num_mtp_layers unpadded_vocab_size axis_key axis_value "
    "bnb_4bit_quant_storage compute_dtype nbits q_group_size quant_method quant_type residual_length hf_quantizer "
    "device device_map device_mesh disable_mmap disk_offload_folder distributed_config enable_expert_parallel "
    "experts_implementation fusion_config compile_config config_class sharded_metadata transformers_weights "
    "weight_mapping weights_only xla_device ignore_mismatched_sizes is_composition name_or_path "
    "pretrained_model_name_or_path alibi use_alibi "
    # model/families/quantization.py reads these.
    "quantization_config compression_config".split()
)


def read(folder):
    return json.loads((folder / "config.json").read_text())


def known_in_every_reading(family):
    """Returns the keys that a family reads in each of its recorded files, so in none of its branches only."""
    folders = sorted((FIXTURES / family.name).iterdir())
    return frozenset.intersection(*(family.read(read(folder)).read for folder in folders))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_knows_all_keys_that_its_class_reads(family):
    recorded = RECORDED["families"].get(family.name)
    assert (recorded is not None) == family.in_transformers
    if recorded is not None:
        keys = {key for key in (*recorded["keys"], *recorded["aliases"]) if not key.startswith("rope.")}
        known = known_in_every_reading(family) | family.aliases.keys() | IRRELEVANT | SHARED.keys()
        assert keys - known == set()
        assert "tie_word_embeddings" in known


def test_keys_that_the_code_of_all_models_reads():
    keys = {key for key in RECORDED["shared"] if not key.startswith("rope.")}
    assert keys - IRRELEVANT - SHARED.keys() - WITHOUT_EFFECT == set()
    assert not SHARED.keys() & WITHOUT_EFFECT


def test_keys_of_rotary_parameters():
    every = [RECORDED["shared"], *(family["keys"] for family in RECORDED["families"].values())]
    recorded = {key.removeprefix("rope.") for keys in every for key in keys if key.startswith("rope.")}
    folders = [folder for family in FAMILIES for folder in (FIXTURES / family.name).iterdir()]
    paths = {path for folder in folders for path in family_named(folder.parent.name).read(read(folder)).read}
    known = {path.rpartition(".")[2] for path in paths if path.startswith(("rope_parameters.", "rope_scaling."))}
    assert recorded - known == set()


LLAMA = FIXTURES / "llama" / "0"


def test_a_key_that_no_class_reads_is_ignored_and_named_unless_it_is_inert():
    values = read(LLAMA) | {"internal_version": "3", "use_mrope": False, "shared_width": 0, "notes": [], "scales": {}}
    assert family_named("llama").read(values).ignored == {"internal_version": "3"}
    rope = read(LLAMA)["rope_parameters"] | {"mrope_section": [2, 1]}
    reading = family_named("llama").read(read(LLAMA) | {"rope_parameters": rope})
    assert reading.ignored == {"rope_parameters.mrope_section": [2, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 8}, "sliding_window=8"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ({"is_causal": False}, "is_causal=false"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention="),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}, "scale_depth": 1.4}, "scale_depth=1.4"),
    ],
)
def test_a_key_that_may_change_a_number_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        family_named("llama").read(read(LLAMA) | changes)


def test_inert_values_of_keys_that_all_models_read():
    values = read(LLAMA) | {"layer_types": 2 * ["full_attention"], "is_causal": True, "pruned_heads": {}}
    assert family_named("llama").read(values).ignored == {}


def test_all_refused_values_are_named_at_once():
    values = read(FIXTURES / "gpt2" / "0") | {"add_cross_attention": True, "n_special": 3, "is_causal": False}
    with pytest.raises(UserError) as error:
        family_named("gpt2").read(values)
    for text in (
        "add_cross_attention=true",
        "n_special=3",
        "is_causal=false",
        "--accept=add_cross_attention --accept=n_special",
    ):
        assert text in str(error.value)


def test_long_values_are_cut():
    with pytest.raises(UserError) as error:
        family_named("llama").read(read(LLAMA) | {"pruned_heads": {str(i): [0, 1, 2] for i in range(900)}})
    assert len(str(error.value)) < 500


def test_accepted_keys_are_read_as_if_they_were_missing():
    family = family_named("llama")
    plain = family.read(read(LLAMA))
    rope = read(LLAMA)["rope_parameters"]
    values = read(LLAMA) | {"sliding_window": 8, "rope_parameters": rope | {"rope_type": "spiral"}}
    reading = family.read(values, ["sliding_window", "rope_parameters.rope_type"])
    assert reading.config == plain.config
    assert reading.accepted == {"sliding_window": 8, "rope_parameters.rope_type": "spiral"}
    with pytest.raises(UserError, match="--accept=no_such_key: config.json has no such key"):
        family.read(values, ["no_such_key"])
    with pytest.raises(UserError, match="--accept=hidden_size.x: config.json has no such key"):
        family.read(values, ["hidden_size.x"])
    with pytest.raises(UserError, match="--accept=hidden_size: this key is not refused"):
        family.read(read(LLAMA), ["hidden_size"])
    with pytest.raises(UserError, match="--accept=mlp_bias: this key is not refused"):
        family.read(read(LLAMA) | {"mlp_bias": False}, ["mlp_bias"])


def test_two_names_of_one_value():
    values = read(FIXTURES / "gpt2" / "0")
    width = values.pop("n_embd")
    assert family_named("gpt2").read(values | {"hidden_size": width}).config.width == width
    with pytest.raises(UserError, match="hidden_size=7 and n_embd=.* are two names of one value"):
        family_named("gpt2").read(values | {"n_embd": width, "hidden_size": 7})


def test_the_keys_of_a_class_are_found_in_its_source(tmp_path):
    """On a release of one model: reads through a helper and another model count; other tasks and starts do not."""
    from tests.parity import keys

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("models/mine/configuration_mine.py", CONFIGURATION)
    write("models/mine/modeling_mine.py", MODELING)
    write("models/yours/modeling_yours.py", "def helper(cfg):\n    return getattr(cfg, 'through_import', None)\n")
    found, aliases = keys.family_keys(tmp_path, FakeFamily())
    expected = "width depth through_helper through_import rope_window computed_with old_name n_layer rope.factor"
    assert found == set(expected.split())
    assert aliases == {"num_hidden_layers": "n_layer"}


class FakeFamily:
    architecture, model_types = "MineForCausalLM", ("mine",)


CONFIGURATION = """
class MineConfig(PreTrainedConfig):
    model_type = "mine"
    attribute_map = {"num_hidden_layers": "n_layer"}
    def __init__(self, stored=1, computed=2, **kwargs):
        self.stored = stored
        self.other = computed_with if computed_with else kwargs.pop("old_name", None)
    def __post_init__(self, computed_with=1):
        self.x = computed_with + 1
    @property
    def rotary(self):
        return True
"""
MODELING = """
from ..yours.modeling_yours import helper
class MineModel:
    def __init__(self, config):
        self.width, self.depth = config.width, self.config.depth
        self.layers, self.r = config.num_hidden_layers, config.rotary
        self.f = config.rope_parameters_of()["factor"] if False else rope_parameters["factor"]
        outside(config)
        helper(config)
    def _init_weights(self, module):
        module.fill(self.config.initializer)
def outside(config):
    return getattr(config, "through_helper", None) or config.get_text_config().rope_window
class MineForCausalLM(MineModel):
    pass
class MineForSequenceClassification(MineModel):
    def __init__(self, config):
        self.head = config.num_classes
"""
