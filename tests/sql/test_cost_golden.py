"""The golden vectors of cost: in Python, in SQL on DuckDB and in SQL on PostgreSQL, to a relative 1e-9."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction as F
from typing import Any

import psycopg
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import cost, fleet
from accelbench_assets.sqlkit.duck import connect
from accelbench_assets.sqlkit.files import files_as_written
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
from tests.sql.cost_lake import BE, FLAT, G6, put_golden, put_golden_prices, put_instances
from tests.sql.engines import on_both

P, X, X_IN, X_OUT = 10, 5, 5000, 1000

# The published digits, and the number they round: P 10; X 5; N_in 1000; N_out 200.
GOLDEN: dict[str, tuple[str, F]] = {
    "request": ("0.000555555556", F(P, 3600 * X)),
    "prd_input": ("0.555555556", F(10**6 * P, 3600 * X_IN)),
    "prd_output": ("2.777777778", F(10**6 * P, 3600 * X_OUT)),
    "prd_double_count": ("0.001111111111", 2 * F(P, 3600 * X)),
    "total": ("0.462962963", F(10**6 * P, 3600 * 6000)),
    "weighted_w4_in": ("0.308641975", F(10**6 * P, 3600 * 9000)),
    "weighted_w4_out": ("1.234567901", 4 * F(10**6 * P, 3600 * 9000)),
    "weighted_w4_conserves": ("0.000555555556", F(P, 3600 * X)),
    "busy_phi0.3_in": ("0.166666667", F(3, 10) * F(10**6 * P, 3600 * X_IN)),
    "busy_phi0.3_out": ("1.944444444", F(7, 10) * F(10**6 * P, 3600 * X_OUT)),
    "blend3_w4": ("0.540123457", F(7, 4) * F(10**6 * P, 3600 * 9000)),
    "utilised_40pct": ("0.001388888889", F(P, 3600 * X) / F(4, 10)),
    "ri_1y_partial": ("6.0", F(6)),
    "ri_3y_all": ("4.0", F(4)),
    "breakeven": ("0.6", F(6, 10)),
    "replicas_month": ("29200", F(29200)),
    "spot": ("4.050632911", F(4) / (1 - F(5, 100) * F(25, 100))),
}


def check(found: dict[str, float], where: str) -> None:
    assert found.keys() == GOLDEN.keys()
    for case, (digits, exact) in GOLDEN.items():
        half_a_digit = 0.5 * 10 ** Decimal(digits).as_tuple().exponent  # type: ignore[operator]
        assert abs(exact - F(digits)) <= half_a_digit * 1.001, f"{case}: the vector itself"
        assert math.isclose(float(found[case]), float(exact), rel_tol=1e-9), (where, case)


def test_in_python() -> None:
    full_in, full_out = cost.usd_per_1m_input_full_hour(P, X_IN), cost.usd_per_1m_output_full_hour(P, X_OUT)
    split = cost.weighted_split(P, X_IN, X_OUT)
    phi = cost.prefill_busy_share(3.0, 200, 0.07, 2.0)
    busy = cost.busy_time_split(P, X_IN, X_OUT, phi)
    request = cost.usd_per_request(P, X)
    assert full_in is not None
    assert full_out is not None
    assert split is not None
    assert busy is not None
    assert request is not None
    found: dict[str, Any] = {
        "request": request,
        "prd_input": full_in,
        "prd_output": full_out,
        "prd_double_count": (1000 * full_in + 200 * full_out) / 1e6,
        "total": cost.usd_per_1m_total(P, X_IN, X_OUT),
        "weighted_w4_in": split.input,
        "weighted_w4_out": split.output,
        "weighted_w4_conserves": (1000 * split.input + 200 * split.output) / 1e6,
        "busy_phi0.3_in": busy.input,
        "busy_phi0.3_out": busy.output,
        "blend3_w4": cost.blended(split),
        "utilised_40pct": cost.utilised(request, 0.4),
        "ri_1y_partial": fleet.effective_usd_per_hour(3, 26280, 8760),
        "ri_3y_all": fleet.effective_usd_per_hour(0, 105120, 26280),
        "breakeven": fleet.break_even_utilisation(6.0, 10),
        "replicas_month": fleet.monthly_usd(P, fleet.replicas(12, X)),
        "spot": fleet.spot_usd_per_hour(4, 0.05, 0.25),
    }
    check(found, "python")


def golden_of(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The vectors from rows of the marts and views, by name."""
    costs = {(r["region"], r["tier"]): r for r in rows["cost_per_token"] if r["step_index"] == 1}
    flat = costs[FLAT, "on_demand"]
    c_in, c_out = flat["usd_per_1m_input_split"], flat["usd_per_1m_output_split"]
    full_in, full_out = flat["usd_per_1m_input_full_hour"], flat["usd_per_1m_output_full_hour"]
    used = [
        r
        for r in rows["utilised_cost"]
        if r["price_point_id"] == flat["price_point_id"] and r["step_index"] == 1
    ]
    at = {r["utilisation"]: r["usd_per_request"] for r in used}
    assert math.isclose(at[0.6] * 0.6, at[1.0], rel_tol=1e-9)
    assert math.isclose(at[0.3] * 0.3, at[1.0], rel_tol=1e-9)
    (even,) = [r for r in rows["reserved_break_even"] if (r["region"], r["tier"]) == (BE, "reserved_1y")]
    (month,) = [
        r for r in rows["monthly_projection"] if r["region"] == FLAT and r["peak_requests_per_s"] == 12.0
    ]
    (spot,) = [
        r
        for r in rows["spot_interruptions"]
        if (r["assumed_interruptions_per_hour"], r["assumed_lost_hours"]) == (0.05, 0.25)
    ]
    assert month["replicas"] == 4
    assert even["instance_type"] == G6
    return {
        "request": flat["usd_per_request"],
        "prd_input": full_in,
        "prd_output": full_out,
        "prd_double_count": (1000 * full_in + 200 * full_out) / 1e6,
        "total": flat["usd_per_1m_total"],
        "weighted_w4_in": c_in,
        "weighted_w4_out": c_out,
        "weighted_w4_conserves": (1000 * c_in + 200 * c_out) / 1e6,
        "busy_phi0.3_in": flat["usd_per_1m_input_busy"],
        "busy_phi0.3_out": flat["usd_per_1m_output_busy"],
        "blend3_w4": flat["usd_per_1m_blended_3to1"],
        "utilised_40pct": at[1.0] / 0.4,
        "ri_1y_partial": costs["r-1y", "reserved_1y"]["instance_hourly_usd"],
        "ri_3y_all": costs["r-3y", "reserved_3y"]["instance_hourly_usd"],
        "breakeven": even["break_even_utilisation"],
        "replicas_month": month["usd_per_month"],
        "spot": spot["useful_usd_per_hour"],
    }


