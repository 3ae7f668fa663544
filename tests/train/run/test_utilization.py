"""MFU: the peaks of devices and the rates of their memories by their names, and the operations of a token."""

import jax
import pytest

from model.cost import training_flops_per_token
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.planner.chips import CHIPS
from train.run.utilization import Utilization, memory_rate, peak_flops


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5e", "bfloat16", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v5p", "int8", 918),
        ("TPU v6 lite", "bfloat16", 918),
        ("TPU v6e", "float32", 918),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "float32", 156),
        ("NVIDIA H100 80GB HBM3", "float16", 989.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5),
        ("NVIDIA H200", "bfloat16", 989.5),
        ("NVIDIA H200", "float8_e4m3fn", 1979),
        ("NVIDIA H200", "float32", 494.5),
        ("NVIDIA H200 NVL", "bfloat16", 835.5),
        ("TPU7x", "bfloat16", 1153.5),
        ("NVIDIA B200", "bfloat16", 2250),
        ("NVIDIA GB200", "bfloat16", 2500),
    ],
)
def test_peaks(kind, dtype, tera):
    assert peak_flops(kind, dtype) == tera * 1e12


def test_the_peak_of_what_is_not_known_is_none():
    assert peak_flops("cpu", "float32") is None
    assert peak_flops("TPU v4 lite", "bfloat16") is None
    assert peak_flops("TPU v4", "float8_e4m3fn") is None
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float64") is None


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_chip_of_the_planner_has_its_peak(chip):
    for kind in chip.kinds:
        assert peak_flops(kind, "bfloat16") * chip.devices == chip.peak["bf16"]


def test_memory_rates_are_those_of_the_data_sheets():
    assert memory_rate("NVIDIA H100 80GB HBM3") == 3.35e12
    assert memory_rate("NVIDIA H100 PCIe") == 2e12
    assert memory_rate("TPU v5 lite") == 819e9
    assert memory_rate("TPU v4 lite") is None
    assert memory_rate("cpu") is None


def test_utilization_of_an_experiment(tiny_experiment):
    experiment = tiny_experiment()
    found = Utilization.of(experiment, make_mesh(Mesh(), jax.devices()[:1]))
    assert found.flops_per_token == training_flops_per_token(experiment.model, experiment.data.sequence_length)
    assert found.mfu(1000.0) is None  # a CPU
    assert Utilization(2e9, 1e13).mfu(1000.0) == 0.2
