"""The barriers of a save: all meet, and no one waits for a process that could not write its part."""

import concurrent.futures
import time

import pytest

from tests.train.process.memory_store import groups
from train.checkpoints.barrier import PEER_FAILED, SaveBarrier, check_shares, first_cause
from train.checkpoints.faults import DamagedError, UnreadableError
from train.checkpoints.files import ITEMS, first_difference, record_digests
from train.process import hosts

FLAG, WRITTEN, COMMITTED = "value:set_value_start", "async_write_complete.6", "async_commit_complete.6"


def save(barriers, failing=None, before=WRITTEN, saves=1):
    """What orbax calls in every process, one of which may fail before a barrier; returns the errors."""

    def one(number):
        found = []
        for _ in range(saves):
            barriers[number].begin()
            barriers[number](key=FLAG, timeout_ms=20_000)
            error = None
            try:
                for key in (WRITTEN, COMMITTED):
                    if number == failing and key == before:
                        raise OSError("disk full")
                    barriers[number](key=key, timeout_ms=20_000)
            except Exception as raised:
                error = str(raised)
            barriers[number](key=FLAG, timeout_ms=20_000)
            found.append(error)
        return found

    with concurrent.futures.ThreadPoolExecutor(len(barriers)) as threads:
        return list(threads.map(one, range(len(barriers))))


@pytest.fixture
def barriers(monkeypatch):
    monkeypatch.setattr("train.checkpoints.barrier._SLICE_SECONDS", 0.05)
    made = [SaveBarrier(group) for group in groups(3, started=[])]
    for barrier in made:
        barrier._number = 0  # they are of three processes
    return made


def test_all_meet_again_and_again(barriers):
    assert save(barriers, saves=3) == [[None] * 3] * 3


@pytest.mark.parametrize("failing", [0, 2])
def test_a_process_that_could_not_write(barriers, failing):
    began = time.monotonic()
    errors = [error for (error,) in save(barriers, failing)]
    assert errors == ["disk full" if number == failing else PEER_FAILED for number in range(3)]
    assert time.monotonic() - began < 10
    assert save(barriers) == [[None]] * 3  # and the next save succeeds


def test_the_check_of_the_first_process_fails(barriers):
    """Between the two barriers: nobody takes the checkpoint for written."""
    assert save(barriers, 0, before=COMMITTED) == [["disk full"], [PEER_FAILED], [PEER_FAILED]]


def test_a_process_that_does_not_come(barriers):
    barriers[0].begin()
    with pytest.raises(TimeoutError, match=r"did not come to async_write_complete.6 within 0.2 s"):
        barriers[0](key=WRITTEN, timeout_ms=200)


def test_numbers_of_stores_follow_their_order():
    (group,) = groups(1, started=[])
    assert SaveBarrier(group)._number + 1 == SaveBarrier(group)._number


def test_the_message_of_a_failed_save():
    assert first_cause(["", ""]) is None
    assert first_cause(["disk full", PEER_FAILED]) == "disk full"
    assert first_cause([PEER_FAILED, "disk full"]) == "process 1: disk full"
    assert first_cause([PEER_FAILED, ""]) == PEER_FAILED


@pytest.fixture
def checkpoint(tmp_path):
    """Three items with files of the first kind and of the second, and their record."""
    folder = tmp_path / "checkpoints" / "6"
    for item in ITEMS:
        (folder / item).mkdir(parents=True)
        for number in range(3):
            (folder / item / str(number)).write_bytes(item.encode() * (number + 1))
    record_digests(folder)
    return folder


def test_shares_of_the_files_cover_all_of_them(checkpoint):
    """A changed file is in the share of exactly one process; a missing file is seen by all."""
    assert [first_difference(checkpoint, (index, 4)) for index in range(4)] == [(None, True)] * 4
    (checkpoint / "rest" / "1").write_bytes(b"tser" * 2)
    found = [first_difference(checkpoint, (index, 4))[0] for index in range(4)]
    assert sorted(map(str, found)) == ["None"] * 3 + ["rest/1 is not what was written"]
    (checkpoint / "rest" / "1").unlink()
    assert {first_difference(checkpoint, (index, 4))[0] for index in range(4)} == {"rest/1 is missing"}


def test_all_hear_of_damage(checkpoint, monkeypatch):
    check_shares(checkpoint)
    heard = ['["", ""]', '["damaged", "params/0 is not what was written"]']
    monkeypatch.setattr(hosts, "gather", lambda text: heard)
    with pytest.raises(DamagedError, match=r"checkpoint 6 in .* is damaged \(params/0 is not what was written\)"):
        check_shares(checkpoint)
    heard[1] = '["unreadable", "Permission denied"]'
    with pytest.raises(UnreadableError, match="cannot be read: Permission denied"):
        check_shares(checkpoint)
