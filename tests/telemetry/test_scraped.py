"""What the generator read, as the lake gives it back: the same figures as reading the pages oneself would give."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.engine_counters import metric_rows, reconcile
from accelbench_assets.bench.record import new_run_id
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.telemetry.prometheus import engine_readings
from accelbench_assets.telemetry.reduce import SideChannels
from accelbench_assets.telemetry.scraped import Scraped, parse_neuron_page, read_scraped
from loadgen import workloads
from loadgen.plan import Plan, Replica, ScrapeTarget
from tests.support.lakes import lake, local_lake, s3_environment, s3_lake, s3_server

__all__ = ["lake", "local_lake", "s3_environment", "s3_lake", "s3_server"]

SAMPLES = Path(__file__).parent / "samples"
BUSY = {"a reading was still under way", "a reading took longer than 2 s"}  # what a starved reader is told by
GPU = "GPU-11111111-1111-1111-1111-111111111111"

NODE = 'availability_zone="us-west-2d",instance_id="i-0a",instance_type="inf2.24xlarge",region="us-west-2"'
NEURON = f"""\
# HELP neuroncore_utilization_ratio NeuronCore utilization ratio
# TYPE neuroncore_utilization_ratio gauge
neuroncore_utilization_ratio{{{NODE},neuroncore="0",runtime_tag="367"}} 0.5
neuroncore_utilization_ratio{{{NODE},neuroncore="3",runtime_tag="367"}} 0.8901827638996558
# TYPE neuroncore_memory_usage_constants gauge
neuroncore_memory_usage_constants{{{NODE},memory_location="None",neuroncore="0",runtime_tag="367"}} 100.0
neuroncore_memory_usage_constants{{{NODE},memory_location="None",neuroncore="1",runtime_tag="367"}} 20.0
neuroncore_memory_usage_tensors{{{NODE},memory_location="None",neuroncore="0",runtime_tag="367"}} 3.0
neuroncore_memory_usage_tensors{{{NODE},memory_location="None",neuroncore="0",runtime_tag="400"}} 4.0
neuroncore_memory_usage_tensors{{{NODE},memory_location="None",neuroncore="2",runtime_tag="367"}} 5.0
neuron_runtime_memory_used_bytes{{{NODE},memory_location="host",runtime_tag="367"}} 9.043968e+06
# TYPE hardware_ecc_events_total counter
hardware_ecc_events_total{{{NODE},event_type="mem_ecc_corrected",neuron_device_index="1"}} 1.0
hardware_ecc_events_total{{{NODE},event_type="mem_ecc_uncorrected",neuron_device_index="1"}} 2.0
hardware_ecc_events_total{{{NODE},event_type="sram_ecc_uncorrected",neuron_device_index="1"}} 4.0
# TYPE hardware_ecc_events_created gauge
hardware_ecc_events_created{{{NODE},event_type="mem_ecc_corrected",neuron_device_index="1"}} 1.6757e+09
# TYPE neuron_hardware_info gauge
neuron_hardware_info{{{NODE},neuron_device_count="6",neuroncore_per_device_count="2"}} 1.0
"""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return str(answer.read().decode())


@pytest.fixture
def truth() -> Iterator[Callable[[str], str]]:
    """Ground-truth servers of a metrics style, by URL."""
    started: list[subprocess.Popen[str]] = []

    def start(style: str) -> str:
        command = [sys.executable, "-m", "loadgen", "truth", "--exit-with-parent", "--metrics-style", style]
        command += ["--ttft-ms", "20", "--gap-ms", "5"]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        return str(json.loads(started[-1].stdout.readline())["url"])

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def exporter() -> Iterator[Callable[[str], str]]:
    """Servers of one page, by URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(text: str) -> str:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                return

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Page))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/metrics"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def load(lake: Lake, run_id: str, urls: list[str], tmp_path: Path, **changes: Any) -> list[dict[str, Any]]:
    """A real run of all shards at once into *lake*; their ``shard.json``."""
    workload = workloads.custom(concurrency=4, isl=16, osl=8, duration_s=2.2, warmup_s=0.3)
    fields: dict[str, Any] = {
        "request_timeout_s": 30.0,
        "idle_timeout_s": 30.0,
        "deadline_s": 110.0,
        "null_server": False,
        **changes,
    }
    plan = Plan(
        run_id=run_id,
        model="truth",
        replicas=tuple(Replica(url.partition("//")[2], url) for url in urls),
        steps=workload.steps(),
        workload=workload.document,
        workload_id=workload.id,
        workload_hash=workload.hash,
        seed=3,
        **fields,
    )
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    command = [sys.executable, "-m", "loadgen", "run", "--plan", str(path), "--progress", "quiet"]
    command += ["--out", lake.incoming_uri(run_id)]
    pods = [
        subprocess.Popen([*command, "--shard-index", str(k)], stderr=subprocess.PIPE, text=True)
        for k in range(plan.shards)
    ]
    for pod in pods:
        _, error = pod.communicate(timeout=120)
        assert pod.returncode == 0, error
    return list(lake.verify_shards(run_id, plan.shards))


