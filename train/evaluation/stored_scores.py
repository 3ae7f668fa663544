"""A file of the scores of documents, from which an interrupted evaluation continues with exactly the same numbers.

Its first line says which evaluation it belongs to; every further line is the score of one document, written when the
document is finished. A line that was half written when the process died is dropped.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.parameters.names import flatten
from train.evaluation.document_scores import DocumentScore
from train.files.files import LineFile, cannot_read

FORMAT = 1
REMEDY = "delete it to begin anew, or name another file"


class StoredScores:
    """The scores of one evaluation on the disk.

    Attributes:
      scores: those of the documents that were finished when the file was opened, by number.
    """

    def __init__(self, path: pathlib.Path, identity: Mapping[str, Any]) -> None:
        """Opens or makes the file of an evaluation with this identity, a mapping of JSON values.

        Raises UserError when the file belongs to another evaluation, with the values that differ; when it is damaged;
        and when it cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            raise cannot_read(path, error) from error
        lines = [_parsed(path, number, line) for number, line in enumerate(content.split(b"\n")[:-1], start=1)]
        begun = {"format": FORMAT, "identity": json.loads(json.dumps(identity))}
        if content:
            _refuse_other(path, lines[0] if lines else None, begun)
        self.scores = {score.number: score for score in (_score(path, line) for line in lines[1:])}
        self._file = LineFile(path)
        if not content:
            self._append(begun)

    def add(self, score: DocumentScore) -> None:
        """Writes the score of a finished document."""
        self._append(score.as_json())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, values: Mapping[str, Any]) -> None:
        self._file.append(json.dumps(values).encode() + b"\n")


def _parsed(path: pathlib.Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: no result of a document ({error}); {REMEDY}") from None


def _score(path: pathlib.Path, values: Any) -> DocumentScore:
    try:
        return DocumentScore.from_json(values)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds a line that is no result of a document ({error!r}); {REMEDY}") from None


def _refuse_other(path: pathlib.Path, found: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} holds no results of documents; {REMEDY}")
    here, there = expected["identity"], found["identity"]
    changed = [
        f"{name}: {there.get(name)} -> {here.get(name)}"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]
    if changed:
        listed = "\n  ".join(changed)
        raise UserError(
            f"{path} holds the results of another evaluation (its value -> this one's):\n  {listed}\n{REMEDY}"
        )


def fingerprint_of_params(params: Any) -> str:
    """A short hash that changes when the parameters do; every device sums its own shards."""

    def sums(params: Any) -> dict[str, jax.Array]:
        def two(x: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            return jnp.stack([jnp.sum(x), jnp.sum(x * jnp.cos(jnp.arange(x.shape[-1], dtype=jnp.float32)))])

        return {name: two(x) for name, x in flatten(params).items() if x.ndim}

    found = jax.device_get(jax.jit(sums)(params))
    content = b"".join(name.encode() + np.asarray(found[name]).tobytes() for name in sorted(found))
    return hashlib.sha256(content).hexdigest()[:16]
