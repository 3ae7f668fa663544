"""Taps over a mesh of 4 x 2 devices: the numbers are the same, each device has its part, no collectives are added."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.recompute import SaveOnly
from model.taps.request import Tap, Taps
from model.transformer import forward, init, logical_axes
from tests.tiers import representatives
from tests.train.parallel.test_collectives import MESH, collectives
from train.parallel.mesh import make_mesh
from train.parallel.table import Sharding, layout_of, param_shardings

B, T, V = 8, 16, 64
MODEL = ModelConfig(
    vocab_size=V,
    context_length=T,
    num_layers=6,
    width=32,
    mixer=GroupedQuery(num_heads=4),
    ffn=Gated(width=48),
)
TOKENS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)


def replaced(x, site):
    """A vector for every token: nothing of it says how it lies on the mesh."""
    return jnp.broadcast_to(jnp.arange(x.shape[-1], dtype=x.dtype), x.shape)


def silenced(x, site):
    return x * (site.positions_BT % 2)[:, :, None, None].astype(x.dtype)


EDIT = {Tap("ffn_output", (1,)): replaced, Tap("mixer_heads", (2, 3)): silenced}
KEEP = (Tap("block_output", (2, 5)), Tap("mixer_heads", (0, 4)))


@functools.cache
def program(scan, taps, meshed=True, gradient=False):
    """Loss, logits and taps, or the gradient of the loss: the function with its arguments, and how these are placed."""
    config = dataclasses.replace(MODEL, scan_layers=scan)
    layout = layout_of(make_mesh(MESH), Sharding())

    def run(params, tokens):
        output = forward(config, params, tokens, taps=taps() if taps else (), **({"layout": layout} if meshed else {}))
        return jnp.mean(output.logits_BTV**2), (output.logits_BTV, output.taps)

    params = jax.jit(lambda: init(config, jax.random.key(0)))()
    function, places = jax.grad(run, has_aux=True) if gradient else run, {}
    if meshed:
        axes = logical_axes(config)
        shardings = param_shardings(layout.mesh, Sharding(), axes, params)
        places = {"in_shardings": (shardings, layout.placement(("batch", "sequence")))}
    return jax.jit(function, **places).lower(params, TOKENS).compile(), params


def all_taps():
    return Taps(KEEP, EDIT)


def edits_alone():
    return Taps(edit=EDIT)


@pytest.mark.parametrize("scan", representatives([True, False], True))
def test_edits_and_chosen_taps_are_those_of_one_device(scan):
    compiled, params = program(scan, all_taps)
    of_one, _ = program(scan, all_taps, meshed=False)
    got, expected = compiled(params, TOKENS), of_one(params, TOKENS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("scan", [True, False])
def test_each_device_keeps_its_own_part_of_chosen_taps(scan):
    compiled, _ = program(scan, all_taps)
    _, (_, kept) = compiled.output_shardings
    shapes = {"block_output": (2, B, T, 32), "mixer_heads": (2, B, T, 4, 8)}
    assert {name: kept[name].shard_shape(shape) for name, shape in shapes.items()} == {
        "block_output": (2, B // 4, T, 32),
        "mixer_heads": (2, B // 4, T, 2, 8),
    }


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("scan", representatives([True, False], True))
def test_an_edit_sends_nothing(scan, gradient):
    plain, edited = (program(scan, taps, gradient=gradient)[0].as_text() for taps in (None, edits_alone))
    assert collectives(plain)
    assert sum(collectives(edited).values()) <= sum(collectives(plain).values())


def test_saving_by_name_is_rematerialisation_on_a_mesh_too():
    config = dataclasses.replace(MODEL, remat=SaveOnly(taps=("query", "ffn_hidden")))
    layout = layout_of(make_mesh(MESH), Sharding())
    params = jax.jit(lambda: init(config, jax.random.key(0)))()

    def gradient(config, **options):
        return jax.jit(jax.grad(lambda p: jnp.mean(forward(config, p, TOKENS, **options).logits_BTV ** 2)))(params)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, gradient(config, layout=layout), gradient(MODEL))