def test_two_shards_are_framed_and_counters_agree_to_the_token(
    truth: Callable[[str], str], exporter: Callable[[str], str], local_lake: Lake, tmp_path: Path
) -> None:
    urls = [truth("vllm"), truth("vllm")]
    replicas = [url.partition("//")[2] for url in urls]
    node = exporter((SAMPLES / "dcgm.prom").read_text())
    pages = [ScrapeTarget("engine", r, f"{u}/metrics") for r, u in zip(replicas, urls, strict=True)]
    targets = (*pages, ScrapeTarget("dcgm", replicas[0], node), ScrapeTarget("dcgm", replicas[1], node))
    before = {r: get(f"{u}/metrics") for r, u in zip(replicas, urls, strict=True)}
    run_id = new_run_id()
    shards = load(local_lake, run_id, urls, tmp_path, shards=2, scrape=targets)
    after = {r: get(f"{u}/metrics") for r, u in zip(replicas, urls, strict=True)}

    found = read_scraped(local_lake, run_id, shards)
    assert (found.first_pages, found.last_pages) == (before, after)
    assert {gap.partition(": ")[2] for gap in found.gaps} <= BUSY
    assert found.first_at is not None
    assert found.last_at is not None
    steps = [shard["steps"][0] for shard in shards]
    assert found.first_at.timestamp() * 1e9 < min(step["phase_starts_ns"]["warmup"] for step in steps)
    assert found.last_at.timestamp() * 1e9 > max(step["measure_end_ns"] for step in steps)

    samples = local_lake.read_incoming(run_id)
    first, last = (
        metric_rows(run_id, at, texts)
        for at, texts in ((found.first_at, found.first_pages), (found.last_at, found.last_pages))
    )
    rules = reconcile(first, last, samples)
    for rule in ("engine_counters", "engine_requests"):
        assert (rules[rule]["verdict"], rules[rule]["value"]) == ("pass", 0), rules[rule]

    assert {row["source"] for row in found.rows} == set(replicas)
    ends = [engine_readings(r, after[r]) for r in replicas]
    told = {(one.source, one.name, one.labels): one.value for of_page in ends for one in of_page}
    latest: dict[tuple[str, str, str], Any] = {}
    for row in found.rows:
        key = (row["source"], row["name"], row["labels"])
        latest[key] = max(latest.get(key, row), row, key=lambda one: one["at"])
    assert {key: row["value"] for key, row in latest.items() if key[1].endswith("_total")} == {
        key: value for key, value in told.items() if key[1].endswith("_total")
    }
    assert found.table(SCHEMAS["engine_metrics"]).num_rows == len(found.rows)
    assert found.table(SCHEMAS["accelerator_metrics"], accelerators=True).num_rows > 0

    side = SideChannels(found.rows, found.accelerator_rows)
    columns = side.step_columns(steps[0]["phase_starts_ns"]["measure"], steps[0]["measure_end_ns"])
    assert columns["preemptions"] == 0
    assert columns["accelerator_util_mean_pct"] == 97
    assert columns["kv_cache_use_max"] is not None
    sources = {(row["source"], json.loads(row["labels"])["device"]) for row in found.accelerator_rows}
    assert (f"dcgm:{node.split('/')[2]}", GPU) in sources
    energy = [
        row for row in found.accelerator_rows if row["name"] == "energy_j_total" and GPU in row["labels"]
    ]
    dcgm_readings = len({row["at"] for row in found.accelerator_rows})
    assert len(energy) == dcgm_readings, "the page that two replicas share counts once"


