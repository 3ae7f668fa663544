"""Every check of a model's options: refused configs with their messages, and unusual configs that are allowed."""

import copy
import dataclasses
import pickle

import jax
import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.patterns import SlidingWindow
from model.config import model_differences
from model.dropout import Dropout
from model.errors import UserError
from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.layers import Except
from model.norms import LayerNorm, RMSNorm
from model.options.tree import check
from model.parameters.maker import FanIn, Normal
from model.parameters.precision import Precision
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
from model.positions.rotary import Rotary
from model.positions.scaling import NTK, DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN
from model.residual import Multipliers, Parallel, PostNorm, Sandwich
from model.transformer import abstract_params, init
from model.vocabulary.multi_token import MultiToken

# ------------------------------------------------------------------------------------------------------- checks


def test_a_sound_config_passes(small):
    check(small())


def rotary(scaling):
    return Rotary(scaling=scaling)


LATE = GroupedQuery(num_heads=4, qk_norm=QKNorm(after_positions=True))


def yarn(**changes):
    return YaRN(**{"factor": 4.0, "original_length": 100} | changes)


def llama3(**changes):
    values = {"factor": 4.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0, "original_length": 100}
    return Llama3Scaling(**values | changes)


def long(**changes):
    values = {"short_factors": (1.0, 2.0), "long_factors": (3.0, 4.0), "original_length": 8, "factor": 4.0}
    return LongRoPE(**values | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: must be at least 1, got 0"),
        ({"context_length": -1}, "context_length: must be at least 1, got -1"),
        ({"num_layers": 0}, "num_layers: must be at least 1, got 0"),
        ({"width": 0}, "width: must be at least 1, got 0"),
        ({"width": 16.0}, "width: expected int, got 16.0 (float)"),
        ({"embedding_width": 0}, "embedding_width: must be at least 1, or None for that of the layers, got 0"),
        ({"final_logit_softcap": 0.0}, "final_logit_softcap: must be above 0, or None for no cap, got 0.0"),
        ({"stream_scale": 0.0}, "stream_scale: must be above 0, or None for no such factors, got 0.0"),
        ({"position": Rotary(rotated="fastest")}, "position.rotated: all pairs rotate with fraction=1"),
        ({"layer_scale": 0.0}, "layer_scale: must be above 0, or None for no such factors, got 0.0"),
        (
            {"mixer": GroupedQuery(num_heads=4, scale=0.0)},
            "mixer.scale: must be above 0, or None for the usual",
        ),
        (
            {"mixer": GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=RMSNorm(scale="none"), over="each_head"))},
            "mixer.qk_norm.over: 'each_head' has no weights to give",
        ),
        (
            {"mixer": GroupedQuery(num_heads=4, temperature=LogTemperature(step_length=0, scale=0.1))},
            "mixer.temperature.step_length: must be at least 1, got 0",
        ),
        (
            {"mixer": GroupedQuery(num_heads=4, temperature=LogTemperature(step_length=4, scale=0.0))},
            "mixer.temperature.scale: must be above 0, got 0.0; use temperature=None for factors of 1",
        ),
        (
            {"mixer": GroupedQuery(num_heads=4, temperature=LogTemperature(step_length=4, scale=0.1, offset=-1))},
            "mixer.temperature.offset: must be 0 or more, got -1",
        ),
        ({"multi_token": MultiToken(depth=0)}, "multi_token.depth: must be at least 1, or multi_token=None for none"),
        ({"multi_token": MultiToken(weight=0.0)}, "multi_token.weight: must be above 0, or multi_token=None for none"),
        (
            {"multi_token": MultiToken(depth=16)},
            "multi_token.depth: predicts 17 tokens ahead, too many for context_length=16; lower it",
        ),
        ({"multipliers": Multipliers(logits=0.0)}, "multipliers.logits: must be above 0, got 0.0"),
        ({"residual": PostNorm(alpha=-1.0)}, "residual.alpha: must be above 0, got -1.0"),
        ({"remat": "half"}, "remat: expected 'none' or 'dots' or 'full' or SaveOnly(...), got 'half' (str)"),
        ({"norm": MLP(width=4)}, "norm: expected LayerNorm(...) or RMSNorm(...), got MLP("),
        ({"mixer": "none"}, "mixer: expected GroupedQuery(...) or Latent(...) or LinearAttention(...) or"),
        ({"mixer": GroupedQuery(num_heads="4")}, "mixer.num_heads: expected int, got '4' (str)"),
        ({"mixer": GroupedQuery(num_heads=0)}, "mixer.num_heads: must be at least 1, got 0"),
        (
            {"mixer": GroupedQuery(num_heads=6, num_kv_heads=4, head_dim=4)},
            "mixer.num_kv_heads: 4 does not divide num_heads=6; use one of [1, 2, 3, 6]",
        ),
        ({"mixer": GroupedQuery(num_heads=4, num_kv_heads=0)}, "mixer.num_kv_heads: 0 does not divide"),
        ({"mixer": GroupedQuery(num_heads=4, head_dim=0)}, "mixer.head_dim: must be at least 1, got 0"),
        ({"mixer": GroupedQuery(num_heads=4, qkv_clip=0.0)}, "mixer.qkv_clip: must be above 0, or None for no limit"),
        ({"mixer": GroupedQuery(num_heads=4, logit_softcap=-1.0)}, "mixer.logit_softcap: must be above 0"),
        (
            {"mixer": GroupedQuery(num_heads=5)},
            "mixer.num_heads: 5 heads do not divide width=16; change one of them, or set mixer.head_dim",
        ),
        ({"mixer": GroupedQuery(num_heads=16)}, "position: Rotary rotates pairs of dimensions"),
        ({"mixer": GroupedQuery(num_heads=4, head_dim=3)}, "the head width must be even, got 3"),
        ({"width": 15, "mixer": GroupedQuery(num_heads=3), "position": Sinusoidal()}, "width must be even, got 15"),
        ({"ffn": MLP(width=0)}, "ffn.width: must be at least 1, got 0"),
        ({"ffn": Gated(width=4, clamp=0.0)}, "ffn.clamp: must be above 0, got 0.0; use None for no limit"),
        ({"ffn": MLP(width=4, activation="swish")}, "ffn.activation: expected 'gelu' or"),
        ({"position": Rotary(theta=0.0)}, "position.theta: must be above 0"),
        ({"position": Rotary(fraction=0.0)}, "position.fraction: must be above 0 and at most 1, got 0.0; use NoPos"),
        ({"position": Rotary(fraction=1.5)}, "position.fraction: must be above 0 and at most 1, got 1.5"),
        (
            {"position": Rotary(fraction=0.25)},
            "position.fraction: 0.25 rotates 1 of the 4 dimensions of a head; they rotate in pairs, so this must be",
        ),
        ({"position": Rotary(fraction=0.6)}, "position.fraction: 0.6 rotates 2.4 of the 4 dimensions"),
        ({"position": rotary(LinearScaling(factor=0.5))}, "position.scaling.factor: must be at least 1, got 0.5"),
        ({"position": rotary(NTK(factor=0.5))}, "position.scaling.factor: must be at least 1, got 0.5"),
        (
            {"position": Rotary(fraction=0.5, scaling=NTK(factor=2.0))},
            "position.scaling: NTK needs at least two pairs of rotated dimensions, got one",
        ),
        (
            {"position": Rotary(fraction=0.5, scaling=DynamicNTK(factor=2.0, original_length=8))},
            "position.scaling: DynamicNTK needs at least two pairs",
        ),
        ({"position": rotary(DynamicNTK(factor=0.0, original_length=8))}, "position.scaling.factor: must be at least"),
        ({"position": rotary(DynamicNTK(factor=2.0, original_length=0))}, "position.scaling.original_length: must be"),
        ({"position": rotary(yarn(factor=0.0))}, "position.scaling.factor: must be at least 1, got 0.0"),
        ({"position": rotary(yarn(original_length=0))}, "position.scaling.original_length: must be at least 1, got 0"),
        ({"position": rotary(yarn(beta_slow=0.0))}, "position.scaling.beta_slow: must be above 0, got 0.0"),
        (
            {"position": rotary(yarn(beta_fast=0.9))},
            "position.scaling.beta_fast: must be at least beta_slow=1.0, got 0.9",
        ),
        ({"position": rotary(yarn(attention_factor=0.0))}, "position.scaling.attention_factor: must be above 0"),
        ({"position": rotary(yarn(mscale=1.0))}, "position.scaling.mscale: has no effect without mscale_all_dim"),
        (
            {"position": rotary(yarn(mscale_all_dim=1.0))},
            "position.scaling.mscale_all_dim: has no effect without mscale;",
        ),
        ({"position": rotary(yarn(mscale=0.0, mscale_all_dim=1.0))}, "position.scaling.mscale: must be above 0"),
        (
            {"position": rotary(yarn(mscale=1.0, mscale_all_dim=1.0, attention_factor=1.0))},
            "position.scaling.attention_factor: mscale and mscale_all_dim already give it",
        ),
        ({"position": Rotary(theta=1.0, scaling=yarn())}, "position.theta: must be above 1 for YaRN"),
        ({"position": rotary(llama3(factor=0.5))}, "position.scaling.factor: must be at least 1, got 0.5"),
        ({"position": rotary(llama3(original_length=0))}, "position.scaling.original_length: must be at least 1"),
        (
            {"position": rotary(llama3(low_frequency_factor=0.0))},
            "position.scaling.low_frequency_factor: must be above 0",
        ),
        (
            {"position": rotary(llama3(high_frequency_factor=0.5))},
            "position.scaling.high_frequency_factor: must be at least low_frequency_factor=1.0, got 0.5",
        ),
        (
            {"position": rotary(long(short_factors=(1.0,)))},
            "position.scaling.short_factors: must have 2 factors, one for",
        ),
        ({"position": rotary(long(long_factors=()))}, "position.scaling.long_factors: must have 2 factors, one for"),
        (
            {"position": rotary(long(short_factors=(1.0, 0.0)))},
            "position.scaling.short_factors: must be above 0, got 0",
        ),
        (
            {"position": rotary(long(long_factors=(-1.0, 1.0)))},
            "position.scaling.long_factors: must be above 0, got -1",
        ),
        (
            {"ffn": None, "mixer": None, "position": NoPositions()},
            "ffn: None, and mixer is None too, which leaves a layer empty",
        ),
        (
            {"exceptions": (Except(layers="1", ffn=None), Except(layers="1", mixer=None))},
            "exceptions.0.ffn: None, and mixer is None too, which leaves a layer empty; give it a mixer or an ffn",
        ),
        ({"mixer": None}, "position: Rotary acts only in attention, and layers with mixer=None have none"),
        (
            {"mixer": None, "position": NoPositions(), "dropout": Dropout(attention=0.1)},
            "dropout.attention: drops attention weights, and mixer=None has none",
        ),
        (
            {"ffn": None, "residual": Parallel(shared_norm=False)},
            "residual.shared_norm: no layer has both a mixer and a feed-forward",
        ),
        (
            {"ffn": None, "residual": Sandwich(ffn_input_norm=False)},
            "residual.ffn_input_norm: no layer has a feed-forward, whose input could have a norm; set it True",
        ),
        (
            {"exceptions": (Except(layers="1"),)},
            "exceptions.0.layers: these layers differ in nothing; give them a mixer",
        ),
        ({"position": rotary(long(original_length=1))}, "position.scaling.original_length: must be at least 2, got 1"),
        ({"position": rotary(long(factor=None))}, "position.scaling.attention_factor: give either this or factor"),
        ({"position": rotary(long(attention_factor=1.0))}, "position.scaling.attention_factor: give either this or fa"),
        ({"position": rotary(long(factor=0.9))}, "position.scaling.factor: must be at least 1, got 0.9"),
        (
            {"position": rotary(long(factor=None, attention_factor=0.0))},
            "position.scaling.attention_factor: must be above 0, got 0.0",
        ),
        (
            {"position": ALiBi(), "mixer": GroupedQuery(num_heads=4, qk_norm=QKNorm(after_positions=True))},
            "mixer.qk_norm.after_positions: needs rotary positions, and its layers have ALiBi; set it False",
        ),
        (
            {"exceptions": (Except(layers="1", mixer=LATE, position=NoPositions()),)},
            "exceptions.0.mixer.qk_norm.after_positions: needs rotary positions, and its layers have NoPositions",
        ),
        (
            {"position": Learned(), "exceptions": (Except(layers="1", position=ALiBi()),)},
            "exceptions.0.position: Learned positions are added before the first layer, for all of them alike",
        ),
        (
            {"position": ALiBi(), "exceptions": (Except(layers="1", position=Rotary(fraction=0.3)),)},
            "exceptions.0.position.fraction: 0.3 rotates 1.2 of the 4 dimensions",
        ),
        ({"position": Learned(offset=-1)}, "position.offset: must be 0 or more, got -1"),
        ({"position": Sinusoidal(theta=-1.0)}, "position.theta: must be above 0"),
        ({"position": ALiBi(scale=0.0)}, "position.scale: must be above 0, got 0.0; use NoPositions for no biases"),
        ({"norm": LayerNorm(epsilon=0.0)}, "norm.epsilon: must be above 0"),
        ({"norm": RMSNorm(epsilon=-1.0)}, "norm.epsilon: must be above 0"),
        ({"dropout": Dropout(attention=1.0)}, "dropout.attention: must be at least 0 and below 1, got 1.0"),
        ({"dropout": Dropout(embedding=-0.1)}, "dropout.embedding: must be at least 0"),
        ({"dropout": Dropout(residual=2.0)}, "dropout.residual: must be at least 0"),
        ({"initialization": Normal(std=0.0)}, "initialization.std: must be above 0"),
        ({"initialization": FanIn(embedding_std=0.0)}, "initialization.embedding_std: must be above 0"),
        (
            {"initialization": FanIn(scale_residual=True, zero_residual=True)},
            "initialization.zero_residual: scale_residual has nothing to scale",
        ),
        ({"initialization": FanIn(beta=0.0)}, "initialization.beta: must be above 0, got 0.0"),
        ({"initialization": Normal(beta=0.5)}, "initialization.beta: scale_residual already scales matrices"),
        (
            {"initialization": FanIn(beta=0.5, zero_residual=True)},
            "initialization.beta: zero_residual already scales",
        ),
        ({"precision": Precision(compute="float64")}, "precision.compute: expected 'float32' or"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value),
)
def test_what_is_refused(small, changes, message):
    config = small(**changes)
    with pytest.raises(UserError) as caught:
        check(config, "model")
    assert f"model.{message}" in str(caught.value) or message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2, "one problem, one line under the heading"


