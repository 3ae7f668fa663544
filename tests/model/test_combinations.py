"""Random combinations of mechanisms: every model that can be built runs in every way."""

import dataclasses
import functools
import json
import random
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import Fixed
from model.config import ModelConfig
from model.cost import count_parameters
from model.dropout import Dropout
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.dispatch import Capacity
from model.kernels.selection import Kernels
from model.layers import Except
from model.options.annotations import alternatives, fields_of
from model.options.json import from_json, to_json
from model.options.tree import check, find_problems
from model.parameters.adapters import DoRA, LoRA
from model.parameters.maker import FanIn
from model.parameters.precision import Precision
from model.positions.absolute import Learned, NoPositions
from model.recompute import SaveOnly
from model.residual import PostNorm
from model.stack import empty_caches
from model.transformer import abstract_params, forward
from tests.model.encoder.parts import read_in_parts

# The numbers that a field is drawn from: few and small, so that most are compatible and operations compile once.
NUMBERS = {
    "vocab_size": [11],
    "context_length": [12],
    "num_layers": [1, 3, 5],
    "width": [8],
    "num_heads": [2, 4],
    "num_kv_heads": [1, 2],
    "head_dim": [4],
    "kv_from_layer": [0, 1],
    "rotary_head_dim": [2, 4],
    "convolution": [2, 3],
    "chunk": [3, 64],
    "epsilon": [1e-5, 1e-2],
    "theta": [100.0, 10_000.0],
    "original_length": [8, 10],  # not below LENGTH: beyond it a cache is another function (model/positions/scaling.py)
}
LAYERS = ["0", "-1", ":1", "1::2", "::3", "2:"]
# With room for every token in every expert: what is dropped depends on the tokens beside, of which a cache has fewer.
FIXED = {Dropout: Dropout(), Precision: Precision(), Capacity: Capacity(factor=9.0)}
FIXED |= {SaveOnly: SaveOnly(taps=("block_output",))}  # the tap that every layer has
FIXED |= {LoRA: LoRA(rank=2), DoRA: DoRA(rank=2)}
LENGTH = 8


def options(cls):
    """A strategy for the options of a class, field by field."""
    if cls in FIXED:
        return st.just(FIXED[cls])
    fields = {name: values(name, annotation) for name, annotation in fields_of(cls).items()}
    return st.builds(cls, **fields)


def values(name, annotation):
    """A strategy for the values that an annotation admits."""
    if name == "layers":
        return st.sampled_from(LAYERS)
    if name == "kernels":
        return st.just(Kernels())
    choices = []
    for a in alternatives(annotation):
        origin = typing.get_origin(a)
        if a is type(None):
            choices.append(st.none())
        elif origin is Literal:
            choices.append(st.sampled_from(typing.get_args(a)))
        elif origin is tuple:
            choices.append(st.lists(values("", typing.get_args(a)[0]), max_size=2).map(tuple))
        elif dataclasses.is_dataclass(a):
            choices.append(st.deferred(lambda a=a: options(a)))
        elif a is bool:
            choices.append(st.booleans())
        elif a in (int, float):
            usual = [1, 2, 3, 4] if a is int else [0.5, 1.0, 2.0]
            choices.append(st.sampled_from(NUMBERS.get(name, usual)))
        else:
            raise AssertionError((name, a))
    return st.one_of(choices)


def without_clashes(config):
    """Returns the config without its invalid exceptions; None if the rest is invalid too."""
    for _ in range(5):
        problems = find_problems(config)
        if not problems:
            return config
        path = problems[0].partition(":")[0].split(".")
        if path[0] != "exceptions" and not config.exceptions:
            return None
        wrong = int(path[1]) if path[0] == "exceptions" else 0
        kept = tuple(e for i, e in enumerate(config.exceptions) if i != wrong)
        config = dataclasses.replace(config, exceptions=kept)
    return None


def assert_close(one, other):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def parameters(config):
    """Random parameters, vectors around a half, so that each of them has an effect."""
    rng = np.random.default_rng(0)
    draw = lambda x: 0.3 * rng.standard_normal(x.shape) + 0.5 * (x.ndim < 3)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(draw(x), x.dtype), abstract_params(config))


def source_of(config):
    """What an encoder reads, the same for all targets; nothing for a model without one."""
    if config.encoder is None:
        return {}
    tokens = np.arange(2 * LENGTH, dtype=np.int32).reshape(2, LENGTH) * 3 % config.vocab_size
    return {"source": Source(jnp.asarray(tokens))}


def _logits_and_cache(config, params, tokens, positions, cache, source):
    output = forward(config, params, tokens, positions_BT=positions, cache=cache, **source)
    return output.logits_BTV, output.cache