# ------------------------------------------------------------------ files of every kind


def reading(at: int, when: str, **what: Any) -> dict[str, Any]:
    head = {"at": at, "kind": "engine", "replica_id": "a", "url": "http://a:1/metrics", "when": when}
    return {**head, "took_ms": 1.0, "text": None, "changed": None, "error": None, **what}


def page(running: int, tokens: int) -> str:
    return f"vllm:num_requests_running {running}\nvllm:generation_tokens_total {tokens}\n"


def entry(data: bytes | None, **changes: Any) -> dict[str, Any]:
    return {
        "name": None if data is None else "scrape-0.jsonl.gz",
        "kind": "engine",
        "replica_id": "a",
        "url": "http://a:1/metrics",
        "readings": 3,
        "gaps": {},
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        **changes,
    }


def packed(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def stored(lake: Lake, run_id: str, data: bytes, shard: int = 0) -> None:
    lake.storage.write(f"_incoming/run_id={run_id}/shard={shard:03d}/scrape-0.jsonl.gz", data)


def shard(number: int, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"shard": number, "scrapes": list(entries)}


ROWS = [
    reading(1_000_000_000, "before", text=page(0, 10)),
    reading(2_000_000_000, "beside", error="it answered HTTP 500"),
    reading(3_000_000_000, "beside", changed={"0": "7", "1": "15"}),
    reading(4_000_000_000, "after", text=page(0, 30)),
]


def test_rows_are_as_the_samplers(lake: Lake) -> None:
    run_id, data = new_run_id(), packed(ROWS)
    stored(lake, run_id, data)
    gaps = {"it answered HTTP 500": 1}
    found = read_scraped(lake, run_id, [shard(0, entry(data, gaps=gaps))])
    running = [row for row in found.rows if row["name"] == "requests_running"]
    assert [(row["at"], row["value"]) for row in running] == [
        (datetime.fromtimestamp(second, UTC), value) for second, value in ((1, 0.0), (3, 7.0), (4, 0.0))
    ]
    assert {row["run_id"] for row in found.rows} == {run_id}
    assert (found.readings, found.gaps) == (3, {"a: it answered HTTP 500": 1})
    assert (found.first_pages, found.last_pages) == ({"a": page(0, 10)}, {"a": page(0, 30)})


def test_the_earliest_and_latest_pages_of_all_shards_count(local_lake: Lake) -> None:
    run_id = new_run_id()
    late = packed([reading(2, "before", text=page(0, 11)), reading(9_000_000_000, "after", text=page(0, 40))])
    early = packed(ROWS)
    stored(local_lake, run_id, late, 1)
    stored(local_lake, run_id, early, 0)
    found = read_scraped(local_lake, run_id, [shard(1, entry(late)), shard(0, entry(early))])
    assert (found.first_pages, found.last_pages) == ({"a": page(0, 11)}, {"a": page(0, 40)})
    assert found.readings == 3, "the series is shard 0's"
    half = packed(ROWS[:3])
    stored(local_lake, run_id, half, 1)
    found = read_scraped(local_lake, run_id, [shard(0, entry(early)), shard(1, entry(half))])
    assert (list(found.first_pages), found.last_pages) == (["a"], {}), (
        "a shard sent requests after the last page"
    )
    assert found.last_at is None


@pytest.mark.parametrize(
    ("data", "claimed", "reason", "readings"),
    [
        (None, packed(ROWS), "its file is missing in the lake", 0),
        (packed(ROWS[:1]), packed(ROWS), "its file was altered", 0),
        (packed(ROWS)[:-20], packed(ROWS)[:-20], "its file is broken", None),
        (packed([{"at": 1}, *ROWS[2:]]), None, "its file is broken", 0),
        (packed([ROWS[2]]), None, "its file is broken", 0),
    ],
)
def test_what_is_lost_is_told(
    local_lake: Lake, data: bytes | None, claimed: bytes | None, reason: str, readings: int | None
) -> None:
    run_id = new_run_id()
    if data is not None:
        stored(local_lake, run_id, data)
    found = read_scraped(local_lake, run_id, [shard(0, entry(claimed or data))])
    assert any(gap.startswith(f"a: {reason}") for gap in found.gaps), found.gaps
    assert readings is None or found.readings == readings


def test_none_there_is_not_lost(local_lake: Lake) -> None:
    run_id = new_run_id()
    absent = entry(
        None, kind="dcgm", url="http://n:9400/", readings=0, gaps={"it could not be read: refused": 5}
    )
    unknown, data = {"engine": "x"}, packed([reading(1, "before", text="up 1\n")])
    stored(local_lake, run_id, data)
    found = read_scraped(local_lake, run_id, [shard(0, absent, entry(data)), {"shard": 1, **unknown}])
    assert found.gaps == {"dcgm:n:9400: it could not be read: refused": 5}, "an unknown page misses nothing"
    assert (found.rows, found.accelerator_rows, found.readings) == ([], [], 0)
    assert found.first_pages == {"a": "up 1\n"}
    assert isinstance(read_scraped(local_lake, new_run_id(), [{"shard": 0}]), Scraped)


def test_a_long_run_is_thinned_evenly(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelbench_assets.telemetry.scraped.MAX_ROWS", 100)
    rows = [reading(k * 1_000_000_000, "beside", text=page(k, k)) for k in range(1, 301)]
    run_id, data = new_run_id(), packed(rows)
    stored(local_lake, run_id, data)
    found = read_scraped(local_lake, run_id, [shard(0, entry(data))])
    moments = sorted({row["at"].timestamp() for row in found.rows})
    assert 20 <= len(moments) <= 51
    steps = {round(b - a) for a, b in pairwise(moments)}
    assert len(steps) == 1, steps


def test_the_page_of_the_neuron_exporter() -> None:
    found = {
        (one.name, json.loads(one.labels)["device"]): one.value
        for one in parse_neuron_page("neuron:10.0.0.1:8000", NEURON)
    }
    assert found == {
        ("util_pct", "nc0"): 50.0,
        ("util_pct", "nc3"): pytest.approx(89.01827638996558),
        ("memory_used_bytes", "nd0"): 127.0,
        ("memory_used_bytes", "nd1"): 5.0,  # cores 2 and 3 of two a device
        ("ecc_corrected_total", "nd1"): 1.0,
        ("ecc_uncorrected_total", "nd1"): 6.0,
    }
    assert parse_neuron_page("neuron:a", "system_vcpu_count 4\n") == []


def test_a_neuron_page_in_the_lake_is_reduced(local_lake: Lake) -> None:
    run_id = new_run_id()
    rows = [reading(k * 1_000_000_000, "beside", text=NEURON, kind="neuron") for k in range(10, 16)]
    data = packed(rows)
    stored(local_lake, run_id, data)
    told = entry(data, kind="neuron", url="http://10.0.0.1:8000/metrics")
    found = read_scraped(local_lake, run_id, [shard(0, told)])
    columns = SideChannels((), found.accelerator_rows).step_columns(10_000_000_000, 15_000_000_000)
    assert columns["accelerator_util_mean_pct"] == pytest.approx((50 + 89.01827638996558) / 2)
    assert columns["accelerator_memory_peak_gib"] == 127 / 2**30
    assert columns["power_mean_w"] is None, "it does not show power"
