"""Both clocks at one moment, on a machine that takes the core away between two looks at them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from accelbench_assets.telemetry.sampler import Sampler
from loadgen.clock import KernelClock, reading
from loadgen.run_setup import anchor

OFFSET_NS = 1_700_000_000 * 10**9
STALL_NS = 80_000_000


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Clocks 0.1 us a look apart; the looks numbered are followed by a stall."""

    def set_up(*stalls: int) -> None:
        lock, number, now = threading.Lock(), 0, 10**12

        def look() -> int:
            nonlocal number, now
            with lock:
                found = now
                now += STALL_NS if number in stalls else 100
                number += 1
            return found

        monkeypatch.setattr(time, "time_ns", lambda: look() + OFFSET_NS)
        for name in ("perf_counter_ns", "monotonic_ns"):
            monkeypatch.setattr(time, name, look)

    return set_up


@pytest.mark.parametrize("stalls", [(), (0,), (1,), (0, 4), (1, 3, 6)])
def test_an_interrupted_look_at_the_clocks_is_taken_again(
    stalling: Callable[..., None], stalls: tuple[int, ...]
) -> None:
    stalling(*stalls)
    _, offset = reading(time.time_ns, time.perf_counter_ns)
    assert offset == pytest.approx(OFFSET_NS, abs=200)


def test_of_nothing_but_interrupted_looks_the_shortest_counts(stalling: Callable[..., None]) -> None:
    stalling(*range(40))
    _, offset = reading(time.time_ns, time.perf_counter_ns)
    assert offset == pytest.approx(OFFSET_NS, abs=STALL_NS)


def test_the_runs_anchor_and_the_side_channels_use_the_shortest_look(stalling: Callable[..., None]) -> None:
    stalling(0, 1)
    found = anchor()
    assert found["wall_ns"] - found["mono_ns"] == pytest.approx(OFFSET_NS, abs=200)
    stalling(0, 1)
    assert KernelClock(time.time_ns, time.perf_counter_ns).offset_ns == pytest.approx(OFFSET_NS, abs=200)
    stalling(0, 1)
    with Sampler(dict, "none", "r") as sampler:
        assert sampler._wall_offset_ns == pytest.approx(OFFSET_NS, abs=200)
