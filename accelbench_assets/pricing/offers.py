"""Which known price answers a wish: a tier, a region, a way of paying, a day; one price for each EC2 type, or why none.

Belongs here: the choice among known prices, its words and warnings, the reason and the command where there is none.
Does not belong here: reading snapshots (``store``), what a price makes of a request (``cost``, ``sizing.money``).

The lake's last snapshot up to the day counts; without one the packaged facts known by then. Of several prices of a
tier (zones, payments, classes) the cheapest is taken, and named. A declared price, being the user's own, goes before
the list price on demand, and before nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from accelbench_assets.errors import UsageError
from accelbench_assets.pricing import points as p
from accelbench_assets.pricing.amazon import PACKAGED_REGION, command
from accelbench_assets.pricing.points import Point

if TYPE_CHECKING:
    from accelbench_assets.lake.storage import Storage

MOST_USD_PER_HOUR = 1_000_000
"""As in the mart ``latest_prices``; what a source may say is far less (``sanity``)."""
COMMITTED = (*p.RESERVED, *p.SAVINGS)
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to price with. ``payment`` is for reserved and savings tiers, null takes the cheapest; ``as_of`` null is
    today. Raises ``UsageError`` naming the flag.
    """

    region: str = PACKAGED_REGION
    tier: str = p.ON_DEMAND
    payment: str | None = None
    as_of: date | None = None

    def __post_init__(self) -> None:
        if self.tier not in p.EC2_TIERS:
            raise UsageError(f"--tier: {self.tier!r} is not one of {', '.join(p.EC2_TIERS)}.")
        if not _REGION.fullmatch(self.region):
            raise UsageError(f"--region: {self.region!r} is not the name of an AWS region such as us-east-1.")
        if self.payment is None:
            return
        if self.payment not in p.PAYMENTS:
            raise UsageError(f"--payment: {self.payment!r} is not one of {', '.join(p.PAYMENTS)}.")
        if self.tier not in COMMITTED:
            raise UsageError(
                f"--payment: {self.tier} is paid in one way; it is for {', '.join(COMMITTED)} to choose."
            )

    def described(self) -> str:
        """Such as ``reserved_1y all_upfront price in us-east-1 as of 2026-11-01``."""
        text = f"{self.tier}{f' {self.payment}' if self.payment else ''} price in {self.region}"
        return text if self.as_of is None else f"{text} as of {self.as_of.isoformat()}"


