import dataclasses

from train.parallel.planner import efficiency
from train.parallel.planner.chips import CHIPS
from train.parallel.planner.efficiency import ATTENTION_SHARE, FITTED

FAMILIES = {chip.family for chip in CHIPS.values()}
KINDS = {chip.kind for chip in CHIPS.values()}


def test_constants_are_few():
    """At most two for each family, and a handful that all share."""
    values = dataclasses.asdict(FITTED)
    assert FITTED.matmul.keys() == FAMILIES
    shared = [value for name, value in values.items() if name != "matmul"]
    assert sum(len(value) if isinstance(value, dict) else 1 for value in shared) <= 6
    assert all(value.keys() == KINDS for value in shared if isinstance(value, dict))


def test_shares_are_shares():
    for value in (*FITTED.matmul.values(), FITTED.narrow, FITTED.waiting):
        assert 0 < value < 1
    for name in ("LINKS_SHARE", "EXPOSED_SHARE", "BLOCKING_SHARE"):
        table = getattr(efficiency, name)
        assert table.keys() == KINDS
        assert all(0 < value < 1 for value in table.values())
    for value in (efficiency.HBM_SHARE, efficiency.NETWORK_SHARE, efficiency.GROUPED_SHARE, efficiency.BACKWARD_SHARE):
        assert 0 < value < 1


def test_kernels_are_faster_where_heads_fill_the_matrix_unit():
    assert ATTENTION_SHARE.keys() == FAMILIES
    for family, shares in ATTENTION_SHARE.items():
        assert 0 < shares[64] < shares[128] <= 0.95, family
        assert 0.6 < efficiency.OLDER_FORWARD / efficiency.OLDER_BACKWARD < 1
    for family in ("v6e", "v7x"):  # whose unit has sides of 256
        assert ATTENTION_SHARE[family][256] > 1.5 * ATTENTION_SHARE[family][128]
