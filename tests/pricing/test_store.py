"""What counts of a day's snapshots, whoever wrote them: row for row what the mart ``latest_prices`` says."""

from __future__ import annotations

import io
from datetime import date, datetime
from decimal import Decimal
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import store
from accelbench_assets.pricing.points import AWS, EC2_TIERS, SPOT, UNSTATED_REGION, Point, utc
from accelbench_assets.pricing.snapshot import to_table
from accelbench_assets.sqlkit.duck import query

DAY = date(2026, 11, 22)
REGIONS = ("us-east-1", UNSTATED_REGION)
HOURS = (3, 9, 15)


def at(hour: int) -> datetime:
    moment = utc(f"{DAY}T{hour:02d}:00:00Z")
    assert moment is not None
    return moment


def snapshot(draw: Random) -> pa.Table:
    """Some answers of some hours, and blanks that nobody was asked about."""
    points = []
    for region in REGIONS:
        for tier in EC2_TIERS:
            asked = draw.choice((None, *map(at, HOURS)))
            for zone in draw.sample([None, "a", "b"], draw.randint(0, 3)) if tier == SPOT else [None]:
                priced = asked is not None and draw.random() < 0.8
                points.append(
                    Point(
                        AWS,
                        region,
                        "p5.48xlarge",
                        tier,
                        zone=zone,
                        fetched_at=asked,
                        usd_per_hour=Decimal(draw.randint(1, 99)) if priced else None,
                        missing_reason=None if priced else "none is known",
                    )
                )
    return to_table(DAY, sorted(points, key=lambda p: tuple(part or "" for part in p.key)))


@pytest.mark.parametrize("seed", range(12))
def test_what_counts_of_a_day_is_what_the_mart_says(lake: Lake, seed: int) -> None:
    draw = Random(seed)
    for number in range(1 + seed % 4):
        table = snapshot(draw)
        if number == 1:  # an older file: a column less, and in another order
            names = [name for name in reversed(table.column_names) if name != "usd_per_hour_p90"]
            key = f"{store.FOLDER}/date={DAY}/part-older.parquet"
            pq.write_table(table.select(names), content := io.BytesIO())
            lake.storage.write(key, content.getvalue())
        else:
            lake.write_fact("price_points", DAY.isoformat(), table)
    rows = store.latest(lake.storage, DAY)
    text = "select price_point_id from latest_prices"
    assert {r["price_point_id"] for r in rows} == set(query(lake, text)["price_point_id"].to_pylist())
    assert rows == sorted(rows, key=lambda r: tuple(part or "" for part in Point.from_row(r).key))
    assert store.known_on(lake.storage, DAY) == [Point.from_row(r) for r in rows if r["fetched_at"]]
    for region in REGIONS:
        found = store.rows_of(lake.storage, DAY, region=region, tiers=(SPOT,))
        assert found is not None
        places = (region, UNSTATED_REGION)
        assert found[1] == [r for r in rows if r["tier"] == SPOT and r["region"] in places]
