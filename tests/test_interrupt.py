"""Signals: the first asks, the second ends at once, and afterwards everything is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from convcraft.training.interrupt import catch_stop_signals

PROGRAM = """
import time
from convcraft.training.interrupt import catch_stop_signals
with catch_stop_signals() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with catch_stop_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        assert stop.signal_number == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
