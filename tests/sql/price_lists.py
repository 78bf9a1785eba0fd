"""A day's whole price list, made up: nine regions and fourteen offers for each of many types, thousands of rows."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.settings_groups import REGIONS
from tests.support.runs import make_price

PAYMENTS = ("no_upfront", "partial_upfront", "all_upfront")
OFFERS: list[tuple[str, str | None, str | None]] = [
    ("on_demand", None, None),
    *(("reserved_1y", payment, "standard") for payment in PAYMENTS),
    *(("reserved_3y", payment, "standard") for payment in PAYMENTS),
    *(("savings_1y", payment, "compute") for payment in PAYMENTS),
    *(("savings_3y", payment, "compute") for payment in PAYMENTS),
    ("spot", None, None),
]


def put_price_list(
    lake: Lake, types: list[str], *, day: str = "2026-11-02", but: tuple[tuple[str, str], ...] = ()
) -> int:
    """Every offer of every type in every region, each with a price of its own (on demand: 10 plus the region's place);
    *but* leaves out (region, tier). The number of rows.
    """
    rows: list[dict[str, Any]] = []
    for name in types:
        for place, region in enumerate(REGIONS):
            for number, (tier, payment, kind) in enumerate(OFFERS):
                if (region, tier) in but:
                    continue
                row = make_price(
                    name,
                    str(Decimal(10 + place) - Decimal(number) / 10),
                    region=region,
                    tier=tier,
                    payment_option=payment,
                    offering_class=kind,
                    zone=f"{region}a" if tier == "spot" else None,
                    snapshot_id=f"{day}-1",
                    price_point_id=f"{day}-{len(rows):06d}",
                    fetched_at=datetime.fromisoformat(day).replace(tzinfo=UTC),
                )
                rows.append(row)
    lake.write_fact("price_points", day, table_from_rows("price_points", rows))
    return len(rows)
