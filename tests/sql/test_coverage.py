"""The whole grid: every registered cell has a state and a reason, and what we spent is counted whatever the end."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import ESTIMATE_STATES, STATUSES
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish
from tests.support.runs import START, make_cell, make_price, make_record, put_prices, put_run

G6 = "g6.xlarge"
OUTCOMES = {
    "succeeded": "measured",
    "does_not_fit": "does_not_fit",
    "not_sold": "not_sold",
    "no_capacity": "no_capacity",
    "infra_lost": "infra_lost",
    "failed": "failed",
    "void": "failed",
    "cancelled": "failed",
    "timed_out": "failed",
}


def coverage(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in query(lake, "select * from coverage").to_pylist()}


def put_attempt(lake: Lake, model: str, status: str, **fields: Any) -> None:
    cell = make_cell(model=model, instance=G6)
    lake.put_cell(cell)
    record = make_record(cell, status=status, **fields)
    if status == "succeeded":
        put_run(lake, record)
    else:
        lake.finish(record)


def put_estimate(lake: Lake, model: str, state: str, at: str = "2026-11-01T00:00:00Z", **fields: Any) -> None:
    """What arithmetic says of the cell of *model*, which is registered."""
    cell = make_cell(model=model, instance=G6)
    lake.put_cell(cell)
    figures = {} if state != "estimated" else {"concurrency": 8, "requests_per_s": 2.0, "measured_runs": 3}
    row = {"cell_id": cell.cell_id, "as_of": at, "region": "eu-west-1", "state": state, "reason": f"{state}, it says",
           "price_missing_reason": "none", "inputs_sha256": "0" * 64, **figures, **fields}  # fmt: skip
    lake.write_fact("cell_estimates", at[:10], table_from_rows("cell_estimates", [row]))


def test_every_status_of_a_run_has_its_state_and_reason(local_lake: Lake) -> None:
    assert OUTCOMES.keys() == set(STATUSES)
    for status in STATUSES:
        code = None if status == "succeeded" else f"code-{status}"
        put_attempt(
            local_lake, f"one-{status.replace('_', '-')}", status, failure_code=code, region="eu-west-1"
        )
    local_lake.put_cell(make_cell(model="nobody", instance=G6))
    rows = coverage(local_lake)
    assert {m: r["state"] for m, r in rows.items()} == {
        "nobody": "never_run",
        **{f"one-{status.replace('_', '-')}": state for status, state in OUTCOMES.items()},
    }
    assert all(row["reason"] for row in rows.values())
    assert rows["nobody"]["reason"] == "never attempted"
    assert rows["one-succeeded"]["reason"] == "1 of 1 attempts succeeded"
    assert rows["one-not-sold"]["reason"] == "not sold in eu-west-1"
    assert rows["one-no-capacity"]["reason"] == "no capacity in eu-west-1"
    assert rows["one-failed"]["failure_code"] == "code-failed"
    assert rows["one-succeeded"]["failure_code"] is None
    assert rows["one-failed"]["region"] == "eu-west-1"


def test_a_failure_without_a_code_still_says_what_it_was(local_lake: Lake) -> None:
    put_attempt(local_lake, "late", "timed_out")
    put_attempt(local_lake, "full", "no_capacity", failure_text="EC2 has no g6.xlarge in three zones.")
    put_attempt(local_lake, "odd", "failed")
    rows = coverage(local_lake)
    assert (rows["late"]["failure_code"], rows["late"]["reason"]) == ("timed_out", "timed_out")
    assert rows["full"]["reason"] == "EC2 has no g6.xlarge in three zones."
    assert (rows["odd"]["failure_code"], rows["odd"]["reason"]) == (None, "failed")


def test_the_best_origin_counts_then_the_latest_attempt_that_was_not_cancelled(local_lake: Lake) -> None:
    for origin in ("estimated", "external", "simulated", "measured"):
        put_attempt(local_lake, "many", "succeeded", origin=origin)
        assert coverage(local_lake)["many"]["state"] == origin
    put_attempt(local_lake, "many", "failed", failure_code="oom")
    row = coverage(local_lake)["many"]
    assert (row["state"], row["latest_status"], row["attempts"], row["succeeded"]) == (
        "measured",
        "failed",
        5,
        4,
    )
    assert row["reason"] == "4 of 5 attempts succeeded"
    put_attempt(local_lake, "tried", "infra_lost", failure_code="node_lost")
    put_attempt(local_lake, "tried", "does_not_fit", failure_code="does_not_fit")
    put_attempt(local_lake, "tried", "cancelled", failure_code="cancelled")
    row = coverage(local_lake)["tried"]
    assert (row["state"], row["failure_code"], row["latest_status"]) == (
        "does_not_fit",
        "does_not_fit",
        "cancelled",
    )


def test_a_cell_nobody_ran_has_the_state_that_arithmetic_gives_it(local_lake: Lake) -> None:
    for state in ESTIMATE_STATES:
        put_estimate(local_lake, f"by-{state.replace('_', '-')}", state)
    local_lake.put_cell(make_cell(model="nobody", instance=G6))
    rows = coverage(local_lake)
    assert {name: (row["state"], row["basis"], row["attempts"]) for name, row in rows.items()} == {
        "by-estimated": ("estimated", "arithmetic", 0),
        "by-does-not-fit": ("does_not_fit", "arithmetic", 0),
        "by-not-sold": ("not_sold", "arithmetic", 0),
        "by-unknown": ("never_run", None, 0),
        "nobody": ("never_run", None, 0),
    }
    assert rows["by-not-sold"]["reason"] == "not_sold, it says"
    assert rows["by-not-sold"]["region"] == "eu-west-1"
    assert rows["by-unknown"]["reason"] == "never attempted; unknown, it says"
    assert rows["by-unknown"]["region"] is None
    assert {row["failure_code"] for row in rows.values()} == {None}
    assert {row["latest_run_id"] for row in rows.values()} == {None}


def test_the_newest_estimate_counts(local_lake: Lake) -> None:
    put_estimate(local_lake, "tried", "does_not_fit", "2026-11-01T10:00:00Z")
    put_estimate(local_lake, "tried", "estimated", "2026-11-01T11:00:00Z")
    assert coverage(local_lake)["tried"]["state"] == "estimated"
    put_estimate(local_lake, "tried", "unknown", "2026-11-02T00:00:00Z")
    assert coverage(local_lake)["tried"]["state"] == "never_run"


@pytest.mark.parametrize("arithmetic", ESTIMATE_STATES)
def test_an_attempt_is_evidence_and_goes_before_arithmetic(local_lake: Lake, arithmetic: str) -> None:
    for status in STATUSES:
        name = f"one-{status.replace('_', '-')}"
        put_estimate(local_lake, name, arithmetic)
        put_attempt(local_lake, name, status, failure_code=f"code-{status}", region="us-east-1")
    rows = coverage(local_lake)
    cancelled = rows.pop("one-cancelled")
    for status in STATUSES:
        if status != "cancelled":
            row = rows[f"one-{status.replace('_', '-')}"]
            assert (row["state"], row["basis"], row["attempts"]) == (OUTCOMES[status], "attempt", 1)
            assert "it says" not in row["reason"]
    if arithmetic == "unknown":
        assert (cancelled["state"], cancelled["basis"], cancelled["reason"]) == (
            "failed",
            "attempt",
            "code-cancelled",
        )
        assert cancelled["failure_code"] == "code-cancelled"
    else:
        assert (cancelled["state"], cancelled["basis"]) == (arithmetic, "arithmetic"), "it told us nothing"
        assert (cancelled["attempts"], cancelled["latest_status"]) == (1, "cancelled")
        assert cancelled["failure_code"] is None
        assert cancelled["reason"] == f"{arithmetic}, it says; every attempt so far was cancelled (1)"
        assert cancelled["region"] == "eu-west-1"


def test_an_estimate_is_never_a_result(local_lake: Lake) -> None:
    """Nothing that ranks, costs or reports reads what was only computed."""
    put_estimate(local_lake, "guess", "estimated")
    put_attempt(local_lake, "real", "succeeded")
    assert coverage(local_lake)["guess"]["succeeded"] == 0
    for table in ("runs", "benchmark_results", "cost_per_token", "price_performance", "catalog", "ranking"):
        text = f"select count(*) as n from {table} where cast({table} as varchar) like '%guess%'"
        assert query(local_lake, text).to_pylist() == [{"n": 0}], table


@pytest.mark.xdist_group("postgres")
def test_estimates_are_published_for_the_cells_of_a_lake(local_lake: Lake, dsn: str) -> None:
    put_estimate(local_lake, "waits", "does_not_fit")
    put_estimate(local_lake, "waits", "estimated", "2026-11-02T00:00:00Z")
    put_estimate(local_lake, "unsaid", "unknown")
    put_attempt(local_lake, "stopped", "cancelled")
    put_estimate(local_lake, "stopped", "not_sold")
    build_marts(local_lake)
    assert publish(local_lake, dsn).rows["cell_estimates"] == 3
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select model, c.state, basis, attempts, requests_per_s from accelbench.coverage as c "
            "join accelbench.cell_estimates using (cell_id) order by model"
        ).fetchall()
    assert rows == [
        ("stopped", "not_sold", "arithmetic", 1, None),
        ("unsaid", "never_run", None, 0, None),
        ("waits", "estimated", "arithmetic", 0, 2.0),
    ]


@pytest.mark.xdist_group("postgres")
def test_the_grid_is_published_for_the_cells_of_a_lake(local_lake: Lake, dsn: str) -> None:
    put_attempt(local_lake, "works", "succeeded")
    put_attempt(local_lake, "fails", "failed", failure_code="oom")
    for _ in range(2):
        build_marts(local_lake)
        assert publish(local_lake, dsn).rows["coverage"] == 2
    put_attempt(local_lake, "fails", "succeeded")
    build_marts(local_lake)
    publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select model, state from accelbench.coverage order by model").fetchall()
        failed = connection.execute(
            "select count(*) from accelbench.runs where status <> 'succeeded'"
        ).fetchone()
    assert rows == [("fails", "measured"), ("works", "measured")]
    assert failed == (0,)


# -- what the benchmark itself has cost ------------------------------------------------------------------------


def moment(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


def spent(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["cell_key"].split("@")[0]: row for row in query(lake, "select * from run_costs").to_pylist()}


def test_every_attempt_is_paid_for_by_all_its_instances(local_lake: Lake) -> None:
    put_prices(
        local_lake,
        [make_price(G6, "6"), make_price(G6, "1.5", tier="spot"), make_price(G6, "60", region="x")],
    )
    here = {"region": "us-east-1", "launcher": "endpoint", "requested_at": moment(0)}
    whole = {**here, "ready_s": 600.0, "ready_at": moment(10), "torn_down_at": moment(40)}
    put_attempt(local_lake, "two", "succeeded", **whole, instance_count=2)
    put_attempt(local_lake, "failed", "failed", **whole)
    put_attempt(local_lake, "spot", "failed", **whole, capacity_type="spot")
    put_attempt(local_lake, "brief", "failed", **here, torn_down_at=moment(0.1))
    put_attempt(local_lake, "said", "succeeded", **whole, run_cost_usd=0.123456789)
    put_attempt(
        local_lake,
        "cluster",
        "failed",
        **{**whole, "launcher": "eks", "provisioned_at": moment(0)},
        instance_count=2,
    )
    put_attempt(local_lake, "foreign", "succeeded", **whole, origin="external")
    put_attempt(
        local_lake,
        "nowhere",
        "failed",
        **{**whole, "region": "eu-west-1"},
        cost_missing_reason="nobody knows",
    )
    put_attempt(local_lake, "lost", "infra_lost", **{**here, "launcher": "local"}, committed_at=moment(9000))
    rows = spent(local_lake)
    assert "foreign" not in rows, "somebody else paid for it"
    assert {name: row["usd"] for name, row in rows.items()} == {
        "two": Decimal(8),  # 2 instances x 6 USD x 40 minutes
        "failed": Decimal(4),
        "spot": Decimal(1),
        "brief": Decimal("0.1"),  # a minute at least
        "said": Decimal("0.123456789"),
        "cluster": Decimal(10),  # and the ten minutes that its nodes stay
        "nowhere": None,
        "lost": None,
    }
    assert {name for name, row in rows.items() if row["idle_node_usd"]} == {"cluster"}
    assert rows["cluster"]["idle_node_usd"] == Decimal(2), "two nodes for ten minutes"
    assert (rows["said"]["cost_basis"], rows["two"]["cost_basis"]) == ("recorded", "latest_price")
    assert rows["two"]["price_as_of"] is not None
    assert rows["nowhere"]["missing_reason"] == "nobody knows"
    assert "how long" in rows["lost"]["missing_reason"]
    assert max(row["month_to_date_usd"] for row in rows.values()) == Decimal("23.223456789")


def test_the_month_to_date_begins_anew_with_the_month(local_lake: Lake) -> None:
    for name, day, usd in (("a", "2026-11-30", 1.5), ("b", "2026-11-30", 2.0), ("c", "2026-12-01", 0.25)):
        end = f"{day}T23:59:00+00:00" if name != "c" else f"{day}T00:00:00+00:00"
        put_attempt(local_lake, name, "failed", torn_down_at=end, run_cost_usd=usd)
    rows = spent(local_lake)
    assert {n: r["month_to_date_usd"] for n, r in rows.items()} == {
        "a": Decimal("1.5"), "b": Decimal("3.5"), "c": Decimal("0.25")
    }  # fmt: skip
    assert [rows[n]["month"].isoformat()[:10] for n in "abc"] == ["2026-11-01", "2026-11-01", "2026-12-01"]


def test_a_declared_price_is_what_the_own_machine_costs(local_lake: Lake) -> None:
    put_run(
        local_lake,
        make_record(ready_at=moment(0), ready_s=0.0, torn_down_at=moment(30), requested_at=moment(0)),
    )
    put_prices(
        local_lake,
        [make_price("local-1a2b3c4d", "0.5", tier="declared", region="unstated", provider="local")],
    )
    (row,) = query(local_lake, "select usd, price_tier from run_costs").to_pylist()
    assert row == {"usd": Decimal("0.25"), "price_tier": "declared"}
