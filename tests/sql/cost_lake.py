"""A lake whose figures are those of the golden vectors of cost: P 10; X 5; X_in 5000; X_out 1000, and four mixes."""

from __future__ import annotations

from typing import Any

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run

G6 = "g6.xlarge"
FLAT, BE = "r-flat", "r-be"
PRICES: list[dict[str, Any]] = [
    {"region": FLAT, "usd": "10"},
    {"region": "r-1y", "usd": "3", "tier": "reserved_1y", "upfront_usd": "26280", "term_hours": 8760.0,
     "payment_option": "partial_upfront"},
    {"region": "r-3y", "usd": "0", "tier": "reserved_3y", "upfront_usd": "105120", "term_hours": 26280.0,
     "payment_option": "all_upfront"},
    {"region": BE, "usd": "10"},
    {"region": BE, "usd": "3", "tier": "reserved_1y", "upfront_usd": "26280", "term_hours": 8760.0,
     "payment_option": "partial_upfront"},
    {"region": BE, "usd": "4", "tier": "spot", "zone": "r-be-a"},
    {"region": BE, "usd": None, "tier": "capacity_block", "upfront_usd": "192", "term_hours": 24.0,
     "payment_option": "all_upfront", "offering_class": "block_24h"},
    {"region": "r-gone", "usd": None, "missing_reason": "not sold on demand in this region"},
]  # fmt: skip

ALPHA, BETA, GAMMA = 1e-5, 5e-4, 0.02
"""Seconds of capacity per input token, output token and request, of which the mixes are made."""
MIXES = {"mix.long-in@1": (8000, 1000), "mix.even@1": (1000, 1000), "mix.long-out@1": (1000, 8000),
         "mix.short@1": (128, 2000)}  # fmt: skip


def put_steps(lake: Lake, record: dict[str, Any], steps: list[dict[str, Any]], slo: str = "pass") -> None:
    """A committed run whose steps have exactly these figures beside the usual ones."""
    put_run(lake, record, steps=len(steps))
    rows = lake.run_table("run_steps", record).to_pylist()
    percentiles = lake.run_table("run_percentiles", record).to_pylist()
    slos = lake.run_table("slo_results", record).to_pylist()
    for row, change in zip(rows, steps, strict=True):
        means = {name: change.pop(f"{name}_mean_ms", None) for name in ("ttft", "itl")}
        decision = change.pop("decision", slo)
        row |= change
        row["total_tokens_per_s"] = row["input_tokens_per_s"] + row["output_tokens_per_s"]
        for one in percentiles:
            if one["step_index"] == row["step_index"] and means.get(one["metric"]) is not None:
                one["mean"] = means[one["metric"]]
        for one in slos:
            if one["step_index"] == row["step_index"]:
                one["decision"] = decision
    for name, changed in (("run_steps", rows), ("run_percentiles", percentiles), ("slo_results", slos)):
        lake.write_run_table(name, record, table_from_rows(name, changed))


def put_golden(lake: Lake) -> dict[str, Any]:
    """The golden run: alone (prefill 3 s), then in open loop at capacity (7 s decoding a request); 360 s to start."""
    record = make_record(make_cell(instance=G6), ready_s=360.0, accelerators_used=1)
    put_steps(
        lake,
        record,
        [
            {"load_kind": "closed", "load_value": 1.0, "requests_per_s": 0.1, "input_tokens_per_s": 100.0,
             "output_tokens_per_s": 20.0, "ttft_mean_ms": 3000.0, "itl_mean_ms": 30.0, "decode_concurrency_mean": 0.6},
            {"load_kind": "open", "load_value": 5.0, "requests_per_s": 5.0, "input_tokens_per_s": 5000.0,
             "output_tokens_per_s": 1000.0, "ttft_mean_ms": 4000.0, "itl_mean_ms": 70.0, "decode_concurrency_mean": 2.0,
             "requests_per_s_ci_low": 4.0, "requests_per_s_ci_high": 8.0, "output_tokens_per_s_ci_low": 800.0,
             "output_tokens_per_s_ci_high": 1600.0},
        ],
    )  # fmt: skip
    return record


def put_golden_prices(lake: Lake) -> None:
    put_prices(lake, [make_price(G6, row.pop("usd"), **row) for row in map(dict, PRICES)])


def put_mixes(
    lake: Lake, mixes: dict[str, tuple[int, int]], *, instance: str = "g6e.xlarge", noise: float = 0.0
) -> None:
    """A run for each mix at the capacity that ALPHA, BETA and GAMMA leave it, and a heavier step that fails;
    *noise* moves the first one's.
    """
    for place, (workload, (tokens_in, tokens_out)) in enumerate(mixes.items()):
        rate = 1 / (ALPHA * tokens_in + BETA * tokens_out + GAMMA)
        rate *= 1 + (noise if place == 0 else 0)
        put_steps(
            lake,
            make_record(make_cell(instance=instance, workload=workload)),
            [
                {"load_kind": "open", "load_value": rate * load, "requests_per_s": rate, "decision": decision,
                 "input_tokens_per_s": rate * tokens_in, "output_tokens_per_s": rate * tokens_out}
                for load, decision in ((1.0, "pass"), (1.2, "fail"))
            ],
        )  # fmt: skip


def put_instances(lake: Lake, counts: dict[str, int]) -> None:
    rows = [
        {"instance_type": n, "family": n.split(".")[0], "accelerator_count": c} for n, c in counts.items()
    ]
    lake.write_fact("instance_types", "2026-11-01", table_from_rows("instance_types", rows))
