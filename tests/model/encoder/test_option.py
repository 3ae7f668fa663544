"""The option of an encoder: what clashes, what it costs."""

import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery
from model.cost import count_parameters, forward_flops
from model.dropout import Dropout
from model.encoder.additive import AdditiveAttention
from model.encoder.both_ways import BothWays
from model.encoder.cross import CrossAttention
from model.feedforward.mlp import MLP
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import find_problems
from model.parameters.parametrization import MuP
from model.positions.absolute import NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.relative import RelativeBias
from model.recurrent.gru import GRU
from model.vocabulary.multi_token import MultiToken


def test_json_and_assignments(pair):
    config = pair(encoder={"position": Sinusoidal()})
    assert from_json(type(config), to_json(config)) == config
    assert override(config, "encoder.num_layers=5").encoder.num_layers == 5


@pytest.mark.parametrize(
    ("encoder", "changes", "message"),
    [
        ({"num_layers": 0}, {}, "encoder.num_layers: must be at least 1, got 0"),
        ({"context_length": 0}, {}, "encoder.context_length: must be at least 1, got 0"),
        ({"mixer": GroupedQuery(num_heads=3)}, {}, "encoder.mixer.num_heads: 3 heads do not divide width=16"),
        ({"mixer": GroupedQuery(num_heads=2, kv_from_layer=0)}, {}, "encoder.mixer.kv_from_layer: must be the number"),
        ({"cross": CrossAttention(num_heads=3)}, {}, "encoder.cross.num_heads: 3 heads do not divide width=16"),
        ({"cross": CrossAttention(num_heads=4, num_kv_heads=3)}, {}, "encoder.cross.num_kv_heads: 3 does not divide"),
        ({"cross": CrossAttention(num_heads=4, scale=-1.0)}, {}, "encoder.cross.scale: must be above 0"),
        ({"cross": AdditiveAttention(units=0)}, {}, "encoder.cross.units: must be at least 1, or None for the model"),
        (
            {"mixer": BothWays(mixer=GRU(num_heads=3)), "position": NoPositions()},
            {},
            "encoder.mixer.mixer.num_heads: 3 heads do not divide width=16",
        ),
        ({"mixer": BothWays(mixer=GRU())}, {}, "encoder.position: Rotary acts only in attention"),
        (
            {},
            {"mixer": BothWays(mixer=GRU()), "position": NoPositions()},
            "mixer: expected GroupedQuery(...) or Latent",
        ),
        ({"position": ALiBi()}, {}, "encoder.position: ALiBi has no numbers for keys after their query"),
        ({"position": RelativeBias()}, {}, "encoder.position: RelativeBias has no numbers"),
        ({}, {"multi_token": MultiToken()}, "multi_token: its modules read no source"),
        ({}, {"parametrization": MuP(base_width=8)}, "encoder: MuP has no rule for it"),
    ],
)
def test_what_clashes(encoder, changes, message, pair):
    assert any(message in problem for problem in find_problems(pair(encoder=encoder, **changes), ""))


def test_a_whole_model_has_no_problems(pair):
    assert find_problems(pair(), "") == []


def test_the_weights_of_a_source_may_be_dropped_where_no_mixer_has_any(pair):
    """Recurrences on both sides; without an encoder the rate would drop nothing."""
    recurrent = {"mixer": GRU(), "position": NoPositions(), "dropout": Dropout(attention=0.1)}
    assert find_problems(pair(encoder={"mixer": GRU(), "position": NoPositions()}, **recurrent), "") == []
    alone = dataclasses.replace(pair(**recurrent), encoder=None)
    assert any(problem.startswith("dropout.attention: drops attention") for problem in find_problems(alone, ""))


def test_parameters_and_operations(pair, small):
    """By hand, for 5 tokens and a source of 12: two layers with a bidirectional mixer of two heads of 8, an MLP of 20."""
    plain, config, d, t, s = small(), pair(), 16, 5, 12
    encoder = 2 * (4 * d * d + 2 * d * 20 + 2 * d) + d
    cross = 2 * (2 * d * 16 + 2 * d * 8 + d)
    before, after = count_parameters(plain), count_parameters(config)
    assert after.encoder == encoder
    assert after.blocks - before.blocks == cross
    assert after.total - before.total == encoder + cross
    layers = 2 * (2 * s * (4 * d * d + 2 * d * 20) + 2 * 2 * 16 * s * s)
    reading = 2 * (2 * t * 2 * d * 16 + 2 * s * 2 * d * 8 + 2 * 2 * 16 * t * s)
    assert forward_flops(config, t) - forward_flops(plain, t) == layers + reading
    assert pair(encoder={"ffn": MLP(width=20)}) == config