@dataclass(frozen=True, slots=True)
class Offer:
    """The price of one type, or why there is none; then ``point`` is who was asked about it and when, if anybody was.

    ``price_point_id`` is null for packaged facts that no snapshot has.
    """

    point: Point | None
    price_point_id: str | None = None
    missing_reason: str | None = None

    @property
    def usd_per_hour(self) -> Decimal | None:
        """USD an hour with upfront payments spread over the term."""
        if self.point is None or self.missing_reason is not None:
            return None
        return self.point.effective_usd_per_hour

    @property
    def as_of(self) -> str:
        """The ISO day the price is from; empty if nobody was ever asked."""
        at = None if self.point is None else self.point.fetched_at
        return "" if at is None else at.date().isoformat()

    @property
    def source(self) -> str:
        """Who says so; empty if nobody does."""
        return (self.point.source if self.point else None) or ""

    @property
    def terms(self) -> str:
        """What kind of price it is, in words: ``spot in use1-az4, mean of 30 days, 90 % of the time at most 0.61``."""
        if self.point is None or self.usd_per_hour is None:
            return "no price"
        point, words = self.point, self.point.tier.replace("_", " ")
        if point.tier == p.DECLARED:
            return "declared by you"
        details = [one.replace("_", " ") for one in (point.payment_option, point.offering_class) if one]
        if details and point.tier in COMMITTED:
            words += f" ({', '.join(details)})"
        if point.tier == p.CAPACITY_BLOCK and point.term_hours:
            words += f" of {point.term_hours:g} h"
        words += f" in {point.zone or point.region}"
        if point.tier == p.SPOT:
            words += ", mean of 30 days"
            if point.usd_per_hour_p90 is not None:
                words += f", 90 % of the time at most {p.plain(point.usd_per_hour_p90)}"
        return words

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the price alone does not say."""
        text = (
            tier_warning(self.point.tier)
            if self.point is not None and self.usd_per_hour is not None
            else None
        )
        return () if text is None else (text,)


def tier_warning(tier: str) -> str | None:
    """What a price of *tier* alone does not say; ``None`` where it says it all."""
    if tier == p.SPOT:
        return (
            "Spot: AWS may take the machine back at two minutes' notice, so this is only for work that tolerates loss, "
            "or with a replica to spare; the price says nothing of whether there is capacity."
        )
    if tier in COMMITTED:
        return "A commitment is paid for every hour of its term, used or not."
    if tier == p.CAPACITY_BLOCK:
        return (
            "A capacity block is bought whole and ahead for a stated time; a month of 730 hours is arithmetic, not an "
            "offer."
        )
    return None


class PriceBook:
    """Prices of EC2 types under one wish, by type; ``snapshot_id`` is null where the packaged facts had to do."""

    def __init__(
        self, wish: Wish, known: Iterable[tuple[Point, str | None]], snapshot_id: str | None, today: date
    ) -> None:
        self.wish, self.snapshot_id, self._today = wish, snapshot_id, today
        self._by_type: dict[str, list[tuple[Point, str | None]]] = {}
        for point, point_id in known:
            self._by_type.setdefault(point.instance_type, []).append((point, point_id))

    def offer(self, instance_type: str) -> Offer:
        """The cheapest price of *instance_type* under the wish; a declared one first where the wish is on demand."""
        found = self._by_type.get(instance_type, [])
        priced = [(one, i) for one, i in found if not_counted(one) is None]
        own = [one for one in priced if one[0].tier == p.DECLARED]
        wanted = [
            one
            for one in priced
            if one[0].tier == self.wish.tier and self.wish.payment in (None, one[0].payment_option)
        ]
        if chosen := (own if self.wish.tier == p.ON_DEMAND else []) or wanted:
            return Offer(*min(chosen, key=_order))
        others = sorted({str(one.payment_option) for one, _ in priced if one.tier == self.wish.tier})
        blanks = [one for one in found if one not in priced and one[0].tier == self.wish.tier]
        blank, blank_id = blanks[0] if blanks else (None, None)
        return Offer(blank, blank_id, self._reason(blank, others))

    def _reason(self, blank: Point | None, other_payments: Sequence[str]) -> str:
        wish, ask = self.wish, f"`{command(self.wish.region, self.wish.tier)}`"
        if other_payments:
            return f"no {wish.described()} is known, but there is {', '.join(other_payments)}"
        past = wish.as_of is not None and wish.as_of < self._today
        if past and (blank is None or blank.fetched_at is None):
            return f"no {wish.described()} is known, and sources are only asked for the current day"
        reason = None if blank is None else not_counted(blank)
        if reason is None:
            return f"no {wish.described()} is known: {ask}"
        if wish.tier == p.ON_DEMAND:  # its reasons name the tier and the place
            return reason
        return f"no {wish.described()}: {reason}"


def not_counted(point: Point) -> str | None:
    """Why *point* is no price, by the rules of the mart ``latest_prices``; ``None`` for one that counts."""
    usd = point.effective_usd_per_hour
    if usd is None:
        return point.missing_reason or "no reason was given"
    if usd <= 0:
        return f"a price of {usd} USD an hour is none"
    if usd > MOST_USD_PER_HOUR:
        return "a price of over a million USD an hour is none"
    if (
        point.fetched_at is not None
        and point.effective_from is not None
        and point.effective_from > point.fetched_at
    ):
        return "the price was not in force yet when it was asked for"
    return None


def _order(pair: tuple[Point, str | None]) -> tuple[Decimal, tuple[str, ...], str]:
    point, point_id = pair
    usd = point.effective_usd_per_hour
    assert usd is not None
    return usd, tuple(part or "" for part in point.key), point_id or ""


def price_book(storage: Storage, wish: Wish, *, now: datetime | None = None) -> PriceBook:
    """What is known under *wish*: the lake's last snapshot up to its day, else the packaged facts.

    Raises ``LakeError`` for a snapshot that cannot be read.
    """
    from accelbench_assets.pricing.snapshot import day_points
    from accelbench_assets.pricing.store import rows_of

    today = (now or datetime.now(UTC)).date()
    day = wish.as_of or today
    tiers = (p.ON_DEMAND, p.DECLARED) if wish.tier == p.ON_DEMAND else (wish.tier,)
    found = rows_of(storage, day, region=wish.region, tiers=tiers)
    if found is not None:
        snapshot_id, rows = found
        kept = [row for row in rows if row["provider"] == p.AWS]
        known = [(Point.from_row(row), str(row["price_point_id"])) for row in kept]
        return PriceBook(wish, known, snapshot_id, today)
    packaged = day_points(day, regions=(wish.region,))
    here = [(one, None) for one in packaged if one.region == wish.region and one.tier in tiers]
    return PriceBook(wish, [pair for pair in here if pair[0].provider == p.AWS], None, today)
