"""Early config.json files, from before `transformers` had today's names for a model."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from model.errors import UserError
from model.families.config_json import as_json
from model.families.family import Family

# Falcon's first files, by their `model_type`, with the values that today's files give explicitly.
REFINED_WEB: dict[str, dict[str, Any]] = {
    "RefinedWeb": {"new_decoder_architecture": True},  # 40B
    "RefinedWebModel": {"new_decoder_architecture": False},  # 7B, and the models trained on RefinedWeb alone
}
REFINED_WEB_KEYS = {"n_head": "num_attention_heads", "n_head_kv": "num_kv_heads", "n_layer": "num_hidden_layers"}
# Of March 2023, when the class was LLaMAForCausalLM.
EARLY_LLAMA_KEYS = {"max_sequence_length": "max_position_embeddings"}


def modern(values: Mapping[str, Any], families: Iterable[Family]) -> dict[str, Any]:
    """Returns the values as a file of today gives them; values of today are returned as they are.

    Raises UserError for a file without `model_type` whose `architectures` does not name one family.
    """
    model_type = values.get("model_type")
    if isinstance(model_type, str) and model_type in REFINED_WEB:
        renamed = {REFINED_WEB_KEYS.get(key, key): value for key, value in values.items()}
        return REFINED_WEB[model_type] | renamed | {"model_type": "falcon", "architectures": ["FalconForCausalLM"]}
    if model_type == "llama" and values.get("max_position_embeddings") is None and "max_sequence_length" in values:
        return {EARLY_LLAMA_KEYS.get(key, key): value for key, value in values.items()}
    if model_type is None:
        families = tuple(families)
        named = [family for family in families if values.get("architectures") == [family.architecture]]
        if len(named) != 1:
            names = [family.name for family in named]
            raise _without_model_type(values.get("architectures"), names, families, "ssm_cfg" in values)
        return {**values, "model_type": named[0].model_types[0]}
    return dict(values)


def _without_model_type(
    architectures: Any, named: Collection[str], families: Iterable[Family], mamba_package: bool
) -> UserError:
    """Returns the error for a file whose `architectures` is the class of no family, or of several."""
    if named:
        return UserError(
            f"config.json has no model_type, and {architectures[0]} is the class of {' and '.join(named)}; add the "
            "model_type of the right one"
        )
    if mamba_package:
        return UserError(
            "config.json has no model_type: it is of the package mamba_ssm (ssm_cfg), whose names of tensors differ; "
            "take the model's repository for transformers, whose model_type is mamba2"
        )
    if not architectures:
        return UserError(
            "config.json has neither model_type nor architectures, so its family is unknown; add its model_type, or "
            "download the file again"
        )
    known = ", ".join(sorted({family.architecture for family in families}))
    return UserError(
        f"config.json has no model_type, and no family reads architectures={as_json(architectures)}\nknown: {known}"
    )
