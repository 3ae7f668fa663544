"""A config file, and the refusal of one."""

import pytest

from model.errors import UserError
from train.config_file import from_file

CONFIG = """
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from train.data.config import Data
from train.experiment import Experiment, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment = Experiment(
    model=ModelConfig(
        vocab_size=4096, context_length=256, num_layers=2, width=32, mixer=GroupedQuery(num_heads=4), ffn=Gated(width=64)
    ),
    data=Data(batch_size=8),
    training=Training(num_steps=20),
    optimizer=AdamW(),
    schedule=Cosine(peak=1e-3),
)
"""


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        from_file(*arguments)
    return str(caught.value)
