"""One price point: what an hour of one machine costs in one place, by one way of paying, and who says so.

Belongs here: the row's fields, its key, the effective hourly price, the names of tiers and payments, money in words.
Does not belong here: where points come from (``packaged``, ``catalog``, ``aws``), which of them hold (``merge``).

Money is a decimal in US dollars, rounded half to even to the ten decimals of the column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, NamedTuple

QUANTUM = Decimal("0.0000000001")
LIMIT = Decimal(10) ** 10

HOURS_1Y = 8760.0
HOURS_3Y = 26280.0
TERM_HOURS = {"1y": HOURS_1Y, "3y": HOURS_3Y}

ON_DEMAND, SPOT, CAPACITY_BLOCK, DECLARED = "on_demand", "spot", "capacity_block", "declared"
RESERVED = ("reserved_1y", "reserved_3y")
SAVINGS = ("savings_1y", "savings_3y")
PAYMENTS = ("no_upfront", "partial_upfront", "all_upfront")
EC2_TIERS = (ON_DEMAND, *RESERVED, *SAVINGS, SPOT, CAPACITY_BLOCK)
TIERS = (*EC2_TIERS, DECLARED)

AWS, SAGEMAKER = "aws", "aws-sagemaker"
UNSTATED_REGION = "unstated"
"""Region of a price whose source says what, not where."""
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Group(NamedTuple):
    """The prices that one answer gives together: all payments, classes and zones of a type's tier in a region."""

    provider: str
    region: str
    instance_type: str
    tier: str


class Key(NamedTuple):
    """What makes two points the same price on two days."""

    provider: str
    region: str
    instance_type: str
    tier: str
    zone: str | None
    os: str | None
    tenancy: str | None
    payment_option: str | None
    offering_class: str | None


@dataclass(frozen=True, slots=True)
class Point:
    """A price, or (``missing_reason``) why there is none.

    ``usd_per_hour`` is what each hour costs, ``upfront_usd`` what is paid once for ``term_hours``;
    ``offering_class`` is standard or convertible (reserved), compute, ec2_instance or sagemaker (savings: the kind of
    plan), block_24h (capacity blocks: the length). ``fetched_at`` is when the source was asked, for packaged facts the
    day they were read there; null for a blank that nobody has asked about.
    """

    provider: str
    region: str
    instance_type: str
    tier: str
    zone: str | None = None
    os: str | None = "linux"
    tenancy: str | None = "shared"
    payment_option: str | None = None
    offering_class: str | None = None
    usd_per_hour: Decimal | None = None
    usd_per_hour_p90: Decimal | None = None
    upfront_usd: Decimal | None = None
    term_hours: float | None = None
    sku: str | None = None
    effective_from: datetime | None = None
    fetched_at: datetime | None = None
    source: str | None = None
    source_sha256: str | None = None
    missing_reason: str | None = None

    @property
    def group(self) -> Group:
        """Provider, region, type and tier."""
        return Group(self.provider, self.region, self.instance_type, self.tier)

    @property
    def key(self) -> Key:
        """What identifies this price from day to day."""
        return Key(*self.group, self.zone, self.os, self.tenancy, self.payment_option, self.offering_class)

    @property
    def effective_usd_per_hour(self) -> Decimal | None:
        """``upfront / term + hourly``: USD an hour when every hour of the term is used; ``None`` without a price."""
        if self.missing_reason is not None:
            return None
        return effective(self.usd_per_hour, self.upfront_usd, self.term_hours)

    def to_row(self) -> dict[str, Any]:
        """The columns of ``price_points`` without the ids of the snapshot."""
        row = {name: getattr(self, name) for name in FIELDS}
        row["effective_usd_per_hour"] = self.effective_usd_per_hour
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Point:
        """A point read back; columns that an older file lacks are null."""
        columns: dict[str, Any] = {name: row.get(name) for name in FIELDS}
        return cls(**columns)


FIELDS = tuple(field.name for field in fields(Point))


def money(value: object) -> Decimal | None:
    """*value* as USD at the column's scale; ``None`` unless it is a finite number from 0 to below 10^10.

    What is positive but rounds to nothing is no price either.
    """
    if isinstance(value, bool):
        return None
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    if not amount.is_finite() or not 0 <= amount < LIMIT:
        return None
    rounded = amount.quantize(QUANTUM, ROUND_HALF_EVEN)
    return None if rounded == 0 and amount != 0 else rounded + 0  # "-0" is 0


def effective(hourly: Decimal | None, upfront: Decimal | None, hours: float | None) -> Decimal | None:
    """USD per hour with what is paid upfront spread over *hours*; ``None`` when there is no price at all.

    Raises ``ValueError`` for an upfront payment without a positive term.
    """
    if hourly is None and upfront is None:
        return None
    if not upfront:
        return hourly if hourly is not None else Decimal(0).quantize(QUANTUM)
    if hours is None or not hours > 0:
        raise ValueError(f"an upfront payment of {upfront} USD needs a term")
    spread = upfront / Decimal(str(hours))
    return (spread + (hourly or Decimal(0))).quantize(QUANTUM, ROUND_HALF_EVEN)


def plain(value: Decimal) -> str:
    """A price as it is, without trailing zeros or exponent."""
    return f"{value.normalize():f}"


def spoken(tier: str) -> str:
    """A tier before the word price: on-demand, reserved 1y."""
    return "on-demand" if tier == ON_DEMAND else tier.replace("_", " ")


def utc(value: object) -> datetime | None:
    """A moment as UTC: an aware ``datetime``, a day or ISO-8601 text; ``None`` for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):  # the first or last day of the calendar, elsewhere
        return None
