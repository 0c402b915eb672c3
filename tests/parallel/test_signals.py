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


def test_a_second_signal_of_another_kind_ends_the_process_during_cleanup():
    child = os.fork()
    if child == 0:
        with signals.raising():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        os._exit(7)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_the_end_of_an_inner_block_does_not_arm_signals_again():
    with pytest.raises(signals.Stopped), signals.raising():
        try:
            with signals.deferred() as request:
                os.kill(os.getpid(), signal.SIGTERM)
                raise signals.Stopped(request.number, " saved")
        finally:
            assert {signal.getsignal(number) for number in signals.SIGNALS} == {signal.SIG_DFL}
            with signals.raising():
                assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_a_start_is_raised_after_it():
    started = []
    with pytest.raises(signals.Stopped), signals.raising(), signals.blocked():
        with signals.blocked():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)  # as in another thread, which receives it
            os.kill(os.getpid(), signal.SIGTERM)
        started.append(True)
    assert started


def test_a_wait_in_compiled_code_is_ended():
    with signals.raising():
        with signals.ending():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
