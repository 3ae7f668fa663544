"""Published families: reading their config.json, and mapping their weights both ways; one file for each family.

To add a family, write its file (model/families/architectures/llama.py is the example) and name it in `FAMILIES`.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.errors import UserError
from model.families.architectures import (
    bloom,
    cohere,
    cohere2,
    deepseek,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    glm4,
    gpt1,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granitemoehybrid,
    grok,
    llama,
    llama4,
    mamba2,
    mistral,
    mixtral,
    olmo,
    olmo2,
    olmo3,
    olmoe,
    opt,
    phi,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    qwen3_next,
    smollm3,
    stablelm,
    starcoder2,
)
from model.families.family import Family
from model.options.words import nearest

FAMILIES: tuple[Family, ...] = (
    bloom.FAMILY,
    cohere.FAMILY,
    cohere2.FAMILY,
    deepseek.V2,
    deepseek.V3,
    falcon.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gemma4.FAMILY,
    glm4.FAMILY,
    gpt1.FAMILY,
    gpt2.FAMILY,
    gpt_bigcode.FAMILY,
    gpt_neo.FAMILY,
    gpt_neox.FAMILY,
    gpt_oss.FAMILY,
    gptj.FAMILY,
    granite.FAMILY,
    granitemoehybrid.FAMILY,
    grok.FAMILY,
    llama.FAMILY,
    llama4.FAMILY,
    mamba2.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    olmo.FAMILY,
    olmo2.FAMILY,
    olmo3.FAMILY,
    olmoe.FAMILY,
    opt.FAMILY,
    phi.FAMILY,
    phi.MSFT,
    phi3.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    qwen3_next.FAMILY,
    smollm3.FAMILY,
    stablelm.FAMILY,
    stablelm.EPOCH,
    starcoder2.FAMILY,
)


def family_of(values: Mapping[str, Any]) -> Family:
    """Returns the family of a config.json. Raises UserError, naming the nearest, for an unknown `model_type`."""
    known = {model_type: family for family in FAMILIES for model_type in family.model_types}
    name = values.get("model_type")
    if not isinstance(name, str) or name not in known:
        raise UserError(f"config.json: no family has model_type={name!r}; {nearest(str(name), known)}")
    return known[name]


def family_named(name: str) -> Family:
    """Returns the family of that name. Raises UserError, naming the nearest, when there is none."""
    known = {family.name: family for family in FAMILIES}
    if name not in known:
        raise UserError(f"no family is called {name!r}; {nearest(name, known)}")
    return known[name]


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a config.json describes. Raises UserError for a value that cannot be mapped."""
    return family_of(values).model_config(values)
