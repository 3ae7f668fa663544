"""Positions: absolute positions, rotary positions and their scaling, biases on attention scores."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    absolute="Learned NoPositions Sinusoidal",
    rotary="Rotary",
    alibi="ALiBi",
    relative="RelativeBias",
    scaling="DynamicNTK LinearScaling Llama3Scaling LongRoPE NTK YaRN",
    query_scale="LogTemperature",
)
