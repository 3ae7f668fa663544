"""All processes stop after the same step, whichever gets the signal, and however far apart they are."""

import concurrent.futures
import random
import threading
import time

import pytest

from tests.train.process.memory_store import groups
from train.process.agreement import StopAgreement
from train.process.stop import Stop

AHEAD = 4  # steps that one process may be ahead of another: more are never in flight


def run(group, stop, done, signal_at=None):
    """Steps, none of which ends before all processes are near it; returns the step of the end and the reason."""
    draw, agreement, step = random.Random(group.index), StopAgreement(stop, group), 0
    agreement.start(step)
    while step < 100_000 and not agreement.reached(step):
        step += 1
        if step == signal_at:
            stop.requested = "SIGTERM"
        time.sleep(draw.random() * 0.001)
        with done:
            done.steps[group.index] = step
            done.notify_all()
            assert done.wait_for(lambda: min(done.steps) >= step - AHEAD, 20), "a process stopped earlier"
    with done:  # no other waits for a step of this one
        done.steps[group.index] = 1 << 30
        done.notify_all()
    return step, agreement.reason


@pytest.mark.parametrize("signalled", [(0,), (2,), (0, 1, 2)])
def test_all_stop_after_one_step(signalled):
    made, done = groups(3), threading.Condition()
    done.steps = [0] * 3
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        at = {index: 20 + 5 * index for index in signalled}
        started = [threads.submit(run, group, Stop(), done, at.get(group.index)) for group in made]
        ended = [future.result(60) for future in started]
    steps, reasons = {step for step, _ in ended}, {reason for _, reason in ended}
    assert len(steps) == 1
    assert 20 <= steps.pop() < 100_000
    assert len(reasons) == 1
    assert reasons.pop() in {f"SIGTERM in process {index}" for index in signalled}
    made[0].watch.end()


def test_a_signal_before_the_others_have_begun():
    made = groups(2)
    stop = Stop()
    stop.requested = "SIGUSR1"
    first = StopAgreement(stop, made[0])
    first.start(7)
    assert not first.reached(7)
    time.sleep(0.1)  # the other process hears of it before it has an agreement
    second = StopAgreement(Stop(), made[1])
    second.start(7)
    ends = []
    for agreement in (first, second):
        step = 7
        while not agreement.reached(step):
            step += 1
            time.sleep(0.01)
            assert step < 1000
        ends.append(step)
    # Each went its own way here, and the later one may be told to stop at a step that it has passed at most by one.
    assert first.reason == second.reason == "SIGUSR1 in process 0"
    assert first._last == second._last
    made[0].watch.end()


def test_alone_the_request_decides():
    stop = Stop()
    agreement = StopAgreement(stop, None)
    agreement.start(0)
    assert not agreement.reached(1)
    stop.requested = "SIGTERM"
    assert agreement.reached(1)
    assert agreement.reason == "SIGTERM"