def drawn_configs(count):
    """A decorator for a test of so many random configs, the same at each call."""

    def decorate(function):
        phases = [Phase.generate]  # what fails is shown as it was drawn: to shrink it takes minutes
        limited = settings(max_examples=count, suppress_health_check=list(HealthCheck), phases=phases)
        return seed(12)(limited(given(options(ModelConfig).map(without_clashes))(function)))

    return decorate


@drawn_configs(1)
def test_whatever_can_be_built_works(config):
    check_every_way(config)


@pytest.mark.sweep
@drawn_configs(12)
def test_more_of_it_works(config):
    check_every_way(config)


def check_every_way(config):
    """Scanned and written out, causal and cached where it decodes, and with gradients."""
    assume(config is not None)
    params = parameters(config)
    assert count_parameters(config).total == sum(x.size for x in jax.tree.leaves(params))
    tokens = np.arange(2 * LENGTH, dtype=np.int32).reshape(2, LENGTH) % config.vocab_size

    source = source_of(config)
    run = jax.jit(lambda p, t: forward(config, p, t, **source).logits_BTV)
    full = run(params, tokens)
    assert np.isfinite(full).all()

    other = dataclasses.replace(config, scan_layers=not config.scan_layers)
    assert_close(jax.jit(lambda p, t: forward(other, p, t, **source).logits_BTV)(params, tokens), full)

    if config.visibility.decodes:
        check_order(config, params, tokens, run, full)

    def objective(p):
        output = forward(config, p, tokens, **source, weights_BT=jnp.ones(tokens.shape), targets_BT=tokens)
        return jnp.mean(jnp.sin(output.logits_BTV)) + sum(output.losses.values())

    gradients = jax.jit(jax.grad(objective))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def check_order(config, params, tokens, run, full):
    """Causal, and from a cache as whole."""
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % config.vocab_size
    np.testing.assert_array_equal(run(params, changed)[:, :5], full[:, :5])

    step = jax.jit(functools.partial(_logits_and_cache, config, params))
    sizes, cache = LENGTH // 2 * [2], empty_caches(config, 2, LENGTH + 2)
    assert_close(read_in_parts(step, tokens, sizes, cache, source_of(config)), full)


# ------------------------------------------------------------------------------------------------------- mutations

JUNK = [None, True, -1, 0, 1, 3, 7, 1.5, -2.0, 1e30, float("nan"), "", "x", "::2", [], [1], {}, {"type": "Gated"}]


def places(tree, path=()):
    """Every path in a JSON tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, below in items:
        yield from places(below, (*path, name))


def mutated(tree, draw):
    """A JSON tree with one item replaced, removed, renamed or copied from elsewhere in the tree."""
    tree = json.loads(json.dumps(tree))
    *above, last = draw.choice([path for path in places(tree) if path])
    node = functools.reduce(lambda node, name: node[name], above, tree)
    action = draw.choice(["junk", "junk", "junk", "remove", "rename", "other"])
    if action == "junk":
        node[last] = draw.choice(JUNK)
    elif action == "other":
        found = functools.reduce(lambda node, name: node[name], draw.choice(list(places(tree))), tree)
        node[last] = json.loads(json.dumps(found))
    elif action == "rename" and isinstance(node, dict):
        node[f"{last}s"] = node.pop(last)
    else:
        del node[last]
    return tree


STARTS = [
    {"exceptions": (Except(layers="1", mixer=GroupedQuery(num_heads=2, qk_norm=QKNorm()), position=NoPositions()),)},
    {
        "mixer": Latent(num_heads=2, kv_rank=3, head_dim=2, rotary_head_dim=2, value_head_dim=2),
        "residual": PostNorm(),
    },
    {"mixer": GroupedQuery(num_heads=4, pattern=Fixed(stride=3)), "position": Learned(), "initialization": FanIn()},
]


def refusal(tree):
    """Returns the error of a config in JSON; builds it and returns None if it is valid."""
    try:
        config = from_json(ModelConfig, tree)
        check(config, "model")
    except UserError as error:
        return str(error)
    abstract_params(config)
    return None


@pytest.mark.parametrize("start", STARTS, ids=range(len(STARTS)))
def test_mutations_build_or_raise_an_error_that_says_what(start, small):
    draw, tree = random.Random(0), to_json(small(**start))
    said = [refusal(mutated(tree, draw)) for _ in range(350)]
    assert min(said.count(None), len(said) - said.count(None)) > 20
    names = {"ModelConfig"} | {part for path in places(tree) for part in path if isinstance(part, str)}
    assert [text for text in said if text is not None and not any(name in text for name in names)] == []
