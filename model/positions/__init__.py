"""Positions: absolute ones, rotary ones and their scaling, linear biases."""

from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
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
    "Rotary",
    "Sinusoidal",
    "YaRN",
]
