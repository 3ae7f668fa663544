"""Makes the config.json of a run that has none of its own, from its model or from another config.json."""

import contextlib
from collections.abc import Sequence
from typing import Any

from model.config import ModelConfig, model_differences
from model.errors import UserError
from model.families import FAMILIES, family_named, published_model
from model.families.family import Family
from model.families.sizes import SIZES
from model.options.words import nearest
from train.files.files import read_json
from train.files.paths import AnyPath, user_path

# Keys of a config.json that describe its files and not the model.
FILE_KEYS = ("_name_or_path", "auto_map", "dtype", "prefix", "tokenizer_class", "transformers_version")
# The families' keys for the largest number of tokens in a sequence.
CONTEXT_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "seq_length")


def family_for(name: str | None, run: AnyPath) -> Family:
    """The family of that name. Raises UserError, with alternatives, if it cannot make a config.json from a model."""
    known = ", ".join(sorted(family.name for family in FAMILIES if family.write_config))
    other = "--like=FILE, a config.json that describes its model, or --like=NAME, a published model such as qwen3-0.6b"
    if name is None:
        raise UserError(
            f"{run} was not read from published weights, so describe its config.json: with {other}; or with "
            f"--family, which makes one for: {known}"
        )
    family = family_named(name)
    if family.write_config is None:
        raise UserError(
            f"--family={name}: a config.json is made from a model for {known} alone; for {name} give {other}"
        )
    return family


def config_like(
    like: str, config: ModelConfig, run: AnyPath, accept: Sequence[str] = ()
) -> tuple[Family, dict[str, Any], dict[str, Any]]:
    """The config.json of a run's model, made from another config.json.

    Args:
      like: a config.json that describes the model, its folder, or the name of a published model.
      config: the model's options.
      run: the run folder, for messages.
      accept: refused keys of the config.json that are left out.

    Returns:
      Its family, its values, and the values in which the run differs from `like`: the size of the vocabulary and the
      context length.

    Raises:
      UserError: when `like` is none of these, or describes another model; it lists every field that differs.
    """
    path = user_path(like)
    path = path / "config.json" if path.is_dir() else path
    by_name = {name: values for name, values in SIZES.items() if not isinstance(values, ModelConfig)}
    if path.is_file():
        given = read_json(path, remedy="get it again")
    elif like in by_name:
        given = by_name[like]
    elif like in SIZES:
        raise UserError(f"--like={like} is known from its paper, and no family has a config.json for it; give a file")
    else:
        hint = "" if "/" in like else f"; {nearest(like, by_name)}"
        raise UserError(f"--like={like} is no config.json, no folder with one, and no published model's name{hint}")
    published = published_model(given)
    family, given = published.family, published.values
    family.read(given, accept)  # raises for keys that need not be accepted
    given = {key: value for key, value in given.items() if key not in accept}
    run_values: dict[str, Any] = {"vocab_size": config.vocab_size}
    for key in CONTEXT_LENGTH_KEYS:
        with contextlib.suppress(UserError):  # a key that the family does not have
            candidate = run_values | {key: config.context_length}
            if family.model_config(given | candidate).context_length == config.context_length:
                run_values = candidate
                break
    own = [  # parts of the run that no config.json can say
        name
        for name, fields in family.parts_of_files.items()
        if all(getattr(config, field) == value for field, value in fields.items())
    ]
    mismatches = model_differences(family.with_parts(family.model_config(given | run_values), own), config)
    if mismatches:
        listed = "\n  ".join(mismatches)
        raise UserError(
            f"the model of {run} is not the one that --like={like} describes (its value -> this run's):\n  {listed}\n"
            "Give a config.json with this run's values; vocab_size and context_length may differ: the run's are written"
        )
    model_values = {k: v for k, v in given.items() if k not in FILE_KEYS and not k.endswith("_token_id")}
    changed = {key: value for key, value in run_values.items() if given.get(key) != value}
    return family, {"architectures": [family.architecture]} | model_values | run_values, changed
