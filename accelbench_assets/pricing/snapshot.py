"""The price points of one day, as the table that is kept.

Belongs here: rows and ids of ``price_points`` from points, the declared prices, the machines that have no list price.
Does not belong here: asking anybody (``refresh``), which points hold (``merge``), the formulas of cost (``cost``).

Rows are deterministic: the same day, facts, declarations and moment give the same ids and bytes. A packaged
price is dated with the day it was read from its source, never with the day of the snapshot.

``snapshot_id`` is the day, the newest moment anything in it was asked, the number of rows and a hash of everything the
snapshot holds: by its text a later snapshot of a day is the greater one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import UsageError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing.amazon import PACKAGED_REGION, blanks, ec2_types
from accelbench_assets.pricing.merge import newest, settled
from accelbench_assets.pricing.points import (
    AWS,
    DECLARED,
    LIMIT,
    LONG_AGO,
    ON_DEMAND,
    QUANTUM,
    UNSTATED_REGION,
    Point,
)
from accelbench_assets.pricing.providers import packaged_on
from partitions.catalog import load_instances
from partitions.cell import OWN_FAMILIES, CellError, family_of

if TYPE_CHECKING:
    import pyarrow as pa

DECLARED_SOURCE = "declared by the user"
NO_PRICE = {
    "local": "this machine has no price; declare one with --usd-per-hour",
    "endpoint": "the price of this server is not known; declare one with --usd-per-hour",
}


def declared_price(instance_type: str, usd_per_hour: object) -> Decimal:
    """A declared price as a decimal. Raises ``UsageError`` unless it is positive and fits the column."""
    try:
        price = Decimal(str(usd_per_hour))
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or not 0 < price < LIMIT or price.quantize(QUANTUM) == 0:
        raise UsageError(f"usd_per_hour of {instance_type}: {usd_per_hour!r} is not a positive price in USD.")
    return price.quantize(QUANTUM)


def _family(instance_type: str) -> str:
    try:
        return family_of(instance_type)
    except CellError as error:
        raise UsageError(f"Price of {error}.") from None


def _own(instance_type: str) -> dict[str, Any]:
    """The columns that say what machine this is: one of AWS, or one that is the user's own affair."""
    family = _family(instance_type)
    if family in OWN_FAMILIES:
        return {"provider": family, "region": UNSTATED_REGION, "os": None, "tenancy": None}
    return {"provider": AWS, "region": UNSTATED_REGION}


def _unpriced(instance_type: str) -> Point:
    columns = _own(instance_type)
    reason = NO_PRICE.get(columns["provider"])
    if reason is None:
        columns["region"] = PACKAGED_REGION
        reason = f"no on-demand price of {instance_type} in {PACKAGED_REGION} is packaged"
    return Point(instance_type=instance_type, tier=ON_DEMAND, missing_reason=reason, **columns)


def _declared(instance_type: str, usd_per_hour: object, day: date, at: datetime) -> Point:
    return Point(
        instance_type=instance_type,
        tier=DECLARED,
        usd_per_hour=declared_price(instance_type, usd_per_hour),
        effective_from=datetime.combine(day, time(), UTC),
        fetched_at=at,
        source=DECLARED_SOURCE,
        **_own(instance_type),
    )


def day_points(
    day: date,
    *,
    declared: tuple[tuple[str, Decimal | float | str], ...] = (),
    also: Iterable[str] = (),
    at: datetime | None = None,
    known: Iterable[Point] = (),
    notes: Iterable[Point] = (),
    fetched: Iterable[Point] = (),
    regions: Iterable[str] = (PACKAGED_REGION,),
) -> list[Point]:
    """Everything that holds on *day*: for each type, region and tier the price, or the reason there is none.

    Packaged facts known by then, *known* (carried on from earlier days), *fetched*, and *declared* (instance type, USD
    per hour; *at*, UTC, now if not given). Blank tiers of the EC2 types stand in every one of *regions* and wherever
    there are prices; *notes* are blanks that say more than the general one. A machine of *also* that nobody priced
    gets its reason. Raises ``UsageError`` for a declared price that is not positive, is given twice, or is of no known
    family.
    """
    stamp = at or datetime.now(UTC)
    prices = dict(declared)
    if len(prices) != len(declared):
        raise UsageError("usd_per_hour is declared twice for the same instance.")
    packaged = packaged_on(day)
    known, fetched = list(known), list(fetched)
    asked = {p.region for p in (*known, *packaged, *fetched) if p.provider == AWS}
    places = tuple(sorted({*regions, *asked} - {UNSTATED_REGION}))
    return settled(
        newest(
            blanks(places, ec2_types()),
            (_unpriced(n) for n in sorted(set(also) - set(prices) - set(load_instances()))),
            notes,
            known,
            packaged,
            fetched,
            (_declared(name, usd, day, stamp) for name, usd in sorted(prices.items())),
        )
    )


def to_table(day: date, points: Sequence[Point]) -> pa.Table:
    """*points* as a snapshot of *day*, schema ``price_points``."""
    import orjson
    import pyarrow as pa

    rows = [point.to_row() for point in points]
    asked = max((row["fetched_at"] or LONG_AGO for row in rows), default=LONG_AGO)
    content = orjson.dumps([day, rows], default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)
    digest = hashlib.sha256(content).hexdigest()[:12]
    snapshot_id = f"{day.isoformat()}-{asked:%Y%m%dT%H%M%S%f}-{len(rows):06d}-{digest}"
    for number, row in enumerate(rows):
        row["snapshot_id"] = snapshot_id
        row["price_point_id"] = f"{digest}-{number:05d}"  # counted, since hashes would be a third of the file
    return pa.Table.from_pylist(rows, schema=SCHEMAS["price_points"])


def price_points(
    day: date,
    *,
    declared: tuple[tuple[str, Decimal | float | str], ...] = (),
    also: Iterable[str] = (),
    at: datetime | None = None,
) -> pa.Table:
    """The snapshot of *day* from packaged facts and declarations alone; see :func:`day_points`."""
    return to_table(day, day_points(day, declared=declared, also=also, at=at))
