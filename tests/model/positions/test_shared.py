"""A table of relative positions that all layers share, as in T5."""

import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.layers import Except
from model.options.tree import find_problems
from model.positions.relative import RelativeBias
from model.transformer import abstract_params

SHARED = RelativeBias(buckets=8, max_distance=20, shared=True)


def test_one_table_is_the_same_table_in_every_layer(small, drawn, run, tokens):
    own, shared = small(position=RelativeBias(buckets=8, max_distance=20)), small(position=SHARED)
    params = drawn(shared)
    assert params["position_bias"].shape == (8, 4)
    assert "position_bias" not in params["blocks"]["mixer"]
    repeated = {**params, "blocks": {**params["blocks"]}}
    table = repeated.pop("position_bias")
    repeated["blocks"]["mixer"] = params["blocks"]["mixer"] | {"position_bias": jnp.stack([table, table])}
    np.testing.assert_array_equal(run(shared, params, tokens)[0], run(own, repeated, tokens)[0])


def test_a_model_without_has_none(small):
    assert "position_bias" not in abstract_params(small())


def test_what_is_refused(small):
    one = small(position=SHARED, num_layers=1)
    assert any("position.shared: one layer alone" in problem for problem in find_problems(one, ""))
    heads = small(position=SHARED, exceptions=(Except(layers="1", mixer=GroupedQuery(num_heads=2)),))
    assert any("have [2, 4] heads" in problem for problem in find_problems(heads, ""))
    other = RelativeBias(buckets=6, max_distance=20, shared=True)
    buckets = small(position=SHARED, exceptions=(Except(layers="1", position=other),))
    assert any("some have other buckets" in problem for problem in find_problems(buckets, ""))
