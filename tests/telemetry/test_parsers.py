"""Recorded pages and printouts to readings: names of every generation, units, blanks, nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accelbench_assets.telemetry.accelerators import (
    ACCELERATOR_NAMES,
    parse_dcgm,
    parse_neuron_monitor,
    parse_nvidia_smi,
)
from accelbench_assets.telemetry.names import CANONICAL, ENGINES
from accelbench_assets.telemetry.prometheus import Reading, engine_readings

SAMPLES = Path(__file__).parent / "samples"


def page(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def sums(readings: list[Reading]) -> dict[str, float]:
    found: dict[str, float] = {}
    for reading in readings:
        found[reading.name] = found.get(reading.name, 0.0) + reading.value
    return found


def own(readings: list[Reading], name: str) -> set[str]:
    return {json.loads(r.labels)["__name__"] for r in readings if r.name == name}


def of_device(readings: list[Reading]) -> dict[tuple[str, str], float]:
    return {(r.name, json.loads(r.labels)["device"]): r.value for r in readings}


def test_vllm_of_today() -> None:
    readings = engine_readings("a:1", page("vllm_0_32.prom"))
    assert {r.source for r in readings} == {"a:1"}
    assert sums(readings) == {
        "requests_running": 0,
        "requests_waiting": 0,
        "kv_cache_use_ratio": 0,
        "prefix_cache_queries_total": 3954,
        "prefix_cache_hits_total": 0,
        "preemptions_total": 0,
        "prompt_tokens_total": 3890,
        "generation_tokens_total": 1813,
        "finished_prompt_tokens_total": 3826,
        "finished_generation_tokens_total": 1811,
        "requests_total": 60,
        "ttft_seconds_sum": pytest.approx(34.46837067604065),
        "ttft_seconds_count": 61,
        "itl_seconds_sum": pytest.approx(179.3699233399857),
        "itl_seconds_count": 1752,
    }
    reasons = {
        json.loads(r.labels)["finished_reason"]: r.value for r in readings if r.name == "requests_total"
    }
    assert reasons == {"stop": 0, "length": 60, "abort": 0, "error": 0, "repetition": 0}
    assert own(readings, "itl_seconds_sum") == {"vllm:inter_token_latency_seconds_sum"}


def test_vllm_of_the_first_generation() -> None:
    readings = engine_readings("a:1", page("vllm_v0.prom"))
    found = sums(readings)
    assert found["kv_cache_use_ratio"] == 0.4375
    assert found["itl_seconds_sum"] / found["itl_seconds_count"] == pytest.approx(0.02)
    assert found["preemptions_total"] == 7
    assert found["requests_total"] == 500
    assert own(readings, "itl_seconds_count") == {"vllm:time_per_output_token_seconds_count"}
    assert own(readings, "kv_cache_use_ratio") == {"vllm:gpu_cache_usage_perc"}


def test_a_release_between_two_generations_is_counted_once() -> None:
    found = sums(engine_readings("a:1", page("vllm_between.prom")))
    assert found["kv_cache_use_ratio"] == 0.25
    assert (found["prefix_cache_queries_total"], found["prefix_cache_hits_total"]) == (1000, 250)
    assert (found["itl_seconds_sum"], found["itl_seconds_count"]) == (2, 100)


def test_llamacpp_of_both_generations() -> None:
    today = engine_readings("a:1", page("llamacpp_2026.prom"))
    found = sums(today)
    assert (found["prompt_tokens_total"], found["generation_tokens_total"]) == (906, 275)
    assert (found["prefix_cache_hits_total"], found["prefix_cache_queries_total"]) == (552, 906 + 552)
    assert found["requests_running"] == 8
    assert "kv_cache_use_ratio" not in found
    assert own(today, "prefix_cache_queries_total") == {
        "llamacpp:prompt_tokens_total+llamacpp:prompt_tokens_cached_total"
    }
    before = sums(engine_readings("a:1", page("llamacpp_2024.prom")))
    assert before["kv_cache_use_ratio"] == 0.3125
    assert before["requests_waiting"] == 2
    assert (
        "prefix_cache_queries_total" not in before
    )  # half of the sum is missing: not a number, rather than half of it


def test_sglang() -> None:
    readings = engine_readings("a:1", page("sglang.prom"))
    found = sums(readings)
    assert found["prefix_cache_hits_total"] == 61_000
    assert found["prefix_cache_queries_total"] == found["prompt_tokens_total"] == 8_128_902
    assert found["preemptions_total"] == 4
    assert found["ttft_seconds_count"] == found["requests_total"] == 11_228
    assert len([r for r in readings if r.name == "requests_running"]) == 2  # a row a rank; reducing takes one


def test_every_canonical_name_is_listed() -> None:
    assert {name for engine in ENGINES for name in engine.families} == CANONICAL


@pytest.mark.parametrize("text", ["", "up 1\n", "<html>busy</html>", "truth_requests_total 3\n"])
def test_a_page_of_nothing_known_has_no_readings(text: str) -> None:
    assert engine_readings("a:1", text) == []


def test_numbers_that_are_none_are_left_out_and_broken_lines_refused() -> None:
    assert engine_readings("a:1", "vllm:num_requests_running NaN\n") == []
    with pytest.raises(ValueError, match="could not convert"):
        engine_readings("a:1", "vllm:num_requests_running five\n")


def test_dcgm() -> None:
    readings = parse_dcgm("dcgm:node-a:9400", page("dcgm.prom"))
    first, second = "GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"
    found = of_device(readings)
    assert {name for name, _ in found} <= set(ACCELERATOR_NAMES)
    assert found["util_pct", first] == 97
    assert ("util_pct", second) not in found  # DCGM's blank
    assert ("energy_j_total", second) not in found
    assert found["energy_j_total", first] == pytest.approx(5_551_899.58)
    assert found["power_w", first] == 70.25
    assert [r for r in readings if r.name == "power_w" and first in r.labels][
        1:
    ] == []  # two pods, one device
    assert found["memory_used_bytes", first] == 20 * 2**30
    assert found["memory_used_bytes", f"{second}/4"] == 2 * 2**30
    assert found["throttle_reasons", first] == 0x24
    assert found["dram_active_ratio", first] == pytest.approx(0.622)
    assert (found["xid_errors", first], found["ecc_uncorrected_total", first]) == (0, 0)


def test_nvidia_smi() -> None:
    found = of_device(parse_nvidia_smi("nvidia-smi:node-a", page("nvidia_smi.csv")))
    first, second = "GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"
    assert found["util_pct", first] == 97
    assert found["memory_used_bytes", second] == 2**20
    assert found["power_w", first] == 70.25
    assert ("power_w", second) not in found
    assert found["throttle_reasons", first] == 4
    assert found["ecc_corrected_total", first] == 2
    assert ("ecc_uncorrected_total", second) not in found


def test_nvidia_smi_with_units_and_old_names() -> None:
    found = of_device(parse_nvidia_smi("nvidia-smi:node-a", page("nvidia_smi_units.csv")))
    assert found["memory_used_bytes", "0"] == 20 * 2**30
    assert found["throttle_reasons", "0"] == 0x40
    assert {name for name, device in found if device == "1"} == {"sm_clock_mhz"}


@pytest.mark.parametrize(
    "text", ["", "NVIDIA-SMI has failed because it couldn't communicate with the driver."]
)
def test_nvidia_smi_that_failed_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no table"):
        parse_nvidia_smi("nvidia-smi:node-a", text)


def test_neuron_monitor() -> None:
    full, empty = page("neuron_monitor.jsonl").splitlines()
    found = of_device(parse_neuron_monitor("neuron:node-a", full))
    assert (found["util_pct", "nc0"], found["util_pct", "nc1"]) == (42.01, 80.0)
    assert found["memory_used_bytes", "nd0"] == 2 * (193986816 + 176285056 + 20971520)
    assert found["memory_used_bytes", "nd1"] == 2**30  # core 4 of four a device
    assert (found["ecc_uncorrected_total", "nd0"], found["ecc_corrected_total", "nd0"]) == (2, 1)
    assert parse_neuron_monitor("neuron:node-a", empty) == []


@pytest.mark.parametrize("line", ["", "neuron-monitor: no devices", "[1]"])
def test_neuron_monitor_that_says_something_else_is_told(line: str) -> None:
    with pytest.raises(ValueError, match="neuron-monitor printed"):
        parse_neuron_monitor("neuron:node-a", line)
