"""What happened when published weights were read, recorded in RUN/origin and told to the user.

The record holds the keys of config.json that were ignored, the refused keys that the user accepted, and, for the
language model of a multimodal model, the kind of that model and the tensors that were left out.
"""

from collections.abc import Mapping
from typing import Any

from model.families.config_json import as_json
from train.files.files import read_json
from train.files.paths import AnyPath
from train.run.folder import ORIGIN

RECORD = "conversion.json"


def read_record(origin: AnyPath) -> dict[str, Any]:
    """What the reading of a run's origin recorded; nothing in a run of an earlier release."""
    empty: dict[str, Any] = {"ignored": {}, "accepted": {}}
    return empty | read_json(origin / RECORD) if (origin / RECORD).is_file() else empty


def reading_notes(record: Mapping[str, Any], architecture: str) -> list[str]:
    """Lines for the user about a reading."""
    notes = accepted_notes(record)
    if record["ignored"]:
        listed = _listed(record["ignored"])
        notes.append(f"ignored keys of config.json, which no {architecture} of transformers reads: {listed}")
    if "language_model_of" in record:
        parts = [
            f"{prefix} ({part['tensors']:,} tensors, {part['bytes'] / 1e6:,.1f} MB)"
            for prefix, part in record["left_out"].items()
        ]
        left_out = ", ".join(parts) or "nothing"
        notes.append(f"the language model of this {record['language_model_of']} is read; left out: {left_out}")
    return notes


def accepted_notes(record: Mapping[str, Any]) -> list[str]:
    """A line about keys that the user accepted; none where there are none."""
    if not record["accepted"]:
        return []
    return [f"accepted keys of config.json, which have no effect here: {_listed(record['accepted'])}"]


def written_notes(run: AnyPath) -> list[str]:
    """Lines for the user about a run that was written back as published weights."""
    record = read_record(run / ORIGIN)
    notes = accepted_notes(record)
    if "language_model_of" in record:
        values = read_json(run / ORIGIN / "config.json")
        notes.append(
            f"the run was read from a {record['language_model_of']}: this is its language model alone, a "
            f"{values['architectures'][0]} with model_type {values['model_type']}"
        )
    return notes


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={as_json(value)}" for key, value in values.items())
