"""The 90th percentile of spot prices, from a snapshot to every place that shows it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import store
from accelbench_assets.pricing.points import SPOT, Point
from accelbench_assets.pricing.snapshot import day_points, to_table
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.marts import build_marts
from accelbench_assets.sqlkit.publish import publish

DAY = date(2026, 11, 2)
AT = datetime(2026, 11, 2, 12, tzinfo=UTC)
MEAN, P90 = Decimal("0.3125000001"), Decimal("0.4999999999")


def keep(lake: Lake, day: date = DAY) -> None:
    spot = [
        Point("aws", "us-east-1", "g6.xlarge", SPOT, zone="use1-az1", usd_per_hour=MEAN, usd_per_hour_p90=P90,
              fetched_at=AT, source="made up"),
        Point("aws", "us-east-1", "g6.xlarge", SPOT, zone="use1-az2", usd_per_hour=MEAN, fetched_at=AT,
              source="made up"),
    ]  # fmt: skip
    known = store.known_on(lake.storage, day)
    points = day_points(day, fetched=[] if known else spot, known=known, at=AT)
    lake.write_fact("price_points", day.isoformat(), to_table(day, points))


def test_it_is_kept_and_carried_on(local_lake: Lake) -> None:
    keep(local_lake)
    keep(local_lake, date(2026, 11, 5))
    points = [p for p in store.known_on(local_lake.storage, date(2026, 11, 6)) if p.tier == SPOT and p.zone]
    assert {p.zone: (p.usd_per_hour, p.usd_per_hour_p90) for p in points} == {
        "use1-az1": (MEAN, P90),
        "use1-az2": (MEAN, None),
    }


@pytest.mark.parametrize("built", [False, True])
def test_the_mart_and_the_view_have_it(local_lake: Lake, built: bool) -> None:
    keep(local_lake)
    if built:
        build_marts(local_lake)
    text = "select zone, usd_per_hour_p90 as p90, instance_hourly_usd as usd from latest_prices where zone is not null"
    assert {row["zone"]: (row["p90"], row["usd"]) for row in query(local_lake, text).to_pylist()} == {
        "use1-az1": (P90, MEAN),
        "use1-az2": (None, MEAN),
    }
    rows = query(
        local_lake, "select * from spot_interruptions where assumed_lost_hours = 0.25 order by 1, zone"
    )
    for row in rows.to_pylist():
        useful = 1 - row["assumed_interruptions_per_hour"] * 0.25
        assert float(row["useful_usd_per_hour"]) == pytest.approx(float(MEAN) / useful, rel=1e-9)
        if row["zone"] == "use1-az1":
            assert row["spot_usd_per_hour_p90"] == P90
            assert float(row["useful_usd_per_hour_p90"]) == pytest.approx(float(P90) / useful, rel=1e-9)
        else:
            assert (row["spot_usd_per_hour_p90"], row["useful_usd_per_hour_p90"]) == (None, None)


@pytest.mark.xdist_group("postgres")
def test_the_published_catalog_has_it(local_lake: Lake, dsn: str) -> None:
    keep(local_lake)
    build_marts(local_lake)
    publish(local_lake, dsn)
    with psycopg.connect(dsn) as connection:
        for table, column in (
            ("price_points", "usd_per_hour_p90"),
            ("latest_prices", "usd_per_hour_p90"),
            ("spot_interruptions", "spot_usd_per_hour_p90"),
        ):
            found = connection.execute(
                f"select distinct {column} from accelbench.{table} where zone = 'use1-az1'"
            ).fetchall()
            assert found == [(P90,)], table
