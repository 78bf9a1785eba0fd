"""Made-up rows for the report tests, with the lake's schemas: in DuckDB's memory, or written to a real lake.

Every row is ``simulated`` unless a test asks for another origin to see how it is worded.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import QUANTILES, SCHEMAS
from accelbench_assets.paths import SQL_DIR

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TABLES = (
    *("runs", "run_steps", "run_percentiles", "slo_results", "supersessions", "price_points"),
    "instance_types",
)
QUERIES = ("benchmark_results", "latest_prices", "reporting_points", "mix_regression", "cost_per_token")


class Rows:
    """Rows by table; ``connect`` puts them into DuckDB, ``write`` into a lake."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        for name, rows in self.tables.items():
            wanted = [{field.name: row.get(field.name) for field in SCHEMAS[name]} for row in rows]
            connection.register(f"{name}_arrow", pa.Table.from_pylist(wanted, SCHEMAS[name]))
            connection.execute(f"create table {name} as select * from {name}_arrow")
        for query in QUERIES:
            (file,) = SQL_DIR.glob(f"*/{query}.sql")
            connection.execute(f"create view {query} as {file.read_text()}")
        return connection

    def write(self, lake: Lake) -> None:
        for run in self.tables["runs"]:
            if run["status"] != "succeeded":
                lake.finish(run)
                continue
            lake.commit(run, [])
            for name in ("run_steps", "run_percentiles"):
                own = [r for r in self.tables[name] if r["run_id"] == run["run_id"]]
                rows = [{field.name: row.get(field.name) for field in SCHEMAS[name]} for row in own]
                lake.write_run_table(name, run, pa.Table.from_pylist(rows, SCHEMAS[name]))

    def add_run(self, number: int, *, engine: str = "truth", status: str = "succeeded", **fields: Any) -> str:
        """One run; every field of ``runs`` can be overridden."""
        run_id = f"01939f00-0000-7000-8000-{number:012d}"
        model, label = fields.pop("model", "smollm2-135m-instruct"), fields.pop("label", "tp1-q4_1")
        version, instance = fields.pop("engine_version", "1.0"), fields.get("instance_type", "local-1a2b3c4d")
        key = f"{model}@0e9e39f~{instance}~{engine}-{version}~{label}-3fa91c07~demo.ladder@1"
        finished = NOW - timedelta(hours=number)
        self.tables["runs"].append(
            {
                "run_id": run_id,
                "cell_id": f"{number:012x}",
                "cell_key": key,
                "trial_index": 0,
                "evidence_level": "demo",
                "origin": "simulated",
                "hardware": "observed",
                "launcher": "local",
                "instance_type": instance,
                "instance_count": 1,
                "accelerator_kind": "cpu",
                "accelerator_name": "8-core CPU",
                "host_fingerprint": "1a2b3c4d",
                "model_id": f"example/{model}",
                "model_revision": "0e9e39f",
                "weights_sha256": "ab" * 32,
                "quantization": "q4_1",
                "engine": engine,
                "engine_version": version,
                "tp": 1,
                "replicas": 1,
                "workload_id": "demo.ladder@1",
                "workload_hash": "cd" * 32,
                "schedule_hash": "ef" * 32,
                "prompts_hash": "01" * 32,
                "seed": 7,
                "load_kind": "closed",
                "engine_args": json.dumps({"n_ctx": 2048, "n_parallel": 4, "threads": 1}),
                "env": json.dumps({"OMP_NUM_THREADS": "1", "HF_TOKEN": "****"}),
                "requested_at": finished,
                "committed_at": finished if status == "succeeded" else None,
                "status": status,
                "validity": json.dumps(
                    {
                        "client_lag": {
                            "verdict": "pass",
                            "value": 0.4,
                            "limit": 5,
                            "text": "Loop lag 0.4 ms.",
                        },
                        "evidence": {"verdict": "warn", "value": 8, "limit": 120, "text": "Window of 8 s."},
                    }
                ),
                "samples_rows": 96,
                "samples_sha256": "23" * 32,
                "git_commit": "4" * 40,
                "triggered_by": "user",
                "loadgen_version": "0.1.0",
                "ready_s": 1.4,
                "reproduce_command": f"accelbench run --model {model} --instance local --engine {engine}",
            }
            | fields
        )
        return run_id

    def add_step(
        self, run_id: str, step: int, concurrency: float, *, rate: float, ttft: float, **fields: Any
    ) -> None:
        """One step with percentiles: p50 to p95 published, p99 behind its gate."""
        self.tables["run_steps"].append(
            {
                "run_id": run_id,
                "cell_id": "x",
                "step_index": step,
                "load_kind": "closed",
                "load_value": concurrency,
                "window_s": 8.0,
                "requests_scheduled": 40,
                "ok": 40,
                "errors": 0,
                "error_rate": 0.0,
                "requests_per_s": rate / 32,
                "output_tokens_per_s": rate,
                "verdict": "pass",
            }
            | fields
        )
        for metric, value in {
            "ttft": ttft,
            "tpot": 24.0 * concurrency,
            "itl": 23.1,
            "e2e": ttft + 760,
        }.items():
            row: dict[str, Any] = {
                "run_id": run_id,
                "cell_id": "x",
                "step_index": step,
                "metric": metric,
                "unit": "ms",
                "n": 40,
                "n_failed": 0,
                "n_eff": 38.0,
                "method": "inverse_ecdf",
            }
            for i, q in enumerate(QUANTILES):
                row |= {
                    q: value * (1 + i / 4),
                    f"{q}_gate": "published",
                    f"{q}_ci_low": value * (0.9 + i / 4),
                    f"{q}_ci_high": value * (1.15 + i / 4),
                }
            row |= {
                "p95": value * 1.5,
                "p95_gate": "wide",
                "p99": None,
                "p99_gate": "needs_n",
                "p99_needs_n": 2000,
                "p99_ci_low": None,
                "p99_ci_high": None,
            }
            self.tables["run_percentiles"].append(row)

    def add_price(self, instance_type: str, usd_per_hour: str, tier: str = "on_demand") -> None:
        """A price a step's cost is joined to."""
        self.tables["price_points"].append(
            {
                "price_point_id": f"{instance_type}-{tier}",
                "snapshot_id": "s1",
                "provider": "aws",
                "region": "us-east-1",
                "instance_type": instance_type,
                "tier": tier,
                "usd_per_hour": Decimal(usd_per_hour),
                "fetched_at": NOW,
            }
        )


def ladder(lake: Rows, number: int = 1, *, base: float = 38.0, ttft: float = 80.0, **run: Any) -> str:
    """A run with the demo's three steps."""
    run_id = lake.add_run(number, **run)
    for step, (concurrency, factor) in enumerate(((1, 1.0), (2, 1.3), (4, 1.55))):
        lake.add_step(run_id, step, concurrency, rate=base * factor, ttft=ttft * concurrency**0.8)
    return run_id
