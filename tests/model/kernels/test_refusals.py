"""Reasons are asked in order, and the first is the answer; those about pages."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from model.attention.patterns import Chunked, SlidingWindow
from model.kernels import new_request, refusals
from model.kernels.paged_array import PagedArray
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias


def test_the_first_reason():
    assert refusals.first(iter(["one", "two"])) == "one"
    assert refusals.first(iter([])) is None


def test_a_generator_is_asked_only_for_its_first():
    def reasons():
        yield "one"
        raise AssertionError("not asked")

    assert refusals.first(reasons()) == "one"


def reason_of_pages(queries=1, values=8, cleared=True, changed=None, scoring=None, keys=None, **asked):
    """The first reason against two rows that see pages of 4 tokens."""
    q = jnp.zeros((2, queries, 4, 8))
    k, v = (PagedArray(jnp.zeros((9, 2, 4, h)), jnp.zeros((2, 3), jnp.int32), cleared=cleared) for h in (8, values))
    index = jnp.zeros((2, queries), jnp.int32)
    visibility = causal(Coordinates(queries, index=index), keys or Coordinates(12))
    visibility = changed(visibility) if changed else visibility
    return refusals.first(refusals.of_pages(new_request(q, k, v, visibility, scoring or Scoring(1.0), **asked)))


PACKED = Coordinates(12, segment_ids=jnp.zeros((2, 12), jnp.int32))
OTHER = "a query sees all keys up to its own index, and no other choice of keys"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"scoring": Scoring(0.3, 5.0)}, None),
        ({"queries": 3}, "it takes one query a row, not 3"),
        ({"dropout": 0.1}, "it has no dropout of weights"),
        ({"bias": LinearBias((0.5,) * 4)}, "it adds no bias to scores"),
        ({"has_sinks": True}, "it has no sinks"),
        ({"scoring": Scoring(1.0, reductions="bfloat16")}, "its scores are float32, not bfloat16"),
        ({"values": 4}, "its keys and values have one width, not 8 and 4"),
        (
            {"changed": lambda x: x.with_pattern(SlidingWindow(size=9))},
            "it has no pattern such as SlidingWindow(size=9, first=0)",
        ),
        ({"changed": lambda x: x.with_pattern(Chunked(size=4))}, "it has no pattern such as Chunked(size=4)"),
        ({"changed": lambda x: bidirectional(x.queries, x.keys)}, OTHER),
        ({"changed": lambda x: x.with_prefix(3)}, OTHER),
        ({"changed": lambda x: x.with_mask(jnp.ones((1, 1, 12), bool))}, OTHER),
        (
            {"changed": lambda x: x.with_keys(PACKED), "keys": PACKED},
            None,  # documents are compared if both sides have them
        ),
        ({"changed": lambda x: causal(dataclasses.replace(x.queries, segment_ids=x.queries.index), PACKED)}, OTHER),
        ({"keys": Coordinates(12, 4)}, "its keys have the indices from 0 on"),
        ({"keys": Coordinates(12, index=jnp.zeros((2, 12), jnp.int32))}, "its keys have the indices from 0 on"),
        (
            {"cleared": False},
            "it gives keys that no query sees the weight 0, and these pages may hold NaN there",
        ),
    ],
)
def test_what_kernels_of_pages_refuse(asked, expected):
    assert reason_of_pages(**asked) == expected


def test_keys_in_arrays_and_modules_that_are_gone():
    x = jnp.zeros((2, 1, 4, 8))
    request = new_request(x, x, x, causal(Coordinates(1)), Scoring(1.0))
    assert list(refusals.of_pages(request)) == ["it reads keys in pages, and these lie in arrays"]
    assert list(refusals.of_module("jax.numpy")) == []
    for name in ("jax.no_such", "jax.no_such.kernel"):
        assert list(refusals.of_module(name)) == [f"jax {jax.__version__} has no module {name}"]
