"""The arrays of an engine: groups of layers with the same reach, their pages, and states that start at zero."""

import dataclasses

import jax
import numpy as np

from model.inference.engine.device_state import PagedLayer, Rows, plan_cache
from model.inference.engine.options import EngineOptions
from model.layout import ONE_DEVICE, Layout
from tests.model.inference.engine.serving import MODELS

OPTIONS = EngineOptions(rows=3, page_size=4, tokens_per_step=5)


def rows_of(first, state, tables=()):
    count = len(first)
    return Rows(
        np.zeros((count, 1), np.int32), np.array(first), np.ones(count), np.ones(count), np.array(state), tables
    )


def test_layers_with_one_reach_share_a_table():
    plan = plan_cache(MODELS["window"], OPTIONS, 80)
    assert plan.reaches == (5, None)
    assert plan.num_pages == (3 * 4, 20)  # a window of 5 and a step of 5 tokens lie in at most 4 pages
    assert [layer.group for _, layer in plan.layers] == [0, 1]
    assert plan.pages_of_text == 10
    assert plan.shapes()["0"]["k"].shape == (12, 2, 4, 4)


def test_a_layer_without_keys_of_its_own_has_no_pages():
    plan = plan_cache(MODELS["keys of an earlier layer"], OPTIONS, 80)
    assert [name for name, _ in plan.layers] == ["0"]


def test_a_latent_cache_has_one_array():
    plan = plan_cache(MODELS["latent"], OPTIONS, 80)
    layer = dict(plan.layers)["0"]
    assert isinstance(layer, PagedLayer)
    assert layer.shapes == (("latent", 1, 12, "float32"),)


def test_pages_are_cleared_where_a_kernel_reads_what_is_not_written():
    plan = plan_cache(MODELS["dense"], OPTIONS, 80)
    rows = rows_of([0, 0, 0], [0, 1, 2], (np.zeros((3, 10), np.int32),))

    @dataclasses.dataclass(frozen=True)
    class Elsewhere(Layout):
        platform: str = "cpu"
        num_devices: int = 1

    layouts = [Elsewhere("cpu"), Elsewhere("gpu"), Elsewhere("tpu"), Elsewhere("tpu", 4)]
    clears = [plan.caches(plan.empty(ONE_DEVICE), rows, layout)["0"].clears for layout in layouts]
    assert clears == [False, True, True, False]


def test_states_start_at_zero_and_return_to_their_row():
    plan = plan_cache(MODELS["GRU"], OPTIONS, 80)
    assert plan.has_states
    state = jax.tree.map(
        lambda x: x + np.arange(1, len(x) + 1).reshape(-1, *[1] * (x.ndim - 1)), plan.empty(ONE_DEVICE)
    )
    rows = rows_of([2, 0, 1], [2, 0, 3], (np.zeros((3, 10), np.int32),))
    caches = plan.caches(state, rows, ONE_DEVICE)
    hidden = np.asarray(caches["0"].arrays["hidden"])
    assert (hidden[0] == 3).all()
    assert (hidden[1] == 0).all()
    doubled = {
        name: jax.tree.map(lambda x: x * 0 + 9, cache) if name == "0" else cache for name, cache in caches.items()
    }
    after = np.asarray(plan.with_caches(state, doubled, rows, ONE_DEVICE)["0"]["hidden"])
    assert (after[[0, 2]] == 9).all()
    assert (after[1] == 2).all()  # neither a row of the pass, nor overwritten by the row without a text
