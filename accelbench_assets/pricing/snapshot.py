"""The price points of one day.

Belongs here: the rows of ``price_points`` from packaged on-demand facts and from what the user declares;
every instance asked for has a row, with a price or with the reason it has none. Does not belong here: reading
the packaged file (``packaged``), the formulas (``cost``).

Rows are deterministic: the same day, facts, declarations and moment give the same ids and bytes. A packaged
price is dated with the day it was read from its source, never with the day of the snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import UsageError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing.packaged import file_sha256, on_demand
from partitions.catalog import load_instances
from partitions.cell import OWN_FAMILIES, CellError, family_of

if TYPE_CHECKING:
    import pyarrow as pa

QUANTUM = Decimal("0.0000000001")  # the ten decimals of the column
LIMIT = Decimal(10) ** 10
DECLARED_SOURCE = "declared by the user"
PACKAGED_REGION = "us-east-1"
UNSTATED_REGION = "unstated"  # of a declared price: the user says what, not where
NO_PRICE = {
    "local": "this machine has no price; declare one with --usd-per-hour",
    "endpoint": "the price of this server is not known; declare one with --usd-per-hour",
}
_IDENTITY = ("provider", "region", "instance_type", "tier", "usd_per_hour")


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


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _row(instance_type: str, **fields: Any) -> dict[str, Any]:
    family = _family(instance_type)
    own = family in OWN_FAMILIES
    return {
        "provider": family if own else "aws",
        "region": family if own else UNSTATED_REGION,
        "instance_type": instance_type,
        "os": None if own else "linux",
        "tenancy": None if own else "shared",
        "tier": "on_demand",
        **fields,
        "effective_usd_per_hour": fields.get("usd_per_hour"),
    }


def _packaged_row(instance_type: str) -> dict[str, Any]:
    price = on_demand().get(instance_type)
    if price is None:
        reason = NO_PRICE.get(_family(instance_type))
        if reason is not None:
            return _row(instance_type, missing_reason=reason)
        reason = f"no on-demand price of {instance_type} in {PACKAGED_REGION} is packaged"
        return _row(instance_type, region=PACKAGED_REGION, missing_reason=reason)
    known = _midnight(price.as_of)
    return _row(
        instance_type,
        region=price.region,
        usd_per_hour=None if price.usd_per_hour is None else price.usd_per_hour.quantize(QUANTUM),
        effective_from=known,
        fetched_at=known,
        source=price.source,
        source_sha256=file_sha256(),
        missing_reason=price.missing_reason,
    )


def _declared_row(instance_type: str, usd_per_hour: object, day: date, at: datetime) -> dict[str, Any]:
    return _row(
        instance_type,
        tier="declared",
        usd_per_hour=declared_price(instance_type, usd_per_hour),
        effective_from=_midnight(day),
        fetched_at=at,
        source=DECLARED_SOURCE,
    )


def _digest(document: object, length: int) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def price_points(
    day: date,
    *,
    declared: tuple[tuple[str, Decimal | float | str], ...] = (),
    also: Iterable[str] = (),
    at: datetime | None = None,
) -> pa.Table:
    """The price points of *day*, schema ``price_points``, one row an instance type and tier.

    On-demand rows for every instance type of ``instances.yaml`` (region of the packaged file; without a
    price: ``usd_per_hour`` null and ``missing_reason``), a ``declared`` row for every pair of *declared*
    (instance type, USD per hour), and a row with its reason for every instance of *also* that nobody priced.
    *at* is when the prices were declared (UTC; now, if not given), so that a later declaration of the same
    day outdoes an earlier one. ``snapshot_id`` hashes everything the snapshot holds, ``price_point_id`` one
    row of it.

    Raises ``UsageError`` for a declared price that is not positive, is given twice, or is of no known family.
    """
    import pyarrow as pa

    stamp = at or datetime.now(UTC)
    prices = dict(declared)
    if len(prices) != len(declared):
        raise UsageError("usd_per_hour is declared twice for the same instance.")
    rows = [_packaged_row(name) for name in load_instances()]
    rows += [_packaged_row(n) for n in sorted(set(also) - set(prices) - set(load_instances()))]
    rows += [_declared_row(name, usd, day, stamp) for name, usd in sorted(prices.items())]
    snapshot_id = f"{day.isoformat()}-{_digest(rows, 12)}"
    for row in rows:
        row["snapshot_id"] = snapshot_id
        row["price_point_id"] = _digest([snapshot_id, *(row.get(name) for name in _IDENTITY)], 16)
    return pa.Table.from_pylist(rows, schema=SCHEMAS["price_points"])
