"""The packaged on-demand prices agree with their price list; what that lacks has no price, and no cost."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.snapshot import price_points
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.marts import build_marts
from tests.support.runs import make_cell, make_record, put_run, write_derived

DAY = date(2026, 11, 21)


def facts() -> dict[str, str]:
    lines = (Path(__file__).parent / "on_demand_facts.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {row["instance_type"]: row["usd_per_hour"] for row in rows}


def test_every_listed_type_has_its_listed_price() -> None:
    found = {
        row["instance_type"]: row
        for row in price_points(DAY).to_pylist()
        if (row["provider"], row["region"], row["tier"]) == ("aws", "us-east-1", "on_demand")
    }
    listed = facts()
    assert len(listed) == 52
    for name, usd in listed.items():
        row = found[name]
        assert row["usd_per_hour"] == (Decimal(usd) if usd else None), name
        assert row["effective_usd_per_hour"] == row["usd_per_hour"]
        assert (row["missing_reason"] is None) == bool(usd), name
        assert row["fetched_at"].date() == date(2026, 7, 20)
        assert "karpenter" in row["source"]


@pytest.mark.parametrize("instance", ["p5e.48xlarge", "trn2.48xlarge"])
def test_what_is_not_on_the_list_has_no_price_and_its_cost_has_the_same_reason(
    lake: Lake, instance: str
) -> None:
    assert facts()[instance] == ""
    table = price_points(DAY)
    (reason,) = {
        row["missing_reason"]
        for row in table.to_pylist()
        if (row["instance_type"], row["region"], row["tier"]) == (instance, "us-east-1", "on_demand")
    }
    assert "not on the on-demand price list" in reason
    record = make_record(make_cell(instance=instance, engine="vllm"))
    put_run(lake, record, steps=1)
    write_derived(lake, record, steps=1)
    lake.write_fact("price_points", DAY.isoformat(), table)
    build_marts(lake)
    sql = "select instance_hourly_usd, usd_per_request, missing_reason from cost_per_token where tier = 'on_demand'"
    (cost,) = query(lake, sql).to_pylist()
    assert cost == {"instance_hourly_usd": None, "usd_per_request": None, "missing_reason": reason}