@pytest.mark.parametrize("act", [abstract_params, lambda config: init(config, jax.random.key(0))])
def test_the_model_refuses_what_check_refuses(small, act):
    with pytest.raises(UserError, match=r"model\.mixer\.num_heads: 5 heads do not divide"):
        act(small(mixer=GroupedQuery(num_heads=5)))


def test_what_looks_odd_and_is_allowed(small):
    check(small(mixer=GroupedQuery(num_heads=5, head_dim=2)))
    check(small(mixer=LATE, exceptions=(Except(layers="1", position=NoPositions()),)))  # the other layer is rotary
    check(small(mixer=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=15))))  # hides the first key of the last
    check(small(mixer=GroupedQuery(num_heads=16), position=Learned()))
    check(small(width=15, mixer=GroupedQuery(num_heads=3), position=NoPositions()))
    check(small(width=15, mixer=GroupedQuery(num_heads=3), position=ALiBi()))
    check(small(mixer=GroupedQuery(num_heads=2, head_dim=5), position=Rotary(fraction=0.4)))
    check(small(mixer=GroupedQuery(num_heads=2, head_dim=80), position=Rotary(fraction=0.7)))  # 56 but for rounding


def test_what_makes_no_other_model(small):
    """How it is trained, what keeps experts busy, and whether a number is given or follows from others."""
    plain = Experts(num_experts=4, top_k=2, expert=Gated(width=8), load_bias=LoadBias())
    one = small(ffn=plain, exceptions=(Except(layers="0", ffn=Gated(width=24)),), mixer=GroupedQuery(num_heads=4))
    busy = dataclasses.replace(
        plain, balance_loss=BalanceLoss(coefficient=0.1), router_z_loss=0.1, load_bias=LoadBias(rate=0.5)
    )
    given = GroupedQuery(num_heads=4, num_kv_heads=4, head_dim=4)
    other = dataclasses.replace(one, ffn=busy, dropout=Dropout(residual=0.1), remat="full", mixer=given)
    assert model_differences(one, other) == []
    assert model_differences(other, one) == []
    assert model_differences(one, dataclasses.replace(one, ffn=dataclasses.replace(plain, load_bias=None))) == [
        "model.ffn.load_bias: LoadBias(rate=0.001) -> None"
    ]
    fewer = dataclasses.replace(other, mixer=dataclasses.replace(given, num_kv_heads=2))
    assert model_differences(one, fewer) == ["model.mixer.num_kv_heads: None -> 2"]
    longer = dataclasses.replace(other, context_length=17, final_logit_softcap=3.0)
    assert model_differences(one, longer, "context_length") == ["model.final_logit_softcap: None -> 3.0"]
    layer = Except(layers="0", ffn=busy)
    of_layers = [dataclasses.replace(one, exceptions=(dataclasses.replace(layer, ffn=ffn),)) for ffn in (plain, busy)]
    assert model_differences(*of_layers) == []


def test_layers_are_made_once_and_are_no_part_of_the_value(small):
    one, other = small(), small()
    before = pickle.dumps(one)
    assert one.layers is one.layers
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    assert pickle.dumps(one) == before
    copied = pickle.loads(before)
    assert copied == one
    assert copied.layers == one.layers
    assert copy.copy(one) == one
    changed = dataclasses.replace(one, num_layers=one.num_layers + 1)
    assert len(changed.layers) == len(one.layers) + 1
