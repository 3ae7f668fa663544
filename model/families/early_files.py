"""Early config.json files, from before `transformers` had today's names for a model."""

from collections.abc import Iterable, Mapping
from typing import Any

from model.errors import UserError
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
        named = [family for family in families if values.get("architectures") == [family.architecture]]
        if len(named) != 1:
            raise UserError(
                f"config.json has no model_type, and its architectures={values.get('architectures')!r} is no class of "
                f"one family; known: {', '.join(sorted(family.architecture for family in families))}"
            )
        return {**values, "model_type": named[0].model_types[0]}
    return dict(values)
