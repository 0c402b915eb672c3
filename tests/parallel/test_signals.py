"""Signals end commands with what is saved; a second one ends the process at once; what is ignored stays ignored."""

import os
import signal

import pytest

from verbot.parallel import signals


def test_a_request_waits_for_the_end_of_the_step():
    before = signal.getsignal(signal.SIGTERM)
    with signals.deferred() as request:
        assert request.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends the process"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_raises(number):
    with pytest.raises(signals.Stopped) as stopped, signals.raising():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raising():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_outlives_the_signals_of_its_group():
    child = os.fork()
    if child == 0:
        signals.ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(7)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7


def test_a_process_begins_with_its_signals_blocked():
    with signals.blocked():
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(signals.SIGNALS)
