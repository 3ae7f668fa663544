"""Published families: reading their config.json, and mapping their weights both ways; one file for each family.

To add a family, write its file (model/families/architectures/llama.py is the example) and name it in `FAMILIES`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from model.config import ModelConfig
from model.errors import UserError
from model.families.architectures import (
    baichuan,
    bart,
    bert,
    bloom,
    cohere,
    cohere2,
    deepseek,
    dots1,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    glm4,
    glm4_moe,
    gpt1,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granite_moe,
    granitemoehybrid,
    grok,
    internlm2,
    llama,
    llama4,
    mamba2,
    ministral3,
    mistral,
    mixtral,
    modernbert,
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
    roberta,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    t5,
)
from model.families.config_json import as_json
from model.families.early_files import modern
from model.families.family import Family, Reading
from model.families.multimodal import MULTIMODAL, Multimodal, text_type_of, text_values
from model.families.quantization import method_not_read, quantization_of
from model.options.words import misspelt, nearest

FAMILIES: tuple[Family, ...] = (
    baichuan.FAMILY,
    bart.FAMILY,
    bert.FAMILY,
    bloom.FAMILY,
    cohere.FAMILY,
    cohere2.FAMILY,
    deepseek.V2,
    deepseek.V3,
    dots1.FAMILY,
    falcon.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gemma4.FAMILY,
    glm4.FAMILY,
    glm4_moe.FAMILY,
    gpt1.FAMILY,
    gpt2.FAMILY,
    gpt_bigcode.FAMILY,
    gpt_neo.FAMILY,
    gpt_neox.FAMILY,
    gpt_oss.FAMILY,
    gptj.FAMILY,
    granite.FAMILY,
    granitemoehybrid.FAMILY,
    granite_moe.PLAIN,
    granite_moe.SHARED,
    grok.FAMILY,
    internlm2.FAMILY,
    deepseek.KIMI_K2,
    llama.FAMILY,
    llama4.FAMILY,
    mamba2.FAMILY,
    ministral3.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    modernbert.FAMILY,
    olmo.FAMILY,
    olmo.HF,
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
    roberta.FAMILY,
    seed_oss.FAMILY,
    smollm3.FAMILY,
    stablelm.FAMILY,
    stablelm.EPOCH,
    starcoder2.FAMILY,
    t5.FAMILY,
)


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A language model as a config.json describes it.

    Attributes:
      family: its family.
      values: the values of its config.json; those of the language model where the file describes a multimodal model.
      multimodal: the multimodal model, if the file describes one.
    """

    family: Family
    values: dict[str, Any]
    multimodal: Multimodal | None = None

    def read(self, accepted: Collection[str] = ()) -> Reading:
        """Returns the model and what happened to the keys; see `Family.read`."""
        return self.family.read(self.values, [path.removeprefix("text_config.") for path in accepted])


def published_model(values: Mapping[str, Any], tensors: Collection[str] | None = None) -> PublishedModel:
    """Returns the language model that a config.json describes.

    Args:
      values: the values of the config.json.
      tensors: the names of the tensors beside it, where they are known; see `model.families.multimodal.text_values`.

    Raises:
      UserError: for an unknown `model_type`; the error lists the known ones.
    """
    values = modern(values, FAMILIES)
    families = {model_type: family for family in FAMILIES for model_type in family.model_types}
    kinds = {kind.model_type: kind for kind in MULTIMODAL}
    name = values["model_type"]
    if isinstance(name, str) and name in families:
        return PublishedModel(families[name], values)
    if not isinstance(name, str) or name not in kinds:
        raise _unknown_type(values, sorted({*families, *kinds}))
    kind = kinds[name]
    if (architectures := values.get("architectures") or []) not in ([], [kind.architecture]):
        quantization_of(values)  # one that is not read is the first thing to say
        alone = [text for text in kind.text_types.values() if architectures == [families[text].architecture]]
        remedy = "take the model in that form, which transformers reads"
        if alone:
            remedy = f"or, for a language model alone, model_type={as_json(alone[0])}; correct the wrong one"
        raise UserError(
            f"config.json: architectures={as_json(architectures)}, expected {kind.architecture} for model_type="
            f"{as_json(name)}; {remedy}"
        )
    text_type = text_type_of(kind, values)
    if text_type is None:
        quantization_of(values)
        raise UserError(
            f"config.json: text_config.model_type={as_json(values['text_config']['model_type'])} is not supported in a "
            f"{name}: expected {' or '.join(kind.text_types)}"
        )
    family = families[kind.text_types[text_type]]
    text = text_values(kind, values, text_type, family.aliases, tensors)
    return PublishedModel(family, {"architectures": [family.architecture], **text}, kind)


def _unknown_type(values: Mapping[str, Any], known: Collection[str]) -> UserError:
    """Returns the error for a `model_type` that no family reads. A misspelt one gets the name that is meant."""
    name, method = values["model_type"], method_not_read(values)
    meant = misspelt(name, known) if isinstance(name, str) else None
    hint = "" if meant is None else f"; did you mean {meant!r}?"
    also = "" if method is None else f", and weights quantised with {method} are not read either"
    return UserError(f"config.json: no family reads model_type={as_json(name)}{hint}{also}\nknown: {', '.join(known)}")


def family_of(values: Mapping[str, Any]) -> Family:
    """Returns the family of the language model that a config.json describes; see `published_model`."""
    return published_model(values).family


def family_named(name: str) -> Family:
    """Returns the family of that name. Raises UserError, naming the nearest, when there is none."""
    known = {family.name: family for family in FAMILIES}
    if name not in known:
        raise UserError(f"no family is called {name!r}; {nearest(name, known)}")
    return known[name]


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a config.json describes. Raises UserError for a value that cannot be mapped."""
    return published_model(values).read().config
