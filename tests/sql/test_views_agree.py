"""Every view says the same on DuckDB over the lake and on PostgreSQL over the published rows."""

from __future__ import annotations

import psycopg
import pytest

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.files import files_as_written, sql_files
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
from tests.sql.cost_lake import MIXES, put_golden, put_instances, put_mixes
from tests.sql.engines import check_same, on_both
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run, write_derived

pytestmark = pytest.mark.xdist_group("postgres")


def fill(lake: Lake) -> None:
    """Many kinds of rows: ties, nulls, all origins and levels, several models, regions and tiers."""
    for number, (instance, origin, level) in enumerate(
        [
            ("g6.xlarge", "measured", "standard"),
            ("g6.xlarge", "measured", "publication"),
            ("g5.xlarge", "measured", "standard"),
            ("g5.xlarge", "simulated", "standard"),
            ("g6e.xlarge", "measured", "demo"),
            ("local-1a2b3c4d", "measured", "standard"),
        ]
    ):
        record = make_record(
            make_cell(model=f"m{number % 2}", instance=instance),
            origin=origin,
            evidence_level=level,
            region="us-east-1",
        )
        put_run(lake, record)
        write_derived(
            lake,
            record,
            slo=[None, "pass", "pass", "pass", None, "fail"][number],
            output_tokens_per_s=1000 / 3 + number // 2,
        )
    for workload in ("demo.chat@1", "mix.long@1", "mix.short@1", "mix.even@1"):
        lake.put_cell(make_cell(instance="g6.xlarge", workload=workload))
    for status, code in (("does_not_fit", "does_not_fit"), ("failed", "oom"), ("cancelled", None)):
        cell = make_cell(model=f"never-{status.replace('_', '-')}", instance="g6e.xlarge")
        lake.put_cell(cell)
        lake.finish(
            make_record(
                cell,
                status=status,
                failure_code=code,
                region="us-east-1",
                ready_s=None,
                committed_at="2026-11-01T12:10:00+00:00",
                run_cost_usd=0.25 if code else None,
            )
        )
    estimates = []
    for name, state in (
        ("guessed", "estimated"),
        ("large", "does_not_fit"),
        ("absent", "not_sold"),
        ("x", "unknown"),
    ):
        cell = make_cell(model=name, instance="g6e.xlarge")
        lake.put_cell(cell)
        estimates.append(
            {"cell_id": cell.cell_id, "as_of": "2026-11-01T00:00:00Z", "region": "us-east-1", "state": state,
             "reason": f"{name}: {state}", "usd_per_hour": "1.861", "inputs_sha256": "0" * 64,
             **({"requests_per_s": 2.5, "concurrency": 8, "measured_runs": 0} if state == "estimated" else {})}
        )  # fmt: skip
    stopped = make_cell(model="never-cancelled", instance="g6e.xlarge")
    estimates.append({**estimates[0], "cell_id": stopped.cell_id})
    lake.write_fact("cell_estimates", "2026-11-01", table_from_rows("cell_estimates", estimates))
    put_mixes(lake, MIXES)
    put_golden(lake)
    put_instances(lake, {"g6.xlarge": 4, "g5.xlarge": 1, "g6e.xlarge": 1})
    put_prices(
        lake,
        [
            make_price("g6.xlarge", "0.8048"),
            make_price("g6.xlarge", "0.8048", region="eu-west-1"),
            make_price("g6.xlarge", "0.2411223344", tier="spot", zone="us-east-1a"),
            make_price("g5.xlarge", "1.006"),
            make_price("g5.xlarge", None, tier="reserved_1y", payment_option="all_upfront", upfront_usd="5000",
                       term_hours=8760.0),
            make_price("g6e.xlarge", None, missing_reason="not sold here"),
            make_price("g6e.xlarge", "1.861", region="eu-west-1"),
            make_price("g6e.xlarge", "0.9", region="eu-west-1", tier="reserved_3y", payment_option="no_upfront"),
        ],
    )  # fmt: skip


def test_every_view_agrees_on_both_engines(local_lake: Lake, dsn: str) -> None:
    fill(local_lake)
    build_marts(local_lake)
    publish(local_lake, dsn)
    views = [file.name for file in sql_files("views")]
    assert {"catalog", "ranking", "reporting_points", "monthly_projection", "reserved_break_even"} <= set(
        views
    )
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("set timezone = 'UTC'")
        for name in (*views, "benchmark_results", "cost_per_token"):
            ours = query(local_lake, f"select * from {name}").to_pylist()
            theirs = connection.execute(f"select * from accelbench.{name}").fetchall()
            check_same(ours, theirs, name)
        rank = connection.execute(
            "select price_rank, model, instance_type, region, tier from accelbench.ranking"
        ).fetchall()
    assert {row["instance_type"] for row in rank} == {"g6.xlarge", "g5.xlarge", "g6e.xlarge"}


def test_every_portable_query_agrees_over_the_same_rows(local_lake: Lake, dsn: str) -> None:
    fill(local_lake)
    both = on_both(local_lake, dsn)
    written = {file.name for kind in ("marts", "views") for file in files_as_written(kind)}
    assert written - both.keys() == {"benchmark_results"}, "all but the one that reads JSON"
    for name, (ours, theirs) in both.items():
        check_same(ours, theirs, name)
    assert any(row["missing_reason"] is None for row in both["mix_regression"][0])
    states = {(row["state"], row["basis"]) for row in both["coverage"][0]}
    assert states >= {(s, "arithmetic") for s in ("estimated", "does_not_fit", "not_sold")} | {
        ("never_run", None)
    }
    assert any(row["usage_share"] == 0.25 for row in both["cost_per_token"][0])
    assert {row["cost_basis"] for row in both["run_costs"][0]} == {"recorded", "latest_price", None}
