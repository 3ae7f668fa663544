import numpy as np
import pytest

from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, specs
from train.lab.by_layer import by_layer, plain_name


@pytest.mark.parametrize("exceptions", ["()", "(Except(layers='1::2', ffn=MLP(width=8)),)"])
def test_every_number_is_in_one_layer(exceptions, tiny_experiment):
    model = tiny_experiment(model__num_layers=4, model__exceptions=exceptions).model
    arrays = {name: np.ones(x.shape) for name, x in flatten(abstract_params(model)).items()}
    parts = list(by_layer(model, specs_by_name(specs(model)), arrays))
    assert sum(part.values.size for part in parts) == sum(x.size for x in arrays.values())
    assert [part.place for part in parts if part.layer is None] == ["embedding", "final_norm"]
    of_mixers = [part.layer for part in parts if part.name.endswith("mixer.query")]
    assert sorted(of_mixers) == [0, 1, 2, 3]
    widths = {part.layer: part.values.shape[-1] for part in parts if part.name.endswith("ffn.up")}
    assert widths == ({0: 64, 1: 64, 2: 64, 3: 64} if exceptions == "()" else {0: 64, 1: 8, 2: 64, 3: 8})


def test_a_name_without_its_stack(tiny_experiment):
    grouped = tiny_experiment(model__num_layers=4, model__exceptions="(Except(layers='1::2', ffn=MLP(width=8)),)").model
    assert plain_name(grouped, "blocks.1.ffn.up") == "blocks.ffn.up"
    assert plain_name(tiny_experiment().model, "blocks.ffn.up") == "blocks.ffn.up"
    assert plain_name(grouped, "final_norm.scale") == "final_norm.scale"
