"""The sampler's threads: schedule, gaps, bounds, and that nothing they meet disturbs the load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.telemetry import sampler as module
from accelbench_assets.telemetry.prometheus import Reading
from accelbench_assets.telemetry.sampler import Sampler
from accelbench_assets.telemetry.sources import Unread

PAGE = "vllm:num_requests_waiting 3\nvllm:generation_tokens_total 10\n"
LONGEST_S = 120.0


class Pages:
    """An engine's read function: each call takes the next answer, the last one for ever; waits can be awaited."""

    def __init__(self, *answers: Mapping[str, str] | Exception | Callable[[], Mapping[str, str]]) -> None:
        self.answers, self.calls = list(answers), 0
        self._called = threading.Condition()

    def __call__(self) -> Mapping[str, str]:
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        with self._called:
            self.calls += 1
            self._called.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def wait(self, calls: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: self.calls >= calls, LONGEST_S)


def test_rows_are_named_timed_and_fit_their_table() -> None:
    pages = Pages({"a:1": PAGE, "b:1": PAGE})
    before = datetime.now(UTC)
    with Sampler(pages, "vllm", "run-1", every_s=0.05) as sampler:
        pages.wait(4)
    rows = sampler.rows
    assert {(r["run_id"], r["source"], r["name"]) for r in rows} == {
        ("run-1", source, name)
        for source in ("a:1", "b:1")
        for name in ("requests_waiting", "generation_tokens_total")
    }
    times = sorted({r["at"] for r in rows})
    assert len(times) == sampler.readings >= 3
    assert before - timedelta(seconds=1) < times[0] < times[-1] < datetime.now(UTC) + timedelta(seconds=1)
    table = sampler.table(SCHEMAS["engine_metrics"])
    assert table.num_rows == len(rows)
    assert table["labels"][0].as_py() in {r["labels"] for r in rows}
    assert sampler.accelerator_rows == []


def test_failures_are_gaps_with_their_reasons() -> None:
    pages = Pages(
        {"a:1": PAGE}, OSError("refused"), {}, {"a:1": "vllm:num_requests_waiting x\n"}, {"a:1": PAGE}
    )
    with Sampler(pages, "vllm", "r", every_s=0.02) as sampler:
        pages.wait(6)
    gaps = sampler.gaps
    assert gaps["OSError: refused"] == 1
    assert gaps["vllm did not answer"] == 1
    assert any(reason.startswith("ValueError: could not convert") for reason in gaps)
    assert sampler.readings >= 2


def test_a_replica_that_is_missing_is_a_gap_and_the_others_are_kept() -> None:
    pages = Pages({"a:1": PAGE, "b:1": PAGE}, {"b:1": PAGE}, {"a:1": PAGE, "b:1": PAGE})
    with Sampler(pages, "vllm", "r", every_s=0.02) as sampler:
        pages.wait(4)
    assert sampler.gaps["a:1 did not answer"] == 1
    rows = sampler.rows
    assert (
        len([r for r in rows if r["source"] == "b:1"]) == len([r for r in rows if r["source"] == "a:1"]) + 2
    )


