"""How the optimizer treats the parts of an adapted matrix."""

from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.parameters.adapters import DoRA
from model.positions.absolute import NoPositions
from tests.train.optimizers.test_every_parameter import SIZES, treatment

ADAPTED = {
    "blocks.ffn.up.base": "value untrained decayed [embed -> ffn]",
    "blocks.ffn.up.lora_a": "adapter decayed stored",
    "blocks.ffn.up.lora_b": "adapter decayed stored",
    "blocks.ffn.up.magnitude": "magnitude stored",
}


def test_factors_are_float32_and_decayed_and_magnitudes_are_not_decayed():
    """All else is frozen; the format of what is used is that of the model."""
    option = DoRA(rank=2, roles=("value",))
    config = ModelConfig(num_layers=1, mixer=None, ffn=MLP(width=12), adapters=option, position=NoPositions(), **SIZES)
    found = treatment(config)
    assert {name: words for name, words in found.items() if ".up." in name} == ADAPTED
    assert all("untrained" in words for name, words in found.items() if ".up." not in name)
