"""Dotted names of dicts, fields of dataclasses and places in tuples, and back."""

import dataclasses

import jax

from model.parameters.names import flatten, path_name, unflatten


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    left: object
    right: object


TREE = {"blocks": Pair(left={"query": 1, "key": 2}, right=(3, [4])), "step": 5}
NAMES = {"blocks.left.query": 1, "blocks.left.key": 2, "blocks.right.0": 3, "blocks.right.1.0": 4, "step": 5}


def test_a_leaf_is_named_by_keys_fields_and_numbers():
    assert flatten(TREE) == NAMES
    assert [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(TREE)] == list(flatten(TREE))


def test_unflatten_is_the_inverse_whatever_the_order():
    reordered = dict(sorted(NAMES.items(), reverse=True))
    assert unflatten(jax.tree.map(lambda _: 0, TREE), reordered) == TREE
