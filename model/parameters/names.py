"""Dotted names of the leaves of a tree, such as `blocks.mixer.query`: the one form in files, messages and patterns."""

from typing import Any

import jax


def path_name(path: Any) -> str:
    """Returns a tree path as dotted text."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: Any) -> dict[str, Any]:
    """Returns a tree as one dict from dotted names to leaves."""
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(like: Any, leaves: dict[str, Any]) -> Any:
    """The inverse of `flatten`, for a tree of the structure of `like`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [leaves[path_name(path)] for path, _ in paths])
