"""Regions against whole tensors that are split and then cut, for every arrangement of every family."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from model.families import FAMILIES
from model.families.regions import as_slice, region, select, union
from tests.tiers import representatives

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"


def bounds_of(shape, ways):
    """The bounds of the shards when every axis that `ways` divides is split so many times; uneven at the end."""
    cuts = [
        [(0, size)] if size < ways else list(itertools.pairwise([*range(0, size, -(-size // ways)), size]))
        for size in shape
    ]
    return list(itertools.product(*cuts))


@pytest.mark.parametrize("family", representatives(FAMILIES, *FAMILIES[::4]), ids=lambda family: family.name)
def test_every_slice_of_every_parameter(family):
    for folder in sorted((FIXTURES / family.name).iterdir())[:2]:
        config = family.model_config(json.loads((folder / "config.json").read_text()))
        done = set()
        for tensor in family.tensors(config).values():
            geometry = tuple((part.split_shape, part.permutation, part.sections) for part in tensor.parts)
            if geometry in done:
                continue
            done.add(geometry)
            x = np.arange(np.prod(tensor.shape)).reshape(tensor.shape)
            for number, whole in enumerate(tensor.split(x)):
                for ways in (1, 2, 3):
                    for bounds in bounds_of(whole.shape, ways):
                        one = region(tensor, number, bounds)
                        held = union(tensor.shape, [one])
                        entries = select(x, [np.arange(n) for n in x.shape], held)
                        found = one.arrange(select(entries, held, one.positions))
                        np.testing.assert_array_equal(found, whole[tuple(slice(*b) for b in bounds)], tensor.name)


def test_a_slice_along_heads_is_its_rows_alone():
    """No more is read than the slice has, unless it cuts heads in two."""
    values = json.loads((FIXTURES / "llama" / "0" / "config.json").read_text())
    (family,) = [family for family in FAMILIES if family.name == "llama"]
    query = family.tensors(family.model_config(values))["model.layers.0.self_attn.q_proj.weight"]
    (part,) = query.parts
    width, heads, head_dim = part.slice_shape
    rows, columns = region(query, 0, ((0, width), (1, 2), (0, head_dim))).positions
    assert rows.tolist() == list(range(head_dim, 2 * head_dim))
    assert columns.tolist() == list(range(width))
    rows, columns = region(query, 0, ((2, 4), (0, heads), (0, head_dim))).positions
    assert columns.tolist() == [2, 3]
    assert len(rows) == heads * head_dim


def test_unions_and_slices_of_positions():
    assert as_slice(np.array([3, 5, 7])) == slice(3, 8, 2)
    assert as_slice(np.array([4])) == slice(4, 5, 1)
    assert as_slice(np.array([1, 2, 4])).tolist() == [1, 2, 4]
    x = np.arange(20).reshape(4, 5)
    held = (np.array([0, 1, 3]), np.arange(5))
    np.testing.assert_array_equal(
        select(x[[0, 1, 3]], held, (np.array([0, 3]), np.array([0, 1, 4]))), x[[0, 3]][:, [0, 1, 4]]
    )
