"""A table of every mechanism and the tests that check it: python -m tests.parity.mechanisms

fields      the number of fields; tests/model/test_liveness.py changes each of them and must see the change
reference   the independent reference of its numbers, and the test that compares them
decoding    whether tests/model/attention/test_cache.py compares decoding (from cache or state) with the whole sequence
families    the number of published families that have it, compared with `transformers` (tests/fixtures/families)

In addition, tests/model/test_combinations.py draws all of them at random, together.
"""

import dataclasses
import json
import pathlib

from model.attention.directions import Causal
from model.dropout import Dropout
from model.families import FAMILIES, model_config
from model.parameters.maker import Normal
from model.parameters.parametrization import Standard
from model.parameters.precision import Precision
from model.residual import Multipliers
from tests.model.attention.test_cache import CONFIGS
from tests.model.conftest import small_config
from tests.model.test_liveness import reachable
from tests.parity.table import table

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "families"

# Option: (the reference, the test under tests/)
REFERENCES = {
    "Kernels": (
        "kernels of each platform against plain attention",
        "model/kernels/test_selection.py::test_names_are_kernels_in_that_order",
    ),
    "NoPositions": (
        "order of earlier tokens",
        "model/positions/test_absolute.py::test_without_positions_earlier_tokens_are_a_set",
    ),
    "Learned": ("rows of the table", "model/positions/test_absolute.py::test_what_is_added_to_the_embedding"),
    "Sinusoidal": (
        "equation, entry by entry",
        "model/positions/test_absolute.py::test_sinusoid_by_the_equation_of_the_paper",
    ),
    "Rotary": (
        "complex numbers, pair by pair",
        "model/positions/test_rotary.py::test_a_fraction_rotates_in_either_pairing",
    ),
    "ALiBi": ("loop over queries and heads", "model/positions/test_alibi.py::test_attend"),
    "LinearScaling": ("equation, pair by pair", "model/positions/test_scaling.py::test_linear"),
    "NTK": ("equation, pair by pair", "model/positions/test_scaling.py::test_ntk"),
    "DynamicNTK": ("numbers of `transformers`", "model/positions/test_scaling.py::test_recorded"),
    "YaRN": ("numbers of `transformers`", "model/positions/test_scaling.py::test_recorded"),
    "Llama3Scaling": ("numbers of `transformers`", "model/positions/test_scaling.py::test_recorded"),
    "LongRoPE": ("equation, pair by pair", "model/positions/test_scaling.py::test_long_rope"),
    "PerLayerEmbedding": ("equation in NumPy", "model/vocabulary/test_per_layer.py::test_layer"),
    "Causal": ("gradient by token", "model/attention/test_directions.py::test_who_sees_whom"),
    "Bidirectional": ("gradient by token", "model/attention/test_directions.py::test_who_sees_whom"),
    "PrefixLM": ("gradient by token", "model/attention/test_directions.py::test_who_sees_whom"),
    "PredictionHead": ("equation in NumPy", "model/vocabulary/test_prediction_head.py::test_logits_of_the_equation"),
    "Pooler": ("equation in NumPy", "model/vocabulary/test_pooling.py::test_the_first_token_by_the_equation"),
    "GroupedQuery": ("loop over queries and heads", "model/attention/test_grouped_query.py::test_layer"),
    "QKNorm": ("loop over queries and heads", "model/attention/test_grouped_query.py::test_layer"),
    "ValueResidual": ("equation, a layer at a time", "model/attention/test_value_residual.py::test_layer"),
    "LogTemperature": ("factors by hand", "model/positions/test_query_scale.py::test_factors_by_hand"),
    "Latent": ("loop over queries and heads", "model/attention/test_latent.py::test_layer"),
    "RelativeBias": ("equation in float64", "model/positions/test_relative.py::test_the_bias_of_every_pair"),
    "Encoder": ("who sees whom, by gradient", "model/encoder/test_cross.py::test_who_sees_whom"),
    "CrossAttention": ("loop over queries and heads", "model/encoder/test_cross.py::test_layer"),
    "AdditiveAttention": ("loop over queries and source", "model/encoder/test_additive.py::test_layer"),
    "BothWays": ("one recurrence, and one of reversed documents", "model/encoder/test_both_ways.py::test_layer"),
    "Everything": ("literal matrix", "model/kernels/test_visibility.py::test_causal"),
    "SlidingWindow": ("literal matrix", "model/attention/test_patterns.py::test_patterns"),
    "Chunked": ("literal matrix", "model/attention/test_patterns.py::test_patterns"),
    "Strided": ("literal matrix", "model/attention/test_patterns.py::test_patterns"),
    "Fixed": ("literal matrix", "model/attention/test_patterns.py::test_patterns"),
    "BlockSparse": ("literal matrix", "model/attention/test_patterns.py::test_patterns"),
    "LinearAttention": ("equations, a query at a time", "model/recurrent/test_linear.py::test_layer"),
    "GatedDelta": ("recurrence, a token at a time", "model/recurrent/test_delta.py::test_layer"),
    "StateSpace": ("recurrence, a token at a time", "model/recurrent/test_state_space.py::test_layer"),
    "LSTM": ("recurrence, a token at a time", "model/recurrent/test_lstm.py::test_layer"),
    "GRU": ("recurrence, a token at a time", "model/recurrent/test_gru.py::test_layer"),
    "MLP": ("equation and every activation", "model/feedforward/test_mlp.py::test_layer"),
    "Gated": ("equation and every activation", "model/feedforward/test_mlp.py::test_layer"),
    "Experts": (
        "loop over tokens and experts",
        "model/feedforward/test_experts.py::test_a_loop_over_tokens_and_experts",
    ),
    "Shared": (
        "loop over tokens and experts",
        "model/feedforward/test_experts.py::test_a_loop_over_tokens_and_experts",
    ),
    "SoftmaxRouter": ("numbers by hand", "model/feedforward/test_routing.py::test_softmax_over_all_experts"),
    "SigmoidRouter": ("numbers by hand", "model/feedforward/test_routing.py::test_sigmoid"),
    "Groups": ("numbers by hand", "model/feedforward/test_routing.py::test_groups_by_their_best_or_by_their_two_best"),
    "Dropless": ("loop over tokens", "model/feedforward/test_dispatch.py::test_dropless_is_a_loop_over_tokens"),
    "Capacity": ("loop that counts slots", "model/feedforward/test_dispatch.py::test_capacity_is_a_loop_that_counts"),
    "BalanceLoss": ("equation, expert by expert", "model/feedforward/test_balance.py::test_balance_over_each_sequence"),
    "LoadBias": ("its rule, from the loads", "train/test_step_experts.py::test_a_load_bias_is_moved_by_the_load_alone"),
    "LayerNorm": ("equation in float64", "model/test_norms.py::test_values"),
    "RMSNorm": ("equation in float64", "model/test_norms.py::test_values"),
    "PreNorm": ("equation with stand-ins", "model/residual/test_pre_norm.py::test_where_the_norms_sit"),
    "PostNorm": ("equation with stand-ins", "model/residual/test_post_norm.py::test_where_the_norms_sit"),
    "Sandwich": ("equation with stand-ins", "model/residual/test_sandwich.py::test_where_the_norms_sit"),
    "Reordered": ("equation with stand-ins", "model/residual/test_reordered.py::test_where_the_norms_sit"),
    "Parallel": ("equation with stand-ins", "model/residual/test_parallel.py::test_where_the_norms_sit"),
    "HyperConnections": (
        "equation, a token at a time",
        "model/residual/test_hyper_connections.py::test_layer",
    ),
    "Dynamic": ("equation, a token at a time", "model/residual/test_hyper_connections.py::test_layer"),
    "Multipliers": ("the model without them", "model/vocabulary/test_embedding.py::test_multipliers"),
    "Tied": ("dot products one by one", "model/vocabulary/test_unembedding.py::test_the_parameters_of_each_option"),
    "Untied": ("dot products one by one", "model/vocabulary/test_unembedding.py::test_the_parameters_of_each_option"),
    "MultiToken": (
        "equations, a token at a time",
        "model/vocabulary/test_multi_token.py::test_the_loss_is_that_of_the_equations",
    ),
    "ScoreHead": ("sums written out", "model/vocabulary/test_score_head.py::test_scores_are_sums_written_out"),
    "LoRA": (
        "whole matrices in float64",
        "model/parameters/test_adapters.py::test_products_are_those_of_the_whole_matrices",
    ),
    "DoRA": (
        "whole matrices in float64",
        "model/parameters/test_adapters.py::test_products_are_those_of_the_whole_matrices",
    ),
    "Except": ("Python's slices", "model/test_layers.py::test_layers_are_chosen_as_python_slices"),
    "Dropout": ("its share and its mean", "model/test_dropout.py::test_drop_zeroes_its_share_and_keeps_the_mean"),
    "Standard": (
        "the model without a parametrisation",
        "model/parameters/test_parametrization.py::test_a_base_model_is_that_of_the_standard_parametrisation",
    ),
    "MuP": (
        "the table of the paper",
        "model/parameters/test_parametrization.py::test_every_parameter_follows_the_table",
    ),
    "CompleteP": (
        "the table of the paper",
        "model/parameters/test_parametrization.py::test_every_parameter_follows_the_table",
    ),
    "Normal": ("deviations by the table", "model/parameters/test_maker.py::test_each_role_of_each_scheme"),
    "FanIn": ("deviations by the table", "model/parameters/test_maker.py::test_each_role_of_each_scheme"),
    "SaveOnly": ("residuals by shape", "model/test_recompute.py::test_scanned_layers_save_the_taps_named_and_no_other"),
    "Precision": (
        "the dtype of every operation",
        "model/parameters/test_precision.py::test_which_dtype_each_operation_has",
    ),
    "QuantizedWeights": (
        "scales and numbers by a loop, int8 by qwix",
        "model/parameters/test_quantized_weights.py::test_scales_and_numbers_are_those_of_a_loop",
    ),
}


