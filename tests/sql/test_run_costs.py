"""What the benchmark itself has cost: machines that were there are paid for, wall time and waiting are not."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.bench.record import add_spent
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import fleet
from accelbench_assets.sqlkit.duck import query
from tests.sql.engines import check_same, on_both
from tests.support.runs import START, make_cell, make_price, make_record, put_prices

G6 = "g6.xlarge"
USD = 6
REFUSED = {"status": "failed", "committed_at": "2026-11-01T14:00:00+00:00"}
"""An attempt that took two hours of somebody's time and ended without a machine."""


def moment(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


WHOLE = {"provisioned_at": moment(30), "ready_at": moment(40), "ready_s": 2400.0, "torn_down_at": moment(70)}
"""Half an hour of waiting for capacity, then forty minutes with a node."""


def attempt(lake: Lake, name: str, **fields: Any) -> dict[str, Any]:
    given = {
        "status": "failed",
        "launcher": "eks",
        "region": "us-east-1",
        "requested_at": moment(0),
        **fields,
    }
    record = make_record(make_cell(model=name, instance=G6), **given)
    lake.finish(record)
    return record


def spent(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["cell_key"].split("@")[0]: row for row in query(lake, "select * from run_costs").to_pylist()}


@pytest.fixture
def lake(local_lake: Lake) -> Lake:
    put_prices(local_lake, [make_price(G6, str(USD)), make_price(G6, "1.5", tier="spot", zone="a")])
    return local_lake


def test_a_node_is_paid_for_from_its_binding_and_waiting_is_not(lake: Lake) -> None:
    attempt(lake, "waited", **WHOLE)
    attempt(lake, "two", **WHOLE, instance_count=2, capacity_type="spot")
    attempt(lake, "brief", **{**WHOLE, "torn_down_at": moment(30.1)})
    rows = spent(lake)
    assert rows["waited"]["seconds"] == 2400
    assert rows["waited"]["usd"] == Decimal(5), "forty minutes and the ten that the node idles, at 6 an hour"
    assert rows["waited"]["idle_node_usd"] == Decimal(1)
    assert float(rows["waited"]["usd"]) == pytest.approx(
        fleet.benchmark_usd(USD, 2400, node_idle_s=fleet.NODE_IDLE_S), rel=1e-9
    )
    assert rows["two"]["usd"] == Decimal("2.5"), "two of them on spot"
    assert rows["brief"]["usd"] == Decimal("1.1"), "a minute at least"
    assert {row["cost_basis"] for row in rows.values()} == {"latest_price"}
    assert max(row["month_to_date_usd"] for row in rows.values()) == sum(row["usd"] for row in rows.values())


@pytest.mark.parametrize(
    "code", ["over_budget", "no_capacity", "api_denied", "no_ledger", "cancelled", "past_deadline"]
)
def test_an_attempt_that_never_had_a_machine_costs_nothing(lake: Lake, code: str) -> None:
    record = {**REFUSED, "failure_code": code}
    add_spent(record, None)  # as the run itself records it
    attempt(lake, "refused", **record)
    (row,) = spent(lake).values()
    assert (row["usd"], row["idle_node_usd"], row["seconds"]) == (Decimal(0), Decimal(0), None)
    assert (row["cost_basis"], row["missing_reason"]) == ("nothing_rented", None)
    assert row["month_to_date_usd"] == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "wall time is not what is billed"),
        ({"failure_code": "over_budget"}, "wall time is not what is billed"),
        ({"ready_at": moment(1), "torn_down_at": moment(2)}, "wall time is not what is billed"),
        ({"provisioned_at": moment(1)}, "wall time is not what is billed"),
        ({"status": "infra_lost"}, "orchestrator died"),
        ({"status": "infra_lost", "provisioned_at": moment(1)}, "orchestrator died"),
    ],
)
def test_without_both_ends_on_record_there_is_no_sum(lake: Lake, fields: dict[str, Any], says: str) -> None:
    attempt(lake, "unknown", **{**REFUSED, **fields})
    (row,) = spent(lake).values()
    assert (row["usd"], row["idle_node_usd"], row["seconds"], row["cost_basis"]) == (None,) * 4
    assert says in row["missing_reason"]
    assert row["month_to_date_usd"] == 0


def test_what_the_run_recorded_counts_and_its_idle_node_is_not_added_again(lake: Lake) -> None:
    record: dict[str, Any] = {}
    add_spent(record, Decimal("12.5"))
    attempt(lake, "said", **WHOLE, **record)
    attempt(lake, "lost-node", **REFUSED, **record)  # it ended in a start, so nothing else is on record
    rows = spent(lake)
    for row in rows.values():
        assert (row["usd"], row["cost_basis"], row["idle_node_usd"]) == (Decimal("12.5"), "recorded", None)
        assert row["missing_reason"] is None
    assert max(row["month_to_date_usd"] for row in rows.values()) == Decimal(25), "as the ledger settles it"


def test_ones_own_machine_is_used_from_the_request_to_the_end(lake: Lake) -> None:
    attempt(lake, "local", launcher="local", **{**REFUSED, "committed_at": moment(30)})
    attempt(lake, "dead", launcher="local", **{**REFUSED, "status": "infra_lost"})
    attempt(lake, "open", launcher="local", committed_at=None)
    rows = spent(lake)
    assert (rows["local"]["usd"], rows["local"]["idle_node_usd"]) == (Decimal(3), Decimal(0))
    assert "orchestrator died" in rows["dead"]["missing_reason"]
    assert (
        rows["open"]["usd"] is not None
        or rows["open"]["missing_reason"] == "how long it ran is not on record"
    )


def test_no_price_is_a_reason_of_its_own(lake: Lake) -> None:
    attempt(lake, "far", **{**WHOLE, "region": "eu-west-1"})
    (row,) = spent(lake).values()
    assert (row["usd"], row["idle_node_usd"], row["seconds"]) == (None, None, 2400)
    assert row["missing_reason"] == f"no on_demand price of {G6} is known in eu-west-1"


@pytest.mark.xdist_group("postgres")
def test_both_engines_agree(lake: Lake, dsn: str) -> None:
    refused = {**REFUSED}
    add_spent(refused, None)
    attempt(lake, "refused", **refused)
    attempt(lake, "whole", **WHOLE)
    attempt(lake, "said", **WHOLE, run_cost_usd=1.25)
    attempt(lake, "unknown", **REFUSED)
    attempt(lake, "local", launcher="local", **REFUSED)
    ours, theirs = on_both(lake, dsn)["run_costs"]
    check_same(ours, theirs, "run_costs")
    assert {row["cost_basis"] for row in ours} == {"recorded", "nothing_rented", "latest_price", None}