VIEWS = ("cost_per_token", "utilised_cost", "reserved_break_even", "monthly_projection", "spot_interruptions")


@pytest.fixture
def golden(local_lake: Lake) -> Lake:
    put_golden(local_lake)
    put_golden_prices(local_lake)
    put_instances(local_lake, {G6: 1})
    return local_lake


def beyond(rows: list[dict[str, Any]]) -> None:
    """What has no vector of its own, by hand."""
    costs = {(r["region"], r["tier"]): r for r in rows if r["step_index"] == 1}
    flat = costs[FLAT, "on_demand"]
    want = {
        "usd_per_1m_goodput_output": 1e7 / 3600 / 800,
        "usd_per_good_request": 10 / 3600 / 4,
        "usd_per_request_ci_low": 10 / 3600 / 8,
        "usd_per_request_ci_high": 10 / 3600 / 4,
        "usd_per_1m_output_full_hour_ci_low": 1e7 / 3600 / 1600,
        "usd_per_1m_output_full_hour_ci_high": 1e7 / 3600 / 800,
        "input_output_ratio": 5.0,
        "prefill_busy_share": 0.3,
        "usd_per_1m_cached_input_split": 0.1 * flat["usd_per_1m_input_split"],
    }
    for name, value in want.items():
        assert math.isclose(flat[name], value, rel_tol=1e-9), name
    assert flat["cold_start_usd"] == Decimal(1), "ten dollars an hour for six minutes"
    assert (flat["hourly_usd"], flat["instance_hourly_usd"]) == (Decimal(10), Decimal(10))
    assert flat["hourly_usd"].as_tuple().exponent == -10
    assert (flat["usage_share"], flat["split_method"], flat["missing_reason"]) == (
        1.0,
        "weighted_w4_d0.1",
        None,
    )
    assert costs[BE, "capacity_block"]["instance_hourly_usd"] == Decimal(8), "192 dollars for 24 hours"
    gone = costs["r-gone", "on_demand"]
    assert gone["missing_reason"] == "not sold on demand in this region"
    assert {name for name, value in gone.items() if name.startswith("usd_per") and value is not None} == set()
    (single,) = [r for r in rows if r["step_index"] == 0 and r["region"] == FLAT]
    assert single["prefill_busy_share"] is not None


def test_in_sql_on_duckdb(golden: Lake) -> None:
    with connect(golden, only=VIEWS) as duck:
        rows = {name: duck.sql(f"select * from {name}").to_arrow_table().to_pylist() for name in VIEWS}
    check(golden_of(rows), "duckdb")
    beyond(rows["cost_per_token"])


@pytest.mark.xdist_group("postgres")
def test_in_sql_on_postgres(golden: Lake, dsn: str) -> None:
    both = on_both(golden, dsn)
    check(golden_of({name: theirs for name, (_, theirs) in both.items()}), "postgres")
    beyond(both["cost_per_token"][1])


@pytest.mark.xdist_group("postgres")
def test_in_the_published_catalog(golden: Lake, dsn: str) -> None:
    build_marts(golden)
    publish(golden, dsn)
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        rows = {name: connection.execute(f"select * from accelbench.{name}").fetchall() for name in VIEWS}
        bare = connection.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'accelbench' "
            "and data_type = 'numeric' and numeric_scale is null"
        ).fetchall()
        money = connection.execute(
            "select distinct numeric_scale from information_schema.columns where table_schema = 'accelbench' "
            "and data_type = 'numeric'"
        ).fetchall()
    check(golden_of(rows), "catalog")
    beyond(rows["cost_per_token"])
    assert bare == [], "every amount has a stated scale"
    assert {row["numeric_scale"] for row in money} == {6, 10}


def test_no_query_casts_to_a_decimal_without_its_scale() -> None:
    for kind in ("marts", "views"):
        for file in files_as_written(kind):
            text = file.text.lower()
            assert "decimal)" not in text, file.name
            assert "numeric" not in text, file.name