# Options that every model has and that, at these values, change nothing.
INERT = (Causal(), Dropout(), Multipliers(), Normal(), Precision(), Standard())


def kinds(option):
    """Returns the names of all options in a tree, except inert ones."""
    found = {type(option).__name__}
    for field in dataclasses.fields(option):
        value = getattr(option, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(each) and each not in INERT:
                found |= kinds(each)
    return found


def families_with():
    """Returns, for each option's name, the names of the families whose recorded shapes have it."""
    having = {}
    for family in FAMILIES:
        for path in sorted((FIXTURES / family.name).glob("*/config.json")):
            for name in kinds(model_config(json.loads(path.read_text()))):
                having.setdefault(name, set()).add(family.name)
    return having


def decoded():
    """Returns the names of the options for which decoding is compared with the whole sequence."""
    return set().union(*(kinds(small_config(**changes)) for changes in CONFIGS.values()))


def rows():
    """Yields the rows of the table."""
    having, cached, known = families_with(), decoded(), {cls.__name__: cls for cls in reachable()}
    for name, (against, where) in REFERENCES.items():
        families, place = having.get(name, ()), known[name].__module__.replace(".", "/") + ".py"
        yield (
            f"`{name}`",
            place,
            len(dataclasses.fields(known[name])),
            f"{against}: {where}",
            "yes" if name in cached else "",
            len(families) or "",
        )


if __name__ == "__main__":
    print(table(("mechanism", "file", "fields", "reference", "decoding", "families"), rows()))
