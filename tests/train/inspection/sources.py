"""Small models that read a source, with random parameters, as runs; and their attention in NumPy."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.encoder.additive import AdditiveAttention
from model.encoder.both_ways import BothWays
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.feedforward.mlp import MLP
from model.layout import ONE_DEVICE
from model.positions.absolute import NoPositions
from model.recurrent.gru import GRU
from tests.train.inspection.models import subject
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer

BOTH = ModelConfig(
    vocab_size=257,
    context_length=16,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=8, activation="relu"),
    position=NoPositions(),
    encoder=Encoder(
        num_layers=1,
        context_length=12,
        mixer=GroupedQuery(num_heads=4),
        ffn=None,
        position=NoPositions(),
        cross=CrossAttention(num_heads=4),
        start_token=7,
    ),
)
RECURRENT = dataclasses.replace(
    BOTH,
    mixer=GRU(),
    encoder=dataclasses.replace(BOTH.encoder, mixer=BothWays(mixer=GRU(head_dim=8)), cross=AdditiveAttention(units=6)),
)


def reads_source(config, seed=0):
    """A model with random parameters that reads a source of five tokens."""
    return dataclasses.replace(subject(config, seed), source_S=np.array([5, 9, 2, 11, 4], np.int32))


def run_of(config, seed=0):
    """A run of a model with random parameters, of bytes."""
    params = subject(config, seed).params
    return SimpleNamespace(
        folder="runs/both",
        step=3,
        experiment=SimpleNamespace(model=config),
        params=params,
        layout=ONE_DEVICE,
        tokenizer=BytesTokenizer(Bytes()),
    )
