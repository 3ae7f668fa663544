import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.exchange import Rounds, places, rounds_needed

N, E = 4, 3


def devices_with(sizes_MNE, capacity):
    """The rounds of each of N devices, whose sizes each have learned from the others."""
    return [Rounds(("expert",), capacity, jnp.asarray(sizes_MNE[n]), jnp.asarray(sizes_MNE[:, n])) for n in range(N)]


@pytest.mark.parametrize("routing", ["random", "one expert", "nothing to some"])
def test_every_row_travels_once_and_its_expert_is_known_where_it_arrives(routing):
    draw = np.random.default_rng(0)
    sizes = draw.integers(0, 5, (N, N, E)).astype(np.int32)
    if routing == "one expert":
        sizes = np.zeros_like(sizes)
        sizes[:, 2, 1] = 11
    elif routing == "nothing to some":
        sizes[:, 1] = sizes[3] = 0
    capacity = 4
    rounds = max(int(rounds_needed(jnp.asarray(each), capacity)) for each in sizes)
    assert rounds == max(-(-count // capacity) for count in sizes.sum(axis=2).reshape(-1))
    devices = devices_with(sizes, capacity)
    expert_of_row = [np.repeat(np.arange(N * E) % E, each.reshape(-1)) for each in sizes]
    target_of_row = [np.repeat(np.arange(N), each.sum(axis=1)) for each in sizes]
    seen = [np.zeros(len(rows), int) for rows in expert_of_row]
    for i in range(rounds):
        for source in range(N):
            index, real = map(np.asarray, devices[source].sent(i))
            for target in range(N):
                rows = index[target][real[target]]
                seen[source][rows] += 1
                assert (target_of_row[source][rows] == target).all()
                arrived = np.asarray(devices[target].arrived_sizes(i))[source]
                np.testing.assert_array_equal(np.repeat(np.arange(E), arrived), expert_of_row[source][rows])
    assert all((count == 1).all() for count in seen)


@pytest.mark.parametrize(("rows", "devices", "expected"), [(64, 4, 20), (64, 1, 64), (3, 8, 1), (64, 64, 2)])
def test_a_round_has_room_for_a_quarter_more_than_equal_loads(rows, devices, expected):
    assert places(rows, devices) == expected
