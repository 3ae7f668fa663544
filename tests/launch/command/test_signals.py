import importlib.machinery
import os
import signal
import threading

import pytest

from launch.command.signals import EXIT_PREEMPTED, SignalStop, StopRequest, raise_on_signals
from train.process.stop import STOP_SIGNALS


def test_nothing_is_requested_before_a_signal():
    with StopRequest() as stop:
        assert stop.requested is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_by_name_and_ends_nothing(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested == number.name


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_does_not():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == "SIGTERM"


def test_the_signals_are_those_of_terminals_and_schedulers():
    assert {number.name for number in STOP_SIGNALS} == {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"}


def test_under_nohup_a_terminal_that_closes_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_signals(), StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested is None
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_what_saves_nothing_is_cut_and_can_put_away_what_it_began(number):
    before = signal.getsignal(number)
    error, words = (KeyboardInterrupt, None) if number == signal.SIGINT else (SignalStop, number.name)
    with pytest.raises(error, match=words), raise_on_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


class Loading(importlib.machinery.ExtensionFileLoader):
    """Loads a compiled module while a signal comes; an exception there would crash some modules."""

    loaded = False

    def create_module(self, spec):
        signal.raise_signal(self.path)
        self.loaded = True


class Collected:
    """Is deleted while a signal comes; an exception there is lost."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def until_cut(action, *arguments):
    """Does something, and waits for a signal that comes later."""
    action(*arguments)
    threading.Event().wait(60)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_no_signal_cuts_the_loading_of_a_compiled_module(number):
    loading = Loading("name", number)
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        until_cut(loading.create_module, None)
    assert loading.loaded

    loading = Loading("name", number)
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt), stop.raise_immediately():
        until_cut(loading.create_module, None)
    assert loading.loaded
    assert stop.requested == number.name


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_no_signal_is_lost_to_the_garbage_collector(number, capsys):
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        until_cut(Collected, number)
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt), stop.raise_immediately():
        until_cut(Collected, number)
    assert stop.requested == number.name
    assert "ignored" not in capsys.readouterr().err


def test_ctrl_c_stays_ignored_where_it_is():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raise_on_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_work_that_can_be_cut_anywhere_is_cut_at_once(number):
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt), stop.raise_immediately():
            signal.raise_signal(number)
        assert stop.requested == number.name
        signal.raise_signal(signal.SIGTERM)


def test_the_handlers_before_come_back():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGTERM)
        assert heard == []
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_stands_aside():
    requested = []

    def work():
        with StopRequest() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [None]


def test_the_code_is_the_documented_one():
    assert EXIT_PREEMPTED == os.EX_TEMPFAIL == 75


def test_a_signal_that_came_before_cuts_work_that_can_be_cut():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SignalStop, match="SIGTERM"), stop.raise_immediately():
            raise AssertionError("it began")
