"""Made-up price snapshots in bulk: 9 regions × 60 types × 14 offers, one file a day, visibly synthetic.

Belongs here: rows for benchmarks of the cost join. Nothing in them is anybody's price: regions, types and the
provider say so in their names, and every figure comes from a seed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa

from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS

FIRST_DAY = date(2025, 11, 1)
REGIONS = tuple(f"synthetic-region-{number}" for number in range(1, 10))
TYPES = tuple(f"synthetic-type-{number:02d}" for number in range(60))
OFFERS: tuple[tuple[str, str | None, str | None, float | None], ...] = (
    ("on_demand", None, None, None),
    *(
        (tier, payment, offering_class, hours)
        for tier, offering_class, hours in (
            ("reserved_1y", "standard", 8760.0),
            ("reserved_3y", "standard", 26280.0),
            ("savings_1y", "compute", 8760.0),
            ("savings_3y", "compute", 26280.0),
        )
        for payment in ("no_upfront", "partial_upfront", "all_upfront")
    ),
    ("spot", None, None, None),
)
ROWS_A_DAY = len(REGIONS) * len(TYPES) * len(OFFERS)


def day(number: int) -> date:
    """The *number*-th day of the history, from 0."""
    return FIRST_DAY + timedelta(days=number)


def snapshot(number: int) -> pa.Table:
    """Every offer on the *number*-th day: spot moves daily, the others on the first of a month; one in fifty is not
    sold and says so.
    """
    grid = [(r, t, *o) for r in REGIONS for t in TYPES for o in OFFERS]
    rows = len(grid)
    regions, types, tiers, payments, classes, hours = (list(column) for column in zip(*grid, strict=True))
    today = day(number)
    steady = np.random.default_rng(today.year * 100 + today.month).uniform(0.5, 60.0, rows)
    moving = np.random.default_rng(number).uniform(0.2, 20.0, rows)
    spot = np.array([tier == "spot" for tier in tiers])
    upfront = np.array([payment in ("partial_upfront", "all_upfront") for payment in payments])
    whole = np.array([payment == "all_upfront" for payment in payments])
    length = np.array([h or 1.0 for h in hours])
    hourly = np.where(spot, moving, np.where(whole, 0.0, steady)).round(6)
    ahead = np.where(upfront, steady * length * 0.4, 0.0).round(2)
    places = np.indices((len(REGIONS), len(TYPES), len(OFFERS))).reshape(3, rows)
    gone = places.sum(axis=0) % 50 == 0
    money = pa.decimal128(20, 10)
    snapshot_id = f"{today.isoformat()}-synthetic{number:04d}"

    def decimals(values: np.ndarray, absent: np.ndarray) -> pa.Array:
        return pa.array(np.where(absent, None, values), pa.float64(), from_pandas=True).cast(money)

    same = {
        "snapshot_id": snapshot_id,
        "provider": "synthetic",
        "os": "linux",
        "tenancy": "shared",
        "source": "made up by tests/benchmarks/price_history.py",
        "source_sha256": "0" * 64,
    }
    columns = {
        **{name: pa.array([text]).take(pa.array(np.zeros(rows, np.int64))) for name, text in same.items()},
        "price_point_id": pa.array([f"{number:04d}{place:012x}" for place in range(rows)]),
        "region": pa.array(regions),
        "zone": pa.array([f"{r}a" if t == "spot" else None for r, t in zip(regions, tiers, strict=True)]),
        "instance_type": pa.array(types),
        "tier": pa.array(tiers),
        "payment_option": pa.array(payments),
        "offering_class": pa.array(classes),
        "usd_per_hour": decimals(hourly, gone),
        "upfront_usd": decimals(ahead, gone | ~upfront),
        "term_hours": pa.array(hours, pa.float64()),
        "sku": pa.array([f"SYNTHETIC{place:07d}" for place in range(rows)]),
        "effective_from": pa.array([datetime.combine(today.replace(day=1), time(), UTC)] * rows),
        "fetched_at": pa.array([datetime.combine(today, time(6), UTC)] * rows),
        "missing_reason": pa.array(np.where(gone, "synthetic: not sold here", None).tolist(), pa.string()),
    }
    schema = SCHEMAS["price_points"]
    return pa.Table.from_arrays(
        [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema],
        schema=schema,
    )


def write_days(lake: Lake, numbers: range) -> None:
    """The snapshots of these days, each in its own file, as the daily asset writes them."""
    for number in numbers:
        lake.write_fact("price_points", day(number).isoformat(), snapshot(number))
