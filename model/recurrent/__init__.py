"""Recurrent mixers: they carry a state of fixed size from token to token."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    linear="LinearAttention",
    delta="GatedDelta",
    lstm="LSTM",
    gru="GRU",
    state_space="StateSpace",
)
