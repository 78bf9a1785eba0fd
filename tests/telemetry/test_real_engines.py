"""Real engines with eight requests in flight: their own counters agree with our samples, and the record says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.record import new_run_id
from accelbench_assets.bench.run import RunRequest, run_benchmark
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.engines.registry import local_target
from accelbench_assets.engines.weights import DEMO_MODEL, DEMO_MODEL_ID
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.host import local_instance
from accelbench_assets.launch.local import LocalLauncher
from accelbench_assets.telemetry.names import CANONICAL
from loadgen.workloads import custom
from partitions.cell import BenchmarkCell, Deployment
from tests.support.optional import MODELS, VLLM_PYTHON, needs_vllm_and_model


def measured(
    tmp_path: Path, engine: str, deadline_s: float, *, slots: int | None = None, **load: Any
) -> tuple[Lake, dict[str, Any]]:
    """A run on *engine*, and the lake it is in."""
    home, workload = tmp_path / "home", custom(**load)
    home.mkdir(exist_ok=True)
    target = local_target(engine, DEMO_MODEL, home)
    cell = BenchmarkCell(
        model=target.model,
        revision=target.revision,
        instance=local_instance(),
        engine=target.engine,
        engine_version=target.engine_version,
        deployment=Deployment(
            quantization=target.quantization,
            max_model_len=512,
            args=() if slots is None else (("parallel", str(slots)),),
        ),
        workload=workload.id,
    )
    request = RunRequest(
        cell=cell,
        workload=workload,
        model_id=DEMO_MODEL_ID,
        evidence_level=workload.evidence_level,
        run_id=new_run_id(),
        seed=1,
        deadline_s=deadline_s,
        reproduce_command="accelbench run",
        launcher_name="local",
        home=home,
    )
    lake = Lake.open((tmp_path / "lake").as_uri())
    return lake, run_benchmark(request, LocalLauncher(home), lake, lambda *_: None)


def canonical_rows(lake: Lake, record: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lake.run_table("engine_metrics", record).to_pylist()
    return [row for row in rows if row["name"] in CANONICAL]


@pytest.mark.slow
@pytest.mark.xdist_group("local-engine")
def test_llamacpp_counts_the_tokens_we_count(tmp_path: Path) -> None:
    """Ten requests at once on eight slots: all of them finish, so the counters must be equal, and two wait at first.

    (The server has four HTTP threads more than slots: with more requests than that its ``/metrics`` has to wait too.)
    """
    load = {"rate": 10, "arrival": "at_once", "isl": 24, "osl": 6}
    lake, record = measured(
        tmp_path, "llamacpp", 120.0, slots=8, duration_s=60.0, warmup_s=0.0, tail_s=30.0, **load
    )
    rules = record["validity"]
    found = rules["engine_counters"]
    assert (found["verdict"], found["value"]) == ("pass", 0)
    said = r"llama\.cpp counted \d+ prompt tokens and \d+ output tokens, exactly as we did\."
    assert re.fullmatch(said, found["text"])
    assert rules["engine_restart"]["verdict"] == "pass"
    assert rules["engine_requests"]["value"] == rules["engine_latency"]["value"] == "unknown"
    rows = canonical_rows(lake, record)
    assert len({row["at"] for row in rows}) >= 3
    names = {row["name"] for row in rows}
    assert {"requests_running", "requests_waiting", "generation_tokens_total"} <= names
    (step,) = summarise_run(lake, record["run_id"]).steps.to_pylist()
    assert 0 < step["queue_mean"] <= 2
    assert step["accelerator_util_mean_pct"] is None


@pytest.mark.long
@pytest.mark.xdist_group("local-engine")
@needs_vllm_and_model
def test_vllm_counts_and_times_what_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and tokens exactly; mean TTFT and ITL within 2 % or 1 ms. Prompts are long enough that the engine, and
    not its HTTP front end on the same two cores, is most of a TTFT."""
    monkeypatch.setenv("ACCELBENCH_VLLM_PYTHON", str(VLLM_PYTHON))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(MODELS)
    lake, record = measured(
        tmp_path, "vllm", 480.0, concurrency=8, isl=256, osl=24, duration_s=40.0, warmup_s=5.0, tail_s=60.0
    )
    rules = record["validity"]
    assert (rules["engine_counters"]["verdict"], rules["engine_counters"]["value"]) == ("pass", 0)
    assert "exactly as we did" in rules["engine_counters"]["text"]
    assert (rules["engine_requests"]["verdict"], rules["engine_requests"]["value"]) == ("pass", 0)
    assert "exactly as we did" in rules["engine_requests"]["text"]
    assert rules["engine_latency"]["verdict"] == "pass", rules["engine_latency"]["text"]
    assert "TTFT" in rules["engine_latency"]["text"]
    assert "ITL" in rules["engine_latency"]["text"]
    assert {"kv_cache_use_ratio", "preemptions_total", "ttft_seconds_sum"} <= {
        row["name"] for row in canonical_rows(lake, record)
    }
    (step,) = summarise_run(lake, record["run_id"]).steps.to_pylist()
    assert 0 < step["kv_cache_use_max"] <= 1
    assert step["preemptions"] == 0
    assert step["queue_mean"] >= 0
