"""Parametrisations against the tables of their papers, parameter by parameter."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from model.parameters.maker import FanIn, Gaussian, LecunNormal, Normal
from model.parameters.parametrization import CompleteP, MuP, Standard
from model.parameters.specs import specs_by_name
from model.transformer import forward, init, logical_axes, specs

WIDE = "width=64; mixer=GroupedQuery(num_heads=16, num_kv_heads=8); ffn=Gated(width=96)"  # 4 times the small model
MOE = "ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=32), shared=Shared(ffn=Gated(width=32), gate=True))"
HIDDEN, TABLE, TO_FIXED = "hidden", "table", "to a fixed number"
# The kind of each parameter. Of an LSTM with heads of one width, its recurrent matrix does not grow; the single key head
# of multi-query attention is a fixed number of outputs, as are experts and a shared gate.
KINDS = {
    "embedding.table": TABLE,
    "embedding.output": TABLE,
    "position.table": TABLE,
    "scale": TABLE,
    "bias": TABLE,
    "mixer.query": HIDDEN,
    "mixer.key": HIDDEN,
    "mixer.value": HIDDEN,
    "mixer.output": HIDDEN,
    "mixer.input": HIDDEN,
    "mixer.recurrent": TABLE,
    "ffn.router": TO_FIXED,
    "ffn.shared_gate": TO_FIXED,
    "gate": HIDDEN,
    "up": HIDDEN,
    "down": HIDDEN,
}
CASES = {
    "gated": (WIDE, {}),
    "biases and tables": (
        "width=64; mixer=GroupedQuery(num_heads=16, qkv_bias=True); ffn=MLP(width=96, bias=True); unembedding=Untied; "
        "position=Learned; norm=LayerNorm",
        {},
    ),
    "multi-query": (
        "width=64; mixer=GroupedQuery(num_heads=16, num_kv_heads=1)",
        {"mixer.key": TO_FIXED, "mixer.value": TO_FIXED},
    ),
    "experts": (f"width=64; {MOE}", {}),
    "LSTM of narrow heads": ("width=64; mixer=LSTM(num_heads=4); position=NoPositions", {}),
    "LSTM of wide heads": (
        "width=64; mixer=LSTM(num_heads=1); position=NoPositions; parametrization.wider='head_dim'",
        {"mixer.recurrent": HIDDEN},
    ),
}
M, N = 4.0, 2.0  # the width and the number of layers over those of the base
PARAMETRIZATION = "parametrization=CompleteP(base_width=16, base_layers=1, alpha=0.75)"


def made(small, *settings):
    config = small()
    for setting in settings:
        for one in setting.split("; "):
            config = override(config, one)
    check(config)
    return config


def kind_of(name, others):
    for end, kind in (KINDS | others).items():
        if name.endswith(end):
            return kind
    raise AssertionError(f"{name}: add its kind")


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_follows_the_table(case, small):
    """CompleteP, table 1, and muP, table 8: deviation, rate and size of gradients, from the literal powers."""
    settings, others = CASES[case]
    config = made(small, PARAMETRIZATION, settings)
    base = made(small, "parametrization=Standard", *(s for s in settings.split("; ") if "parametrization" not in s))
    plain = specs_by_name(specs(base))
    for name, spec in specs_by_name(specs(config)).items():
        in_layers = name.startswith("blocks")
        kind, growth = kind_of(name, others), spec.growth
        deviation, rate = {HIDDEN: (M**-0.5, 1 / M), TO_FIXED: (1 / M, 1 / M), TABLE: (1.0, 1.0)}[kind]
        assert growth.deviation == pytest.approx(deviation), name
        assert growth.adam_rate == pytest.approx(rate * (N ** (0.75 - 1) if in_layers else 1)), name
        # A gradient shrinks with the number of outputs among which the change of the loss is shared.
        fixed_outputs = kind == TO_FIXED or (name.endswith(("router_bias", "mixer.recurrent")) and kind == TABLE)
        expected = (N**-0.75 if in_layers else 1) / (1 if fixed_outputs else M)
        assert growth.gradient == pytest.approx(expected), name
        if isinstance(spec.initializer, Gaussian):
            before = plain[name].initializer
            residual = 2**0.5 if spec.role == "residual" else 1  # 1 / sqrt(2 L) has the L of the base
            assert spec.initializer.std * spec.initializer.factor == pytest.approx(
                before.std * before.factor * deviation * residual
            ), name
    assert logical_axes(config) == logical_axes(base)


def test_fan_in_keeps_its_deviation_at_the_base(small):
    """1 / sqrt(inputs) is m^-1/2 already; a router's is m^-1 of the base, an unembedding's that of the base."""
    settings = ("initialization=FanIn; unembedding=Untied", f"width=64; {MOE}")
    found = specs_by_name(specs(made(small, *settings, "parametrization=MuP(base_width=16)")))
    for name, inputs, deviation in (
        ("blocks.ffn.up", 64, 64**-0.5),
        ("blocks.ffn.router", 64, 16**-0.5 / M),
        ("embedding.output", 64, 16**-0.5),
    ):
        drawn = found[name].initializer
        assert isinstance(drawn, LecunNormal)
        assert drawn.fan_in == inputs
        assert drawn.factor / math.sqrt(inputs) == pytest.approx(deviation), name
        values = np.asarray(drawn.draw(jax.random.key(0), (64, 400)))
        assert values.std() == pytest.approx(deviation, rel=0.02)


def test_initial_parameters_are_drawn_with_these_deviations(small):
    config = made(small, WIDE, "num_layers=1", "parametrization=MuP(base_width=16)", "unembedding=Untied")
    params = init(config, jax.random.key(0))
    for array, deviation in (
        (params["embedding"]["table"], 0.02),
        (params["embedding"]["output"], 0.02),
        (params["blocks"]["mixer"]["query"], 0.01),
        (params["blocks"]["ffn"]["down"], 0.01 / 2**0.5),
    ):
        assert np.asarray(array).std() == pytest.approx(deviation / 0.02 * config.initialization.std, rel=0.05)


@pytest.mark.parametrize(
    "parametrization",
    [MuP(base_width=16), MuP(base_width=16, wider="head_dim"), CompleteP(base_width=16, base_layers=2)],
)
def test_a_base_model_is_that_of_the_standard_parametrisation(parametrization, small):
    standard = small()
    config = dataclasses.replace(standard, parametrization=parametrization)
    assert specs(config) == specs(standard)
    assert config.layers == standard.layers
    assert config.factors == standard.multipliers
    assert config.written_out() == standard


def test_the_factors_of_the_forward_pass(small, drawn, tokens):
    """Logits 1/m, outputs of sublayers n^-alpha, scores 1/H for wider heads; and the same written out as numbers."""
    config = made(
        small, "width=64; mixer=GroupedQuery(num_heads=4); ffn=Gated(width=96); multipliers.logits=3.0; num_layers=2",
        "parametrization=CompleteP(base_width=16, base_layers=1, alpha=0.5, wider='head_dim')", "scan_layers=False",
    )  # fmt: skip
    assert config.factors == dataclasses.replace(config.multipliers, logits=3 / 4, residual=2**-0.5)
    written = config.written_out()
    assert written.mixer.scale == pytest.approx(4**0.5 / 16)  # the root of the base's H over H
    assert written.parametrization == Standard()
    params = drawn(config)
    one, other = (forward(c, params, tokens).logits_BTV for c in (config, written))
    np.testing.assert_array_equal(one, other)
    plain = dataclasses.replace(config, parametrization=Standard())
    assert np.abs(forward(plain, params, tokens).logits_BTV - one).max() > 1e-2
    given = made(small, WIDE, "mixer.scale=0.5", "parametrization=MuP(base_width=16, wider='head_dim')")
    assert given.layers[0].mixer.scale == 0.5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("parametrization=MuP(base_width=0)", "parametrization.base_width: must be at least 1, got 0"),
        ("parametrization=CompleteP(base_width=8, base_layers=0)", "parametrization.base_layers: must be at least 1"),
        ("parametrization=CompleteP(base_width=8, base_layers=1, alpha=0.2)", "alpha: must be from 0.5 to 1, got 0.2"),
        ("parametrization=MuP(base_width=8); embedding_width=4", "embedding_width: MuP has no rule for it"),
        (
            "parametrization=MuP(base_width=8); per_layer_embedding=PerLayerEmbedding(width=4)",
            "per_layer_embedding: MuP has no rule",
        ),
        ("parametrization=MuP(base_width=8); residual=HyperConnections", "residual: MuP .* HyperConnections mixes"),
        ("parametrization=MuP(base_width=8); unembedding=Untied(unit_norm=True)", "unembedding.unit_norm: MuP has no"),
        ("parametrization=MuP(base_width=8); mixer=GroupedQuery(num_heads=1)", "wider: a mixer has a single head"),
        (
            "parametrization=MuP(base_width=8, wider='head_dim'); mixer=None; position=NoPositions",
            "wider: no layer has heads",
        ),
        (
            "parametrization=MuP(base_width=8, wider='head_dim'); mixer=StateSpace(num_heads=4); position=NoPositions",
            "wider: the heads of a state space become more and not wider",
        ),
        (
            "parametrization=CompleteP(base_width=8, base_layers=1); residual=PostNorm",
            "residual: CompleteP .* PostNorm",
        ),
        (
            "parametrization=CompleteP(base_width=8, base_layers=1); multi_token=MultiToken",
            "multi_token: CompleteP has",
        ),
        ("parametrization=CompleteP(base_width=8, base_layers=1); stream_scale=0.5", "stream_scale: CompleteP has no"),
        (
            "parametrization=CompleteP(base_width=8, base_layers=1); initialization=Normal(scale_residual=False, beta=0.5)",
            "initialization.beta: CompleteP has no rule",
        ),
    ],
)
def test_options_without_a_rule_are_refused_by_name(settings, expected, small):
    with pytest.raises(UserError, match=expected):
        made(small, settings)


def test_impossible_sizes_are_named_before_factors_are_computed(small):
    for wrong in ("width=0", "num_layers=0"):
        with pytest.raises(UserError, match=f"{wrong.split('=')[0]}: must be at least 1, got 0"):
            made(small, "parametrization=CompleteP(base_width=8, base_layers=1, wider='head_dim')", wrong)


def test_a_config_without_the_field_has_the_standard_one(small):
    stored = to_json(small())
    del stored["parametrization"]
    assert from_json(type(small()), stored) == small()
    assert isinstance(small().initialization, Normal | FanIn)
