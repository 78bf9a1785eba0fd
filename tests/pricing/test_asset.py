"""The daily asset: works alone, asks when settings say so, and its checks say what is wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from accelbench_assets.defs.pricing import PricingConfig, _checks, pricing_snapshots, today
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import store
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.refresh import Report, take
from accelbench_assets.pricing.snapshot import to_table
from accelbench_assets.settings import load_settings
from accelbench_assets.settings_groups import PricesSettings
from tests.pricing.price_server import HOME, Prices

CHECKS = {"price_or_reason", "possible_prices", "price_jumps", "prices_vanished", "sources_answered"}


def materialise(day: str, **config: Any) -> tuple[dict[str, dg.AssetCheckEvaluation], dict[str, Any]]:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [pricing_snapshots],
            partition_key=day,
            instance=instance,
            resources={"accelbench": AccelBench()},
            run_config=dg.RunConfig(ops={"pricing_snapshots": PricingConfig(**config)}),
        )
    assert result.success
    (event,) = result.get_asset_materialization_events()
    return {c.check_name: c for c in result.get_asset_check_evaluations()}, dict(
        event.materialization.metadata
    )


def lake_rows() -> list[dict[str, Any]]:
    lake = Lake.open(load_settings().lake_url)
    return store.latest(lake.storage, datetime.now(UTC).date())


def test_alone_it_writes_packaged_and_declared_prices(home: Path) -> None:
    checks, metadata = materialise(today(), declared_usd_per_hour={"local-1a2b3c4d": 0.5})
    assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(CHECKS, True)
    rows = lake_rows()
    assert metadata["dagster/row_count"].value == len(rows)
    assert [r["usd_per_hour"] for r in rows if r["tier"] == "declared"]
    assert {r["tier"] for r in rows if r["instance_type"] == "p5.48xlarge" and r["region"] == HOME} >= {
        "on_demand",
        "reserved_3y",
        "spot",
        "capacity_block",
    }
    assert metadata["asked"].value == []


def test_it_asks_when_settings_say_so_and_not_when_the_run_says_no(asking: Prices) -> None:
    checks, metadata = materialise(today(), ask=False)
    assert not asking.asked
    checks, metadata = materialise(today())
    assert asking.asked
    assert all(check.passed for check in checks.values() if check.check_name != "price_jumps")
    assert "aws us-east-1 price list: 172 rows, 64 with a price" in metadata["asked"].value
    before = len(asking.asked)
    _, metadata = materialise(today())
    assert len(asking.asked) == before
    assert "aws us-east-1 price list" in metadata["not_due"].value


def test_its_checks_fail_without_failing_the_snapshot(asking: Prices) -> None:
    asking.refuse["bulk", HOME] = (500, "")
    checks, _ = materialise(today())
    assert not checks["sources_answered"].passed
    assert checks["sources_answered"].severity == dg.AssetCheckSeverity.WARN
    assert "500" in str(checks["sources_answered"].metadata["first"].value)
    asking.refuse.clear()
    asking.changed["66.6600000000"] = "-1"
    asking.changed["77.7700000000"] = "60.0000000000"
    yesterday = datetime.now(UTC) - timedelta(days=1)
    lake = Lake.open(load_settings().lake_url)
    take(lake, yesterday.date(), PricesSettings())
    checks, _ = materialise(today())
    assert not checks["possible_prices"].passed
    assert checks["possible_prices"].severity == dg.AssetCheckSeverity.ERROR
    assert "against 60 on demand" in str(checks["possible_prices"].metadata["first"].value)
    assert checks["price_or_reason"].passed
    assert not checks["sources_answered"].passed  # a price of -1 cannot be read
    assert [r for r in lake_rows() if r["instance_type"] == "p5.48xlarge" and r["usd_per_hour"] == 60]


def test_a_jump_since_the_day_before_is_a_warning(asking: Prices) -> None:
    checks, _ = materialise((datetime.now(UTC) - timedelta(days=1)).date().isoformat())
    assert checks["price_jumps"].passed
    checks, _ = materialise(today())  # the packaged 55.04 against 77.77
    assert not checks["price_jumps"].passed
    assert checks["price_jumps"].severity == dg.AssetCheckSeverity.WARN
    assert "p5.48xlarge on_demand: 55.04 to 77.77 (+41 %)" in str(
        checks["price_jumps"].metadata["first"].value
    )


def test_a_list_that_sells_nothing_any_more_fails_its_checks_and_keeps_the_prices(asking: Prices) -> None:
    """The value of an attribute is renamed: the answer is valid, and empty of everything we know."""
    materialise((datetime.now(UTC) - timedelta(days=1)).date().isoformat())
    asking.changed['"Shared"'] = '"SharedTenancy"'
    checks, _ = materialise(today())
    assert not checks["sources_answered"].passed
    assert checks["sources_answered"].severity == dg.AssetCheckSeverity.WARN
    said = str(checks["sources_answered"].metadata["first"].value)
    assert "aws us-east-1 price list: the answer has no on-demand price where 50 were known" in said
    assert checks["prices_vanished"].passed
    priced = [
        r for r in lake_rows() if r["provider"] == "aws" and r["tier"] == "on_demand" and r["usd_per_hour"]
    ]
    assert len(priced) == 50


def test_prices_that_are_gone_and_prices_nobody_believes_fail_their_checks(asking: Prices) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    take(Lake.open(load_settings().lake_url), yesterday.date(), PricesSettings(), now=yesterday)
    asking.gone.add("p4d.24xlarge")
    asking.changed['"77.7700000000"'] = '"983.2000000000"'
    checks, _ = materialise(today())
    vanished = checks["prices_vanished"]
    assert not vanished.passed
    assert vanished.severity == dg.AssetCheckSeverity.WARN
    first = str(vanished.metadata["first"].value)
    assert "p4d.24xlarge on_demand: 21.957642 before, none now: not on the on-demand price list" in first
    possible = checks["possible_prices"]
    assert not possible.passed
    assert possible.severity == dg.AssetCheckSeverity.ERROR
    assert "p5.48xlarge on_demand: implausible: 983.2 USD/h" in str(possible.metadata["first"].value)
    assert checks["price_or_reason"].passed
    assert checks["sources_answered"].passed


@pytest.mark.parametrize(
    ("usd", "reason", "passed"),
    [("1", None, True), ("0", None, False), (None, "none", True)],
)
def test_a_price_of_nothing_is_no_price(usd: str | None, reason: str | None, passed: bool) -> None:
    point = Point(
        "aws", HOME, "p5.48xlarge", "on_demand", usd_per_hour=usd and Decimal(usd), missing_reason=reason
    )
    (check,) = (
        c for c in _checks(Report(to_table(date.today(), [point]))) if c.check_name == "price_or_reason"
    )
    assert check.passed is passed
