"""How long and how much memory the summary of a very large run takes: 1 M requests, 256 M token gaps.

The run is made part by part in one process and summarised, from the Parquet files to the three derived tables, in
another, whose wall time and peak resident memory count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from loadgen.monitor import rss_peak_mib  # getrusage would tell of the memory of the test runner too
from loadgen.samples import sample_schema
from tests.unit.bench_samples import SECOND, T0, shard

REQUESTS, CHUNKS, PART_ROWS = 1_000_000, 257, 4_000
WINDOW_S = 600.0
LIMIT_S, LIMIT_GIB = 20.0, 3.0


def build(folder: Path, requests: int) -> None:
    """*requests* answers of 257 one-token chunks, evenly over W, gaps of gamma law around 10 ms."""
    rng = np.random.default_rng(1)
    schema = sample_schema()
    for part, low in enumerate(range(0, requests, PART_ROWS)):
        rows = min(PART_ROWS, requests - low)
        seq = np.arange(low, low + rows)
        due = T0 + (seq * (WINDOW_S * SECOND / requests)).astype(np.int64)
        gaps = rng.gamma(20.0, 500.0, size=(rows, CHUNKS)).astype(np.uint32)
        gaps[:, 0] = rng.gamma(10.0, 5000.0, size=rows)
        offsets = np.cumsum(gaps, axis=1, dtype=np.uint32)
        first, last = offsets[:, 0] / 1000.0, offsets[:, -1] / 1000.0
        starts = pa.array(np.arange(rows + 1, dtype=np.int32) * CHUNKS)
        columns: dict[str, Any] = {
            "run_id": ["run"] * rows,
            "shard": np.zeros(rows, np.int16),
            "step_index": np.zeros(rows, np.int16),
            "seq": seq,
            "request_id": [f"run-0-{i}" for i in seq],
            "phase": ["measure"] * rows,
            "model": ["m"] * rows,
            "replica_id": ["127.0.0.1:8000"] * rows,
            "scheduled_at": due,
            "sent_at": due,
            "ttft_ms": first,
            "ttft_from_send_ms": first,
            "e2e_ms": last,
            "e2e_from_send_ms": last,
            "tail_ms": np.zeros(rows),
            "send_lag_ms": np.zeros(rows),
            "tpot_ms": (last - first) / (CHUNKS - 1),
            "chunk_offset_us": pa.ListArray.from_arrays(starts, pa.array(offsets.ravel())),
            "chunk_tokens": pa.ListArray.from_arrays(starts, pa.array(np.ones(rows * CHUNKS, np.uint16))),
            "shared_chunks": np.zeros(rows, np.int32),
            "output_tokens_requested": np.full(rows, CHUNKS),
            "input_tokens": np.full(rows, 128),
            "output_tokens": np.full(rows, CHUNKS),
            "token_count_source": ["usage"] * rows,
            "status": ["ok"] * rows,
            "prompt_hash": [f"{i:016x}" for i in seq],
        }
        arrays = [
            pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(rows, type=field.type)
            for field in schema
        ]
        pq.write_table(
            pa.table(arrays, schema=schema), folder / f"part-000-{part:03d}.parquet", compression="zstd"
        )


def summarise(folder: Path) -> dict[str, float]:
    """Summarise the run in *folder* and say what it took."""
    from accelbench_assets.bench.summary import summarise as tables

    load = os.getloadavg()[0]
    began = time.perf_counter()
    cpu = time.process_time()
    samples = ds.dataset(sorted(map(str, folder.glob("*.parquet"))), format="parquet")
    rows = samples.count_rows()
    made = shard(windows_s=[WINDOW_S], scheduled=[rows])
    slo = {"ttft_ms": 100.0, "tpot_ms": 12.0, "quantile": 0.95}
    record = {
        "run_id": "run",
        "cell_id": "cell",
        "evidence_level": "publication",
        "ladder": [{"step_index": 0, "slo": slo}],
    }
    found = tables(samples, [made], record)
    itl = next(row for row in found.percentiles.to_pylist() if row["metric"] == "itl")
    return {
        "load": load,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_gib": rss_peak_mib() / 1024,
        "requests": rows,
        "gaps": itl["n"],
        "itl_p50": itl["p50"],
        "itl_p99_gate": itl["p99_gate"],
    }


def _child(call: str, folder: Path, *more: object) -> str:
    code = f"import sys; from tests.benchmarks import test_summary as t; {call}"
    command = [sys.executable, "-c", code, str(folder), *map(str, more)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout


def measured(folder: Path, requests: int) -> dict[str, Any]:
    """Build and summarise a run of *requests*, each in a process of its own."""
    _child("t.build(t.Path(sys.argv[1]), int(sys.argv[2]))", folder, requests)
    found = json.loads(_child("print(t.json.dumps(t.summarise(t.Path(sys.argv[1]))))", folder))
    for path in folder.glob("*.parquet"):
        path.unlink()
    return dict(found)


@pytest.mark.long
def test_a_million_requests_are_summarised_in_20_seconds_and_3_gib(tmp_path: Path) -> None:
    found = measured(tmp_path, REQUESTS)
    print(found)
    assert found["gaps"] == REQUESTS * (CHUNKS - 1)
    assert found["itl_p99_gate"] == "published"
    assert 9.0 < found["itl_p50"] < 11.0
    assert found["peak_gib"] < LIMIT_GIB
    assert found["wall_s"] < LIMIT_S, f"load average {found['load']}: this needs the cores to itself"


def test_memory_does_not_follow_the_number_of_gaps(tmp_path: Path) -> None:
    """A fiftieth of the large run, in far less memory than its 5 million gaps would take as numbers sorted whole."""
    found = measured(tmp_path, REQUESTS // 50)
    assert found["gaps"] == REQUESTS // 50 * (CHUNKS - 1)
    assert found["peak_gib"] < 1.0
