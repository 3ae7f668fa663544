import signal
import sys

from train.process.stop import STOP_SIGNALS, Stop


def test_nobody_asks_and_nothing_is_handled():
    handlers, hook = [signal.getsignal(number) for number in STOP_SIGNALS], sys.unraisablehook
    stop = Stop()
    with stop.raise_immediately():
        assert stop.requested is None
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    assert sys.unraisablehook is hook
