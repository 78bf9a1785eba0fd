"""Every view says the same on DuckDB over the lake and on PostgreSQL over the published rows."""

from __future__ import annotations

import math
from typing import Any

import psycopg
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.files import sql_files
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
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
        ],
    )  # fmt: skip


def comparable(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (value is None, str(value) if not isinstance(value, float) else f"{value:.6g}")
        for value in row.values()
    )


def check_same(left: list[dict[str, Any]], right: list[dict[str, Any]], what: str) -> None:
    assert len(left) == len(right) > 0, what
    for one, other in zip(sorted(left, key=comparable), sorted(right, key=comparable), strict=True):
        assert list(one) == list(other), what
        for column, value in one.items():
            if isinstance(value, float):
                assert math.isclose(value, other[column], rel_tol=1e-9), f"{what}.{column}"
            else:
                assert value == other[column], f"{what}.{column}"


def test_every_view_agrees_on_both_engines(local_lake: Lake, dsn: str) -> None:
    fill(local_lake)
    build_marts(local_lake)
    publish(local_lake, dsn)
    views = [file.name for file in sql_files("views")]
    assert {"catalog", "ranking"} <= set(views)
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("set timezone = 'UTC'")
        for name in (*views, "benchmark_results", "cost_per_token"):
            ours = query(local_lake, f"select * from {name}").to_pylist()
            theirs = connection.execute(f"select * from accelbench.{name}").fetchall()
            check_same(ours, theirs, name)
        rank = connection.execute(
            "select price_rank, model, instance_type, region, tier from accelbench.ranking"
        ).fetchall()
    assert {row["instance_type"] for row in rank} == {"g6.xlarge", "g5.xlarge"}
