import pytest

from model.errors import UserError
from model.families import family_named
from model.vocabulary.pooling import Pooler


def test_a_model_that_a_family_does_not_have(tmp_path, tiny_experiment):
    config = tiny_experiment(model__final_logit_softcap=9.0, model__position="NoPositions()").model
    with pytest.raises(UserError, match="the family llama has no such model") as error:
        family_named("llama").config_json(config)
    assert "model.final_logit_softcap: 9.0 -> None" in str(error.value)
    assert "model.position: NoPositions() -> Rotary" in str(error.value)


def test_a_part_that_some_files_have():
    family = family_named("roberta")
    config = family.model_config({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]})
    name = "roberta.pooler.dense.weight"
    assert family.with_parts(config, {"roberta.encoder.layer.0.output.dense.weight"}) == config
    pooled = family.with_parts(config, {name})
    assert pooled.pooler == Pooler()
    assert name in family.tensors(pooled)
    assert name not in family.tensors(config)
