"""Positions: absolute ones, rotary ones and their scaling, biases of scores."""

from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
from model.positions.relative import RelativeBias
from model.positions.rotary import Rotary
from model.positions.scaling import NTK, DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN

__all__ = [
    "NTK",
    "ALiBi",
    "DynamicNTK",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LogTemperature",
    "LongRoPE",
    "NoPositions",
    "RelativeBias",
    "Rotary",
    "Sinusoidal",
    "YaRN",
]
