"""Lakes with made-up measured runs of catalogued instances, visibly synthetic."""

from typing import Any

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from partitions.cell import BenchmarkCell, Deployment
from tests.support.runs import attempt, make_record, make_samples, put_shard

QUANTILES = ("p50", "p90", "p95", "p99", "p999")


def measured(lake: Lake, instance: str, steps: list[dict[str, float]], **record: Any) -> dict[str, Any]:
    """A committed run with one step for each of *steps*: concurrency, rate, isl, osl, ttft, tpot (every quantile)."""
    tp = record.pop("tp", 1)
    cell = BenchmarkCell(
        model="llama-3.1-8b-instruct",
        revision="0e9e39f",
        instance=instance,
        engine="vllm",
        engine_version="0.33.0",
        deployment=Deployment(tp=tp, **record.pop("deployment", {})),
        workload="fixed.1k1k@1",
    )
    made = make_record(cell, tp=tp, launcher="eks", accelerators_used=tp, **record)
    lake.put_cell(cell)
    lake.begin_attempt(attempt(made))
    put_shard(
        lake, made["run_id"], [make_samples(made["run_id"], 5, step_index=n) for n in range(len(steps))]
    )
    lake.commit(made, lake.verify_shards(made["run_id"], 1))
    ids = {"run_id": made["run_id"], "cell_id": made["cell_id"]}
    rows, percentiles = [], []
    for number, step in enumerate(steps):
        rows.append(
            {
                **ids,
                "step_index": number,
                "load_kind": "closed",
                "load_value": step["concurrency"],
                "concurrency_mean": step["concurrency"],
                "window_s": 300.0,
                "requests_scheduled": 1000,
                "ok": 1000,
                "errors": 0,
                "error_rate": 0.0,
                "requests_per_s": step["rate"],
                "input_tokens_per_s": step["rate"] * step["isl"],
                "output_tokens_per_s": step["rate"] * step["osl"],
                "input_tokens_mean": step["isl"],
                "output_tokens_mean": step["osl"],
                "prefix_cache_hit_share": step.get("cached", 0.0),
                "steady": True,
                "verdict": "pass",
            }
        )
        for metric in ("ttft", "tpot"):
            gate = "needs_n" if step.get("few") else "published"
            row: dict[str, Any] = {**ids, "step_index": number, "metric": metric, "unit": "ms", "n": 1000}
            row |= {"n_failed": 0, "n_eff": 900.0, "mean": step[metric], "min": 1.0, "max": 1e5}
            row["method"] = "inverse_ecdf"
            for quantile in QUANTILES:
                row |= {quantile: None if step.get("few") else step[metric], f"{quantile}_gate": gate}
            percentiles.append(row)
    lake.write_run_table("run_steps", made, table_from_rows("run_steps", rows))
    lake.write_run_table("run_percentiles", made, table_from_rows("run_percentiles", percentiles))
    return made


def step(concurrency: float, rate: float, ttft: float, tpot: float, **more: float) -> dict[str, float]:
    return {
        "concurrency": concurrency,
        "rate": rate,
        "isl": 1000.0,
        "osl": 250.0,
        "ttft": ttft,
        "tpot": tpot,
        **more,
    }
