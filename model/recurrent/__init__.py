"""Mixers that carry a state of fixed size from token to token."""

from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace

__all__ = [
    "GRU",
    "LSTM",
    "GatedDelta",
    "LinearAttention",
    "StateSpace",
]
