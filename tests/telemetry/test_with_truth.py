"""The side channels of a whole run, against a server whose figures are known: the ground-truth server, under the
engines' own metric names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.summary import summarise_run
from loadgen.workloads import custom
from tests.unit.test_bench_real_load import measured

SLOTS, CONCURRENCY = 4, 8


@pytest.fixture(params=["vllm", "llamacpp"])
def truth(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """``(metrics style, URL)`` of a server of four slots."""
    command = [sys.executable, "-m", "loadgen", "truth", "--port", "0", "--exit-with-parent"]
    command += ["--ttft-ms", "40", "--gap-ms", "10", "--slots", str(SLOTS), "--metrics-style", request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield request.param, json.loads(process.stdout.readline())["url"]
        process.stdin.close()
        process.wait(120)


def test_a_run_holds_what_the_server_says_of_itself(tmp_path: Path, truth: tuple[str, str]) -> None:
    style, url = truth
    workload = custom(concurrency=CONCURRENCY, isl=16, osl=8, duration_s=3.0, warmup_s=0.5, tail_s=5.0)
    lake, record = measured(tmp_path, url, workload)
    rules: dict[str, Any] = record["validity"]
    assert rules["engine_restart"]["verdict"] == "pass"
    assert (rules["engine_counters"]["verdict"], rules["engine_counters"]["value"]) == ("pass", 0), rules
    assert rules["telemetry"]["value"] < 1
    if style == "vllm":
        assert (rules["engine_requests"]["verdict"], rules["engine_requests"]["value"]) == ("pass", 0), rules
        assert "ITL" in rules["engine_latency"]["text"]
    (step,) = summarise_run(lake, record["run_id"]).steps.to_pylist()
    assert step["queue_mean"] == pytest.approx(CONCURRENCY - SLOTS, abs=1.5)
    assert (step["kv_cache_use_max"] is None) == (style == "llamacpp")
    assert step["preemptions"] == (0 if style == "vllm" else None)
    assert step["energy_j"] is None
