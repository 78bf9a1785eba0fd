"""Readings to the columns of a step: windows, resets, gaps, several replicas and devices."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.telemetry.reduce import SideChannels, step_columns
from accelbench_assets.telemetry.rules import side_rules
from accelbench_assets.telemetry.series import Window, series_by_name

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
SECOND = 10**9
COLUMNS = {
    "queue_mean", "kv_cache_use_p50", "kv_cache_use_max", "preemptions", "prefix_cache_hit_share",
    "accelerator_util_mean_pct", "accelerator_memory_peak_gib", "power_mean_w", "energy_j", "joules_per_output_token",
    "energy_valid",
}  # fmt: skip


def rows(name: str, values: dict[float, float], source: str = "a:1", **labels: str) -> list[dict[str, Any]]:
    """One series: seconds after the start -> value."""
    return [
        {
            "run_id": "r",
            "at": START + timedelta(seconds=at),
            "source": source,
            "name": name,
            "labels": json.dumps(labels, sort_keys=True),
            "value": value,
        }
        for at, value in values.items()
    ]


def columns(
    engine: list[dict[str, Any]], devices: list[dict[str, Any]] | None = None, **how: Any
) -> dict[str, Any]:
    """Of the window from second 10 to second 20."""
    found = step_columns(engine, devices or [], START_NS + 10 * SECOND, START_NS + 20 * SECOND, **how)
    assert set(found) == COLUMNS
    return found


def every_second(value: float, first: int = 0, last: int = 30) -> dict[float, float]:
    return {float(at): value for at in range(first, last + 1)}


def test_nothing_measured_is_null() -> None:
    assert set(columns([]).values()) == {None}
    before = rows("requests_waiting", every_second(3, 0, 9)) + rows("preemptions_total", {5.0: 2.0})
    assert set(columns(before).values()) == {None}


def test_queue_is_the_sum_over_replicas_of_means_in_the_window() -> None:
    engine = rows("requests_waiting", {9.0: 100, 10.0: 4, 15.0: 2, 20.0: 100})
    engine += rows("requests_waiting", {12.5: 1}, source="b:1")
    assert columns(engine)["queue_mean"] == 4


def test_ranks_of_one_scheduler_count_once_and_data_parallel_ones_add_up() -> None:
    engine = rows("requests_waiting", every_second(5), tp_rank="0", pp_rank="0")
    engine += rows("requests_waiting", every_second(5), tp_rank="1", pp_rank="0")
    assert columns(engine)["queue_mean"] == 5
    engine += rows("requests_waiting", every_second(5), tp_rank="2", pp_rank="0", dp_rank="1")
    assert columns(engine)["queue_mean"] == 10


def test_kv_cache_use() -> None:
    engine = rows("kv_cache_use_ratio", {11.0: 0.2, 12.0: 0.4, 13.0: 0.9, 25.0: 1.0})
    found = columns(engine)
    assert (found["kv_cache_use_p50"], found["kv_cache_use_max"]) == (0.4, 0.9)
    engine += rows("kv_cache_use_ratio", {11.0: 0.4, 12.0: 0.6, 13.0: 0.1}, source="b:1")
    found = columns(engine)
    assert found["kv_cache_use_p50"] == pytest.approx(0.5)
    assert found["kv_cache_use_max"] == 0.9


def test_counters_are_differences_over_the_window() -> None:
    engine = rows("preemptions_total", {0.0: 1, 9.5: 3, 15.0: 5, 19.5: 8, 21.0: 20})
    assert columns(engine)["preemptions"] == 5
    engine = rows("preemptions_total", {12.0: 3, 19.0: 4})
    assert columns(engine)["preemptions"] == 1  # no reading before: from the first in it


def test_a_counter_that_was_reset_begins_again_at_zero() -> None:
    engine = rows("preemptions_total", {10.0: 7, 13.0: 9, 16.0: 1, 19.0: 4})
    assert columns(engine)["preemptions"] == 2 + 1 + 3


def test_prefix_cache_share_comes_from_counters() -> None:
    engine = rows("prefix_cache_queries_total", {9.0: 1000, 20.0: 3000})
    engine += rows("prefix_cache_hits_total", {9.0: 0, 20.0: 500}, cache_source="device")
    engine += rows("prefix_cache_hits_total", {9.0: 0, 20.0: 500}, cache_source="host")
    assert columns(engine)["prefix_cache_hit_share"] == 0.5
    idle = rows("prefix_cache_queries_total", every_second(1000)) + rows(
        "prefix_cache_hits_total", every_second(1)
    )
    assert columns(idle)["prefix_cache_hit_share"] is None


def devices(kind: str = "dcgm:n:9400", **series: dict[float, float]) -> list[dict[str, Any]]:
    return [row for name, values in series.items() for row in rows(name, values, source=kind, device="GPU-1")]


def test_power_is_integrated_and_divided_among_tokens() -> None:
    found = columns([], devices(power_w=every_second(200.0)), output_tokens=400)
    assert found["energy_j"] == pytest.approx(2000)
    assert (found["power_mean_w"], found["joules_per_output_token"]) == (pytest.approx(200), pytest.approx(5))
    assert found["energy_valid"] is True
    ramp = columns([], devices(power_w={float(at): 10.0 * at for at in range(31)}))
    assert ramp["energy_j"] == pytest.approx(1500)
    assert ramp["joules_per_output_token"] is None


def test_a_devices_own_energy_counter_wins_over_its_power() -> None:
    found = columns(
        [], devices(power_w=every_second(200.0), energy_j_total={float(at): 300.0 * at for at in range(31)})
    )
    assert found["energy_j"] == pytest.approx(3000)
    assert found["power_mean_w"] == pytest.approx(300)


def test_energy_adds_up_over_devices_and_is_valid_only_if_all_are_covered() -> None:
    one = devices(power_w=every_second(100.0))
    other = rows("power_w", every_second(50.0, 0, 14), source="dcgm:n:9400", device="GPU-2")
    found = columns([], one + other)
    assert found["energy_j"] == pytest.approx(1500)
    assert found["energy_valid"] is False


@pytest.mark.parametrize(
    ("missing", "valid"), [((), True), ((13,), True), ((13, 14), False), ((13, 14, 15), False)]
)
def test_gaps_over_two_and_a_half_seconds_cover_nothing(missing: tuple[int, ...], valid: bool) -> None:
    power = {at: watts for at, watts in every_second(100.0).items() if at not in missing}
    found = columns([], devices(power_w=power))
    assert found["energy_valid"] is valid
    assert found["energy_j"] == pytest.approx(1000)


def test_an_energy_counter_that_fell_covers_nothing_there() -> None:
    joules = {float(at): 100.0 * at if at < 15 else 100.0 * (at - 15) for at in range(31)}
    found = columns([], devices(energy_j_total=joules))
    assert found["energy_j"] == pytest.approx(1000)
    assert found["energy_valid"] is False


def test_utilisation_and_memory() -> None:
    one = devices(util_pct={9.0: 0, 11.0: 80, 12.0: 100}, memory_used_bytes={11.0: 2.0**30, 30.0: 2.0**40})
    two = rows("util_pct", {11.0: 10}, source="dcgm:n:9400", device="GPU-2")
    two += rows("memory_used_bytes", {11.0: 3 * 2.0**30}, source="dcgm:n:9400", device="GPU-2")
    found = columns([], one + two)
    assert found["accelerator_util_mean_pct"] == 50
    assert found["accelerator_memory_peak_gib"] == 3


def test_two_tools_that_watch_one_device_count_once() -> None:
    both = devices(power_w=every_second(100.0)) + devices("nvidia-smi:n", power_w=every_second(101.0))
    assert columns([], both)["energy_j"] == pytest.approx(1000)


def test_throttling_and_errors_in_the_window() -> None:
    masks = {float(at): 0x20 if 12 <= at < 15 else 0x1 for at in range(31)}
    xids = {float(at): 31.0 if at < 12 else 79.0 for at in range(31)}
    side = SideChannels(
        [], devices(throttle_reasons=masks, xid_errors=xids, ecc_uncorrected_total={5.0: 1, 19.0: 3, 25.0: 9})
    )
    found = side.hardware(START_NS + 10 * SECOND, START_NS + 20 * SECOND)
    assert found.throttle_s == pytest.approx(3)
    assert found.throttle_reasons == ("sw_thermal_slowdown",)
    assert found.xid_errors == (79,)  # 31 stood there before
    assert found.ecc_uncorrected == 2
    rules = side_rules([], [found])
    assert rules["throttling"]["verdict"] == rules["hardware_errors"]["verdict"] == "warn"
    assert "sw_thermal_slowdown" in rules["throttling"]["text"]
    assert "XID 79" in rules["hardware_errors"]["text"]
    quiet = side.hardware(START_NS + 25 * SECOND, START_NS + 30 * SECOND)
    assert (quiet.throttle_s, quiet.throttle_reasons, quiet.xid_errors) == (0, (), ())
    assert side_rules([], [quiet])["throttling"]["verdict"] == "pass"


def test_rules_of_steps() -> None:
    step = {"requests_scheduled": 200, "preemptions": 2, "energy_valid": True}
    found = side_rules([step], readings=100, gaps={"a:1 did not answer": 5})
    assert {rule["verdict"] for rule in found.values()} == {"pass"}
    assert set(found) == {"preemptions", "energy", "telemetry"}
    worse = side_rules([{**step, "preemptions": 3, "energy_valid": False}], readings=100, gaps={"slow": 20})
    assert {rule["verdict"] for rule in worse.values()} == {"warn"}
    assert "mostly because slow" in worse["telemetry"]["text"]
    assert side_rules([{"preemptions": None, "energy_valid": None}]) == {}


def test_whole_pages_among_the_rows_are_left_out() -> None:
    engine = rows("vllm:num_requests_waiting", every_second(9)) + rows("requests_waiting", every_second(1))
    assert columns(engine)["queue_mean"] == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=40), st.integers(0, 20))
def test_growth_of_adjoining_windows_adds_up(steps: list[int], cut: int) -> None:
    total, values = 0.0, {}
    for at, step in enumerate(steps):
        total += step
        values[float(at)] = total
    (series,) = series_by_name(rows("preemptions_total", values), ["preemptions_total"])["preemptions_total"]
    middle = START_NS + min(cut, len(steps) - 1) * SECOND
    whole = Window(START_NS, START_NS + len(steps) * SECOND)
    parts = [series.increase(Window(whole.start_ns, middle)), series.increase(Window(middle, whole.end_ns))]
    assert sum(part or 0.0 for part in parts) == series.increase(whole) == sum(steps[1:])
