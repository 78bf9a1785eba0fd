"""How late the readings beside a load are, on a machine that does nothing else. That none is early, none is lost and
none is skipped in silence is in ``tests/loadgen/test_loadgen_scrape.py``, whatever the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.loadgen.page_reader import Page, Reader, lines, ok, page, span_ns

__all__ = ["page"]

pytestmark = pytest.mark.long
EVERY_NS = 50_000_000


def sleepers_lateness_ms(readings: int) -> float:
    """Of a bare sleeper on the same schedule, median: what the machine costs anybody."""
    start, late = time.perf_counter_ns(), []
    for number in range(1, readings + 1):
        due = start + number * EVERY_NS
        time.sleep(max(0.0, (due - time.perf_counter_ns()) / 1e9))
        late.append((time.perf_counter_ns() - due) / 1e6)
    return median(late)


def test_readings_are_on_time(tmp_path: Path, page: Callable[..., Page]) -> None:
    shown = page(ok(b"a 1\n"))
    reader = Reader(tmp_path, [("engine", shown.url)])
    shown.wait(40)
    reader.end()
    rows = lines(reader.files[0])
    start = span_ns(rows[0])[1]
    late = [(span_ns(row)[0] - start) % EVERY_NS / 1e6 for row in rows[1:-1]]
    bare = sleepers_lateness_ms(20)
    print(
        f"\nreadings start {median(late):.2f} ms after they are due, a bare sleeper wakes {bare:.2f} ms late"
    )
    assert median(late) < max(15.0, 3 * bare)


def test_the_end_of_its_parent_ends_it_within_two_seconds(tmp_path: Path, page: Callable[..., Page]) -> None:
    reader = Reader(tmp_path, [("engine", page(ok(b"a 1\n")).url)], every_s=3600)
    began = time.perf_counter()
    reader.end(None)
    took = time.perf_counter() - began
    print(f"\nended {took:.2f} s after its parent's end")
    assert took < 2
