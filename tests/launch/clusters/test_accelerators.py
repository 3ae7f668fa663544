"""Slices that exist, their hosts, and their names on Google Cloud."""

import pytest

from launch.clusters.accelerators import ACCELERATORS, chips_per_host, hosts_of, parse_topology, vm_type
from model.errors import UserError
from train.parallel.planner.chips import CHIPS


def test_every_chip_of_the_planner_has_a_name():
    assert ACCELERATORS.keys() == CHIPS.keys()


@pytest.mark.parametrize(
    ("topology", "hosts", "chips", "kind"),
    [
        ("v4:2x2x1", 1, 4, "v4-8"),
        ("v5p:4x4x4", 16, 4, "v5p-128"),
        ("v5p:4x4x8", 32, 4, "v5p-256"),
        ("v5e:1x1", 1, 1, "v5litepod-1"),
        ("v5e:16x16", 64, 4, "v5litepod-256"),
        ("v6e:2x4", 2, 4, "v6e-8"),
        ("v7x:4x4x4", 16, 4, "tpu7x-128"),
    ],
)
def test_hosts_and_types(topology, hosts, chips, kind):
    cluster = parse_topology(topology, 1)
    assert (hosts_of(cluster), chips_per_host(cluster), vm_type(cluster)) == (hosts, chips, kind)


def test_nodes_of_gpus():
    cluster = parse_topology("h100:4x8", 1)
    assert (hosts_of(cluster), chips_per_host(cluster)) == (4, 8)


@pytest.mark.parametrize(
    ("topology", "nearest"),
    [("v5p:3x4x4", "v5p:4x4x4"), ("v5p:1x1x1", "v5p:2x2x1"), ("v5p:8x8x9", "v5p:8x8x12"), ("v6e:16x15", "v6e:16x16")],
)
def test_the_nearest_slice(topology, nearest):
    with pytest.raises(UserError, match=f"there is no such slice; the nearest is {nearest}$"):
        parse_topology(topology, 1)
