"""What the generator says of its own process: the peak of its memory is its own, whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys

from loadgen.monitor import rss_peak_mib

from .conftest import ENV

PEAK = "from loadgen.monitor import rss_peak_mib; print(rss_peak_mib())"


def test_a_large_parent_is_not_counted() -> None:
    """``getrusage`` would: Linux hands the peak of whoever forked on through exec."""
    ballast = os.urandom(1 << 20) * 300
    assert rss_peak_mib() > len(ballast) / 2**20
    child = [sys.executable, "-c", PEAK]
    done = subprocess.run(child, capture_output=True, text=True, env=ENV, check=True, timeout=60)
    assert 5 < float(done.stdout) < 150


def test_what_was_let_go_stays_in_the_peak() -> None:
    before = rss_peak_mib()
    ballast = os.urandom(1 << 20) * int(before + 50)
    del ballast
    assert rss_peak_mib() > before + 50
