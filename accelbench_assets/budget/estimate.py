"""What a paid run can cost at most, before anything of it is started.

Belongs here: instances × hours × price, and where the price comes from. Does not belong here: price lists
(``pricing``), caps (``ledger``). A price that nobody knows refuses the run: a guess could not be held to a cap.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from accelbench_assets.budget.base import Estimate, dollars
from accelbench_assets.errors import LaunchError
from accelbench_assets.pricing import store
from accelbench_assets.pricing.offers import not_counted
from accelbench_assets.pricing.packaged import on_demand
from accelbench_assets.pricing.points import Point

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

SECONDS_PER_HOUR = 3600
DECLARED = "declared by the user"

PriceLookup = Callable[[str, str], "tuple[Decimal, str] | None"]
"""Instance type and region -> USD per hour and who says so, or ``None``."""


def estimate(
    instance_type: str,
    *,
    instances: int,
    region: str,
    seconds: float,
    declared: float | Decimal | None = None,
    lookup: PriceLookup | None = None,
) -> Estimate:
    """The cost of *instances* (one or more) of *instance_type* for *seconds* (above 0), rounded up.

    The price is *declared* (USD per hour of one instance), else what *lookup* knows, else the packaged on-demand
    price of *region*. Raises ``LaunchError`` (``no_price``) with the reason there is none, ``ValueError`` for a
    number out of range.
    """
    if instances < 1 or not seconds > 0:
        raise ValueError(f"{instances} instances for {seconds} s cost nothing")
    each, source = _price(instance_type, region, declared, lookup)
    usd_per_hour = dollars(each * instances, f"price of {instance_type}", up=True)
    hours = Decimal(str(seconds)) / SECONDS_PER_HOUR
    return Estimate(
        usd=dollars(usd_per_hour * hours, f"estimate for {instance_type}", up=True),
        usd_per_hour=usd_per_hour,
        hours=hours,
        price_source=source,
    )


def _price(
    instance_type: str, region: str, declared: float | Decimal | None, lookup: PriceLookup | None
) -> tuple[Decimal, str]:
    if declared is not None:
        return dollars(declared, f"declared price of {instance_type}"), DECLARED
    if lookup is not None and (found := lookup(instance_type, region)) is not None:
        return found
    known = on_demand().get(instance_type)
    if known is not None and known.region == region and known.usd_per_hour is not None:
        return known.usd_per_hour, f"{known.source} ({known.as_of})"
    if known is None:
        reason = "no on-demand price of it is packaged"
    elif known.region != region:
        reason = f"the packaged prices are those of {known.region}"
    else:
        reason = known.missing_reason or "its price is not known"
    raise LaunchError(
        f"What {instance_type} costs in {region} is not known ({reason}), so no budget can be kept.",
        code="no_price",
        hint="Declare it with --usd-per-hour.",
    )


def lake_prices(lake: Lake) -> PriceLookup:
    """A lookup in the lake's price points: the newest on-demand price of the type in the region.

    The last snapshot is read at the first question about a region. ``LakeError`` if it cannot be.
    """
    known: dict[str, list[dict[str, Any]]] = {}

    def lookup(instance_type: str, region: str) -> tuple[Decimal, str] | None:
        if region not in known:
            today = datetime.now(UTC).date()
            _, rows = store.rows_of(lake.storage, today, region=region, tiers=("on_demand",)) or ("", [])
            known[region] = [row for row in rows if row["region"] == region and _in_force(row)]
        fitting = [row for row in known[region] if row["instance_type"] == instance_type]
        if not fitting:
            return None
        newest = max(fitting, key=lambda r: (r["fetched_at"], r["snapshot_id"]))
        return newest["usd_per_hour"], f"price point {newest['price_point_id']}: {newest['source']}"

    return lookup


def _in_force(row: dict[str, Any]) -> bool:
    """Whether *row* is a price that somebody was told and that counts."""
    return row["fetched_at"] is not None and not_counted(Point.from_row(row)) is None
