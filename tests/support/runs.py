"""Made-up runs with every table filled, small and deterministic, for tests of the lake, SQL and reports."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from uuid_utils import uuid7

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import QUANTILES, SCHEMAS
from partitions.cell import BenchmarkCell, Deployment

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
HOST = "feedc0de"


def make_cell(
    model: str = "smollm2-135m-instruct", instance: str = "local-1a2b3c4d", workload: str = "demo.chat@1",
    engine: str = "llamacpp", deployment: Deployment | None = None,
) -> BenchmarkCell:  # fmt: skip
    return BenchmarkCell(
        model=model,
        revision="0e9e39f",
        instance=instance,
        engine=engine,
        engine_version="1.0",
        deployment=deployment or Deployment(),
        workload=workload,
    )


def make_record(
    cell: BenchmarkCell | None = None, run_id: str | None = None, **changes: Any
) -> dict[str, Any]:
    cell = cell or make_cell()
    return {
        "run_id": run_id or str(uuid7()),
        "cell_id": cell.cell_id,
        "cell_key": cell.key_text,
        "trial_index": 0,
        "evidence_level": "standard",
        "origin": "measured",
        "hardware": "observed",
        "launcher": "local",
        "instance_type": cell.instance,
        "instance_count": 1,
        "host_fingerprint": HOST,
        "model_id": f"example/{cell.model}",
        "model_revision": cell.revision,
        "quantization": "none",
        "engine": cell.engine,
        "engine_version": cell.engine_version,
        "engine_args": {"threads": 1},
        "env": {},
        "tp": 1,
        "replicas": 1,
        "prefix_caching": False,
        "workload_id": cell.workload,
        "seed": 7,
        "ladder": [["closed", 1.0], ["closed", 2.0]],
        "requested_at": START.isoformat(),
        "load_started_at": (START + timedelta(seconds=10)).isoformat(),
        "load_finished_at": (START + timedelta(seconds=70)).isoformat(),
        "status": "succeeded",
        "validity": {"errors": {"verdict": "pass", "value": 0.0, "limit": 0.01, "text": "no errors"}},
        "triggered_by": "user",
        **changes,
    }


def make_samples(run_id: str, rows: int, step_index: int = 0, shard: int = 0, seed: int = 0) -> pa.Table:
    """*rows* samples of one step, with chunk lists of two entries each. A million take about a second."""
    table = _samples(rows, step_index, shard, seed)
    same = pa.array([run_id]).take(pa.array(np.zeros(rows, np.int64)))
    return table.set_column(0, SCHEMAS["raw_samples"].field("run_id"), same)


@cache
def _samples(rows: int, step_index: int, shard: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    ttft = random.lognormal(4, 0.5, rows)
    e2e = ttft + random.lognormal(6, 0.3, rows)
    scheduled = np.datetime64("2026-11-01T12:00:00", "ns") + (np.arange(rows) * 1_000_000).astype(
        "timedelta64[ns]"
    )
    schema = SCHEMAS["raw_samples"]
    offsets = pa.array(np.arange(0, 2 * rows + 1, 2), pa.int32())
    values: dict[str, Any] = {
        "run_id": pa.array(["unset"]).take(pa.array(np.zeros(rows, np.int64))),
        "shard": np.full(rows, shard, np.int16),
        "step_index": np.full(rows, step_index, np.int16),
        "seq": np.arange(rows, dtype=np.int32),
        "request_id": pa.array(np.char.add(f"{shard}-{step_index}-", np.arange(rows).astype(str))),
        "phase": _constant("measure", rows),
        "model": pa.array(["m"]).take(pa.array(np.zeros(rows, np.int64))),
        "scheduled_at": pa.array(scheduled).cast(pa.timestamp("ns", tz="UTC")),
        "sent_at": pa.array(scheduled).cast(pa.timestamp("ns", tz="UTC")),
        "ttft_ms": ttft,
        "e2e_ms": e2e,
        "ttft_from_send_ms": ttft,
        "e2e_from_send_ms": e2e,
        "send_lag_ms": np.zeros(rows),
        "tpot_ms": (e2e - ttft) / 10,
        "chunk_offset_us": pa.ListArray.from_arrays(
            offsets, pa.array(np.arange(2 * rows) % 1000, pa.uint32())
        ),
        "chunk_tokens": pa.ListArray.from_arrays(offsets, pa.array(np.ones(2 * rows), pa.uint16())),
        "chunk_stamp": _constant("user", rows),
        "shared_chunks": np.zeros(rows, np.int32),
        "output_tokens": np.full(rows, 11, np.int32),
        "status": _constant("ok", rows),
        "prompt_hash": pa.array(["0" * 16]).take(pa.array(np.zeros(rows, np.int64))),
    }
    columns = []
    for field in schema:
        value = values.get(field.name)
        if value is None:
            columns.append(pa.nulls(rows, field.type))
        else:
            columns.append(
                value.cast(field.type) if isinstance(value, pa.Array) else pa.array(value, field.type)
            )
    return pa.Table.from_arrays(columns, schema=schema)


def _constant(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def put_shard(lake: Lake, run_id: str, parts: list[pa.Table], shard: int = 0, complete: bool = True) -> None:
    """What the generator leaves: parts and ``shard.json`` below the run's ``_incoming`` folder."""
    folder = f"_incoming/run_id={run_id}/shard={shard:03d}"
    listed = []
    for index, table in enumerate(parts):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        lake.storage.write(f"{folder}/part-{index}.parquet", content)
        listed.append(
            {
                "name": f"part-{index}.parquet",
                "rows": table.num_rows,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    manifest = {
        "format": 1,
        "run_id": run_id,
        "shard": shard,
        "shards": 1,
        "complete": complete,
        "reason": None,
        "rows": sum(t.num_rows for t in parts),
        "parts": listed,
    }
    lake.storage.write(f"{folder}/shard.json", json.dumps(manifest).encode())


def attempt(record: dict[str, Any]) -> dict[str, Any]:
    """*record* as it is when an attempt begins."""
    return {**record, "pid": 1, "lock": "/nowhere"}


def put_run(lake: Lake, record: dict[str, Any], rows: int = 20, steps: int = 2) -> dict[str, Any]:
    """A committed run with samples and derived tables; returns its record."""
    run_id = record["run_id"]
    lake.begin_attempt(attempt(record))
    put_shard(lake, run_id, [make_samples(run_id, rows, step_index=i, seed=i) for i in range(steps)])
    lake.commit(record, lake.verify_shards(run_id, 1))
    write_derived(lake, record, steps=steps)
    return record


def write_derived(
    lake: Lake, record: dict[str, Any], *, steps: int = 2, slo: str | None = "pass", **rates: float
) -> None:
    """run_steps, run_percentiles and slo_results of a run; *rates* override figures of every step."""
    ids = {"run_id": record["run_id"], "cell_id": record["cell_id"]}
    numbers = {
        "requests_per_s": 5.0, "input_tokens_per_s": 5000.0, "output_tokens_per_s": 1000.0,
        "total_tokens_per_s": 6000.0, "prefix_cache_hit_share": 0.0, **rates,
    }  # fmt: skip
    table = table_from_rows(
        "run_steps",
        [
            {
                **ids,
                "step_index": step,
                "load_kind": "closed",
                "load_value": float(step + 1),
                "window_s": 30.0,
                "requests_scheduled": 100,
                "ok": 100,
                "errors": 0,
                "error_rate": 0.0,
                "steady": True,
                "verdict": "pass",
                **numbers,
            }
            for step in range(steps)
        ],
    )
    lake.write_run_table("run_steps", record, table)
    rows = []
    for step in range(steps):
        for place, metric in enumerate(("ttft", "tpot", "itl", "e2e")):
            row: dict[str, Any] = {
                **ids, "step_index": step, "metric": metric, "unit": "ms", "n": 100, "n_failed": 0,
                "n_eff": 90.0, "mean": 10.0 + place, "min": 1.0, "max": 99.0, "method": "inverse_ecdf",
            }  # fmt: skip
            for rank, q in enumerate(QUANTILES):
                open_gate = q in ("p50", "p90")
                row |= {
                    q: 10.0 * (place + 1) + rank + step + 0.1 if open_gate else None,
                    f"{q}_gate": "published" if open_gate else "needs_n",
                    f"{q}_needs_n": None if open_gate else 2000,
                }
            rows.append(row)
    lake.write_run_table("run_percentiles", record, table_from_rows("run_percentiles", rows))
    slos = [] if slo is None else [
        {**ids, "step_index": step, "slo_id": "chat", "ttft_ms": 200.0, "tpot_ms": 50.0, "attainment": 0.99,
         "goodput_rps": 4.0, "goodput_output_tokens_per_s": 800.0, "decision": slo}
        for step in range(steps)
    ]  # fmt: skip
    lake.write_run_table("slo_results", record, table_from_rows("slo_results", slos))


def make_price(instance_type: str, usd: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "snapshot_id": "s1", "provider": "aws", "region": "us-east-1", "instance_type": instance_type,
        "os": "linux", "tenancy": "shared", "tier": "on_demand", "usd_per_hour": None if usd is None else Decimal(usd),
        "fetched_at": START, "source": "test", **changes,
    }  # fmt: skip
    row.setdefault(
        "price_point_id", hashlib.sha256(repr(sorted(row.items(), key=str)).encode()).hexdigest()[:16]
    )
    return row


def put_prices(lake: Lake, prices: list[dict[str, Any]], date: str = "2026-11-01") -> None:
    lake.write_fact("price_points", date, table_from_rows("price_points", prices))
