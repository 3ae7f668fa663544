import pytest

from model.errors import UserError
from train.parallel.planner.chips import CHIPS, Cluster, cluster_of, parse_cluster, power_limited

# Data sheets: bf16, fp8, int8 in 10^12 operations a second; GB of memory or GiB; GB/s of memory; GB/s of all links in
# both directions (ICI), or of NVLink in both directions.
SHEETS = {
    "v4": (275, None, 275, 32 * 2**30, 1228, 6 * 2 * 50),
    "v5e": (197, None, 393, 16 * 2**30, 819, 400),
    "v5p": (459, 459, 918, 95 * 2**30, 2765, 1200),
    "v6e": (918, 918, 1836, 32 * 2**30, 1638, 800),
    "v7x": (2307, 4614, None, 192 * 2**30, 7380, 1200),
    "a100": (312, None, 624, 80e9, 2039, 600),
    "h100": (989.5, 1979, 1979, 80e9, 3350, 900),
    "h200": (989.5, 1979, 1979, 141e9, 4800, 900),
    "b200": (2250, 4500, 4500, 180e9, 8000, 1800),
    "gb200": (2500, 5000, 5000, 186e9, 8000, 1800),
}


@pytest.mark.parametrize("name", CHIPS)
def test_the_table_is_that_of_the_data_sheets(name):
    chip = CHIPS[name]
    bf16, fp8, int8, memory, rate, links = SHEETS[name]
    assert chip.name == name
    peaks = {"bf16": bf16, "fp8": fp8, "int8": int8}
    assert chip.peak == {number_format: peak * 1e12 for number_format, peak in peaks.items() if peak}
    assert (chip.hbm, chip.hbm_rate) == (memory, rate * 1e9)
    directions = 2 * getattr(chip.interconnect, "dimensions", 0.5)  # a torus has two links along each dimension
    assert chip.interconnect.link * directions * 2 == links * 1e9
    assert chip.source.startswith("https://")


def test_no_chip_is_without_a_data_sheet():
    assert CHIPS.keys() == SHEETS.keys()


def test_topologies_are_read():
    assert parse_cluster("v5p:4x4x8") == Cluster(chip=CHIPS["v5p"], shape=(4, 4, 8))
    assert parse_cluster("v5p:4x4x8").chips == 128
    assert parse_cluster(" v5e:16x16 ", slices=4).chips == 1024
    assert str(parse_cluster("v5e:16x16", slices=4)) == "4 slices of v5e:16x16"
    assert str(parse_cluster("h100:8x8")) == "h100:8x8"
    assert parse_cluster("h100:8x8").chips == 64
    assert parse_cluster("gb200:2x72").chips == 144
    assert parse_cluster("v6e:16x16").is_tpu
    assert not parse_cluster("h200:1x8").is_tpu


@pytest.mark.parametrize(
    ("text", "slices", "words"),
    [
        ("v5x:4x4x4", 1, ["'v5x' is no known chip; did you mean", "? known: a100, "]),
        ("tpu:4x4x4", 1, ["'tpu' is no known chip", "a100", "gb200", "h100", "v5p", "v7x", "as in v5p:4x4x4"]),
        ("", 1, ["'' is no known chip", "known: a100"]),
        ("v5p", 1, ["expected sizes from 1 after the chip, as in v5p:8x8x8"]),
        ("v5p:4x0x4", 1, ["expected sizes from 1"]),
        ("v5p:4x4xfour", 1, ["expected sizes from 1"]),
        ("v5p:4x4", 1, ["a torus of 3 dimensions, as in v5p:8x8x8"]),
        ("v5e:4x4x4", 1, ["a torus of 2 dimensions, as in v5e:16x16"]),
        ("v6e:32x16", 1, ["512 chips, and the largest slice of v6e has 256; use several slices"]),
        ("v6e:16x16", 0, ["slices: must be at least 1, got 0"]),
        ("h100:8", 1, ["nodes x GPUs of a node, as in h100:8x8"]),
        ("h100:8x16", 1, ["a h100 node has at most 8 GPUs, got 16"]),
        ("h100:8x8", 2, ["GPUs come in nodes, not in slices"]),
    ],
)
def test_other_topologies_are_refused(text, slices, words):
    with pytest.raises(UserError) as caught:
        parse_cluster(text, slices)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("chip", "chips", "slices", "shape"),
    [
        ("v5p", 512, 1, (8, 8, 8)),
        ("v5p", 128, 1, (4, 4, 8)),
        ("v4", 192, 1, (4, 6, 8)),
        ("v5e", 8192, 32, (16, 16)),
        ("v6e", 32, 1, (4, 8)),
        ("h100", 64, 1, (8, 8)),
        ("h200", 4, 1, (1, 4)),
        ("gb200", 256, 1, (4, 64)),
    ],
)
def test_a_number_of_chips_has_a_usual_shape(chip, chips, slices, shape):
    cluster = cluster_of(chip, chips, slices)
    assert (cluster.shape, cluster.chips) == (shape, chips)


def test_a_number_of_chips_that_slices_do_not_divide_is_refused():
    with pytest.raises(UserError, match="10 chips of v5e do not split into 4 slices"):
        cluster_of("v5e", 10, 4)
    with pytest.raises(UserError, match="'v3' is no known chip"):
        cluster_of("v3", 8)


def test_a_format_without_hardware_is_refused():
    assert CHIPS["v7x"].rate("fp8") == 2 * CHIPS["v7x"].rate("bf16")
    with pytest.raises(UserError, match="a100 has no matrix products in 'fp8'; it has bf16, int8"):
        CHIPS["a100"].rate("fp8")


def test_less_power_is_less_speed_and_more_power_is_no_more():
    slower = power_limited(CHIPS["h100"], 700 / 4)
    assert slower.rate("bf16") == CHIPS["h100"].rate("bf16") / 2
    assert slower.hbm_rate == CHIPS["h100"].hbm_rate
    assert power_limited(CHIPS["h100"], 1000) == CHIPS["h100"]
    assert power_limited(CHIPS["v5p"], 100) == CHIPS["v5p"]
