"""What cannot be, and what is worth a look: impossible prices, prices at odds with each other, jumps, losses.

Belongs here: the rules and their limits. Pure. Does not belong here: prices far from what the same machine costs
elsewhere (``plausible``), whole answers (``answers``), what follows from a finding (``refresh``, the asset's checks).

* An impossible price (nothing or less, or above 1,000 USD an hour) is held back: the last good one stays.
* A commitment a little above the on-demand price is kept, since it is not known which of the two is wrong, and fails a
  check.
* A price that moved by more than a fifth since the day before is kept and fails a check of its own, whoever moved it:
  an answer, or a new packaged file.
* A price of the day before that is none today fails a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from accelbench_assets.pricing.points import (
    CAPACITY_BLOCK,
    DECLARED,
    ON_DEMAND,
    RESERVED,
    SAVINGS,
    SPOT,
    Group,
    Point,
    plain,
)

MOST_USD_PER_HOUR = Decimal(1000)
JUMP = Decimal("0.2")


def impossible(points: Sequence[Point]) -> dict[int, str]:
    """Position -> what is wrong with the price there. Points without a price are never wrong."""
    found = {}
    for place, point in enumerate(points):
        price = point.effective_usd_per_hour
        if price is None:
            if point.missing_reason is None:
                found[place] = "neither a price nor a reason was given"
        elif not 0 < price <= MOST_USD_PER_HOUR:
            found[place] = f"the source says {plain(price)} USD an hour, which cannot be"
    return found


def at_odds(points: Iterable[Point]) -> list[str]:
    """Commitments above the on-demand price of the same type and region, one sentence each."""
    priced = [(p, p.effective_usd_per_hour) for p in points]
    on_demand = {
        (p.provider, p.region, p.instance_type): price
        for p, price in priced
        if p.tier == ON_DEMAND and price is not None
    }
    found = []
    for point, price in priced:
        base = on_demand.get((point.provider, point.region, point.instance_type))
        if price is None or base is None:
            continue
        if point.tier in (*RESERVED, *SAVINGS) and price > base:
            found.append(f"{label(point)}: {plain(price)} against {plain(base)} on demand")
    return found


def jumps(before: Iterable[Point], after: Iterable[Point]) -> list[str]:
    """Prices of *after* that differ by more than 20 % from the same one of *before*, one sentence each.

    Declared prices are the user's own affair.
    """
    earlier = {point.key: point.effective_usd_per_hour for point in before}
    found = []
    for point in after:
        old, new = earlier.get(point.key), point.effective_usd_per_hour
        if point.tier != DECLARED and old and new is not None and abs(new / old - 1) > JUMP:
            change = (new / old - 1) * 100
            found.append(f"{label(point)}: {plain(old)} to {plain(new)} ({change:+.0f} %)")
    return found


def vanished(before: Iterable[Point], after: Sequence[Point]) -> list[str]:
    """Prices of *before* that *after* has no more, one sentence each, with the reason that stands there.

    Zones come and go with capacity, so spot and capacity blocks count by type and region; declared prices not at all.
    """
    now = {point.key: point for point in after}
    priced = {point.group for point in after if point.effective_usd_per_hour is not None}
    reasons = {p.group: p.missing_reason for p in after if p.missing_reason is not None}
    found: dict[str, str] = {}
    gone: set[Group] = set()
    for point in before:
        old, still = point.effective_usd_per_hour, now.get(point.key)
        if old is None or point.tier == DECLARED:
            continue
        if still is not None and still.effective_usd_per_hour is not None:
            continue
        if point.tier in (SPOT, CAPACITY_BLOCK) and (point.group in priced or point.group in gone):
            continue
        gone.add(point.group)
        reason = (still.missing_reason if still else None) or reasons.get(
            point.group, "no longer in the answer"
        )
        found[label(point)] = f"{label(point)}: {plain(old)} before, none now: {reason}"
    return list(found.values())


def label(point: Point) -> str:
    """A price by its key, as it is shown: ``aws us-east-1 p5.48xlarge spot use1-az2``."""
    parts = (*point.group, point.zone, point.payment_option, point.offering_class)
    return " ".join(part for part in parts if part)
