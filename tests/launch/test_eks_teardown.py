"""Leaving is done to its end, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from accelbench_assets.launch.kube.teardown import undisturbed


def interrupt_after(seconds: float, times: int = 1) -> threading.Thread:
    def send() -> None:
        for _ in range(times):
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_interrupts_do_not_cut_it_short_and_are_not_forgotten() -> None:
    done: list[str] = []

    def work() -> None:
        time.sleep(0.4)
        done.append("removed")

    sender = interrupt_after(0.1, times=2)
    with pytest.raises(KeyboardInterrupt):
        undisturbed(work)
    assert done == ["removed"]
    sender.join()


def test_it_is_bounded_in_time() -> None:
    began = time.monotonic()
    undisturbed(lambda: time.sleep(5), limit_s=0.2)
    assert time.monotonic() - began < 2


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        undisturbed(work)
