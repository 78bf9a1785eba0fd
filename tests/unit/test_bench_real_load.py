"""The whole of ``bench`` over the real generator, the ground-truth server and a real lake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from accelbench_assets.bench.charts import latency_distribution_png, throughput_png
from accelbench_assets.bench.record import new_run_id
from accelbench_assets.bench.run import RunRequest, RunVoid, run_benchmark
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.endpoint import EndpointLauncher, discover
from accelbench_assets.launch.host import endpoint_instance
from loadgen.workloads import Workload, custom
from partitions.cell import BenchmarkCell, Deployment

TTFT_MS, GAP_MS, TOKENS = 40.0, 5.0, 8


@pytest.fixture
def truth() -> Iterator[str]:
    command = [sys.executable, "-m", "loadgen", "truth", "--port", "0", "--ttft-ms", str(TTFT_MS)]
    command += ["--gap-ms", str(GAP_MS), "--exit-with-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        yield started.get("url") or f"http://127.0.0.1:{started['port']}"
        process.stdin.close()
        process.wait(60)


def measured(tmp_path: Path, url: str, workload: Workload) -> tuple[Lake, dict[str, object]]:
    cell = BenchmarkCell(
        model="truth",
        revision="unstated",
        instance=endpoint_instance(url),
        engine="truth",
        engine_version=str(discover(url).engine_version),
        deployment=Deployment(),
        workload=workload.id,
    )
    request = RunRequest(
        cell=cell,
        workload=workload,
        model_id="truth",
        evidence_level=workload.evidence_level,
        run_id=new_run_id(),
        seed=1,
        deadline_s=90.0,
        reproduce_command="accelbench run --endpoint",
        launcher_name="endpoint",
        home=tmp_path / "home",
        endpoint_url=url,
    )
    lake = Lake.open((tmp_path / "lake").as_uri())
    return lake, run_benchmark(request, EndpointLauncher(), lake, lambda *_: None)


def tpot_ms(
    lake: Lake, record: dict[str, object], step_index: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """TPOT of every measured request of a step, NaN where it has none."""
    samples = lake.samples(str(record["run_id"])).select(["tpot_ms", "step_index", "phase"]).to_pydict()
    chosen = zip(samples["tpot_ms"], samples["step_index"], samples["phase"], strict=True)
    return np.array([v for v, step, phase in chosen if step == step_index and phase == "measure"], np.float64)


def test_truth_is_measured_as_it_is(tmp_path: Path, truth: str) -> None:
    workload = custom(
        concurrency=[1, 4],
        isl=16,
        osl=TOKENS,
        duration_s=2.5,
        warmup_s=0.3,
        tail_s=2.0,
        slo={"ttft_ms": 500, "tpot_ms": 100, "e2e_ms": None, "quantile": 0.5},
    )
    lake, record = measured(tmp_path, truth, workload)
    assert (record["status"], record["origin"]) == ("succeeded", "simulated")
    summary = summarise_run(lake, str(record["run_id"]))
    steps = summary.steps.to_pylist()
    percentiles = {(r["step_index"], r["metric"]): r for r in summary.percentiles.to_pylist()}
    e2e = TTFT_MS + GAP_MS * (TOKENS - 1)
    for step, concurrency in zip(steps, (1, 4), strict=True):
        index = step["step_index"]
        assert step["errors"] == 0
        assert 0.5 * concurrency < step["concurrency_mean"] <= 1.01 * concurrency
        assert step["output_tokens_mean"] == TOKENS
        assert step["output_tokens_per_s"] == pytest.approx(step["requests_per_s"] * TOKENS, rel=0.05)
        # No answer is faster than the server gave it, so never more than this in the window and at its edges.
        assert step["requests_per_s"] <= concurrency * (1000 / e2e + 1 / step["window_s"])
        # Little's law: requests in flight = completions a second x their mean stay; each stream may have one
        # completion more or less at the edges of so short a window.
        stay = percentiles[index, "e2e_from_send"]["mean"] / 1000
        edge = concurrency / (step["requests_per_s"] * step["window_s"])
        assert step["concurrency_mean"] == pytest.approx(step["requests_per_s"] * stay, rel=0.02 + edge)
        # What a busy machine adds it does not add to every request: the least is near the truth and never below it.
        # (How near all of them are is measured beside the server's own log by the acceptance tests.)
        assert TTFT_MS - 1 < percentiles[index, "ttft"]["min"] < TTFT_MS + 20
        assert e2e - 1 < percentiles[index, "e2e"]["min"] < e2e + 40
        tpot = percentiles[index, "tpot"]
        middle = tpot["mean"] if tpot["p50"] is None else tpot["p50"]
        assert GAP_MS / 2 < middle < GAP_MS * 4
        assert percentiles[index, "ttft"]["p99_gate"] == "needs_n"
    assert summary.slo["attainment"].to_pylist() == [1.0, 1.0]
    for picture in (
        latency_distribution_png(lake.samples(str(record["run_id"])), record),
        throughput_png(summary.steps, record),
        throughput_png(summary.steps, record, summary.percentiles),
    ):
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000


def test_an_open_loop_is_judged_by_its_dispatch(tmp_path: Path, truth: str) -> None:
    workload = custom(rate=30.0, arrival="constant", isl=16, osl=2, duration_s=2.0, warmup_s=0.3, tail_s=2.0)
    try:
        lake, record = measured(tmp_path, truth, workload)
    except (
        RunVoid
    ) as void:  # on a machine this busy the generator itself was late: the rule must be the one that says so
        rules = void.record["validity"]
        assert "void" in (rules["dispatch_delay"]["verdict"], rules["achieved_rate"]["verdict"]), rules
        return
    validity = record["validity"]
    assert isinstance(validity, dict)
    assert validity["dispatch_delay"]["value"] <= 10 * validity["dispatch_delay"]["limit"]
    assert validity["achieved_rate"]["verdict"] == "pass"
    (step,) = summarise_run(lake, str(record["run_id"])).steps.to_pylist()
    assert step["request_rate_offered"] == pytest.approx(30.0, rel=0.02)