def test_a_slow_reading_is_a_gap_and_the_schedule_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds pass at once, by the clock the sampler looks at."""
    clock = SimpleNamespace(monotonic=time.monotonic, time_ns=time.time_ns, passed_ns=0)
    clock.monotonic_ns = lambda: time.monotonic_ns() + clock.passed_ns
    monkeypatch.setattr(module, "time", clock)

    def slow() -> Mapping[str, str]:
        clock.passed_ns += 3_000_000_000
        return {"a:1": PAGE}

    pages = Pages({"a:1": PAGE}, slow, {"a:1": PAGE})
    with Sampler(pages, "vllm", "r", every_s=0.5) as sampler:
        pages.wait(4)
    assert sampler.gaps["a reading took longer than 2 s"] == 1
    assert sampler.gaps["a reading was still under way"] >= 5, "those that came due in three seconds"
    first, second, *_ = sorted({r["at"] for r in sampler.rows})
    assert second - first >= timedelta(seconds=3.4), "on the schedule it had"


def test_an_engine_without_a_page_is_left_alone_and_misses_nothing() -> None:
    pages = Pages({"a:1": "some_other_metric 1\n"})
    with Sampler(pages, "openai", "r", every_s=0.01) as sampler:
        pages.wait(5)
        sampler._threads[0].join(LONGEST_S)
        assert not sampler._threads[0].is_alive()
    assert pages.calls == 5
    assert (sampler.rows, sampler.gaps, sampler.readings) == ([], {}, 0)


def test_a_hanging_read_does_not_hold_the_run_up() -> None:
    release = threading.Event()

    def hang() -> Mapping[str, str]:
        release.wait(LONGEST_S)
        return {}

    original, module._JOIN_S = module._JOIN_S, 0.2
    pages = Pages(hang)
    try:
        with Sampler(pages, "vllm", "r") as sampler:
            pages.wait(1)
        assert any(thread.is_alive() for thread in sampler._threads), "it hangs still"
        assert sampler.rows == []
    finally:
        module._JOIN_S = original
        release.set()


def test_an_error_of_the_load_passes_through() -> None:
    pages = Pages({"a:1": PAGE})
    sampler = Sampler(pages, "vllm", "r", every_s=0.01)
    try:
        with sampler:
            pages.wait(1)
            raise KeyError("the load's own")
    except KeyError:
        pass
    else:
        raise AssertionError("it was swallowed")
    assert not any(thread.is_alive() for thread in sampler._threads)


def test_memory_is_bounded_by_thinning_out_evenly() -> None:
    pages = Pages({"a:1": PAGE})
    with Sampler(pages, "vllm", "r", every_s=0.005, max_rows=20) as sampler:
        pages.wait(24)
    rows = sampler.rows
    assert 10 <= len(rows) <= 21
    times = sorted({r["at"] for r in rows})
    assert len(rows) == 2 * len(times)  # whole moments are dropped, never parts
    assert times[0] == min(r["at"] for r in rows)


class Device:
    """A source that answers with the next value."""

    name = "dcgm:n:9400"

    def __init__(self, *values: float | None) -> None:
        self.values, self.calls, self.closed = list(values), 0, False
        self.enough = threading.Event()

    def read(self) -> list[Reading]:
        value = self.values[min(self.calls, len(self.values) - 1)]
        self.calls += 1
        if self.calls > len(self.values):
            self.enough.set()
        if value is None:
            raise Unread("dcgm:n:9400: refused")
        return [Reading(self.name, "power_w", '{"device": "0"}', value)]

    def close(self) -> None:
        self.closed = True


def test_accelerators_come_through_the_same_door_and_are_closed() -> None:
    device, pages = Device(100.0, None, 110.0), Pages({"a:1": PAGE})
    with Sampler(pages, "vllm", "r", every_s=0.02, extra=[device]) as sampler:
        assert device.enough.wait(LONGEST_S)
        pages.wait(1)
    assert device.closed
    values = [r["value"] for r in sampler.accelerator_rows]
    assert values[:2] == [100.0, 110.0]
    assert sampler.gaps["dcgm:n:9400: refused"] == 1
    assert {r["name"] for r in sampler.rows} == {"requests_waiting", "generation_tokens_total"}
    table = sampler.table(SCHEMAS["accelerator_metrics"], accelerators=True)
    assert table["source"].to_pylist() == ["dcgm:n:9400"] * len(values)


def test_a_source_that_never_answers_is_told_and_given_up() -> None:
    device, pages = Device(None), Pages({"a:1": PAGE})
    with Sampler(pages, "vllm", "r", every_s=0.01, extra=[device]) as sampler:
        assert device.enough.wait(LONGEST_S)
        sampler._threads[1].join(LONGEST_S)
        pages.wait(1)
    assert device.calls == 5
    assert sampler.gaps["dcgm:n:9400: refused"] == 5
