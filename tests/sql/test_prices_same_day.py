"""Prices asked or declared more than once on a day: the last answer counts, and the earlier one is history."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import store
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.snapshot import day_points, to_table
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.publish import publish

DAY, REGION, KIND = date(2026, 11, 22), "us-west-2", "g6.xlarge"


def ask(lake: Lake, hour: int, price: str) -> None:
    """One refresh at *hour*: everything known is carried on, and the two tiers are answered anew."""
    at = datetime(2026, 11, 22, hour, tzinfo=UTC)
    answer = [
        Point(
            "aws", REGION, KIND, tier, zone=zone, usd_per_hour=Decimal(price), fetched_at=at, source="made up"
        )
        for tier, zone in (("on_demand", None), ("spot", f"zone-{hour}"))
    ]
    known = store.known_on(lake.storage, DAY)
    points = day_points(
        DAY, at=at, known=known, fetched=answer, declared=[("local-0a1b2c3d", hour / 10)], regions=(REGION,)
    )
    lake.write_fact("price_points", DAY.isoformat(), to_table(DAY, points))


@pytest.mark.xdist_group("postgres")
def test_the_last_answer_of_a_day_is_the_only_one(local_lake: Lake, dsn: str) -> None:
    for hour, price in ((8, "0.80"), (12, "0.90"), (18, "0.85")):
        ask(local_lake, hour, price)
    text = (
        "select instance_type, tier, zone, instance_hourly_usd from latest_prices "
        f"where instance_hourly_usd is not null and (region = '{REGION}' or tier = 'declared')"
    )
    found = {tuple(row.values()) for row in query(local_lake, text).to_pylist()}
    assert found == {
        (KIND, "on_demand", None, Decimal("0.85")),
        (KIND, "spot", "zone-18", Decimal("0.85")),
        ("local-0a1b2c3d", "declared", None, Decimal("1.8")),
    }
    offers = (
        "provider, region, zone, instance_type, os, tenancy, tier, payment_option, offering_class, term_hours"
    )
    counted = f"select count(*), count(distinct ({offers})) from latest_prices"
    ((rows, different),) = (tuple(row.values()) for row in query(local_lake, counted).to_pylist())
    assert rows == different > 0
    publish(local_lake, dsn)  # refuses two latest prices of one offer
