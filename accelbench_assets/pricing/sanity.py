"""What cannot be, and what is worth a look: impossible prices, prices at odds with each other, jumps.

Belongs here: the rules and their limits. Pure. Does not belong here: what follows from them (``refresh``, the asset's
checks).

* An impossible price (nothing or less, or above 1,000 USD an hour) is held back: the last good one stays.
* Prices at odds (spot far above on-demand, a commitment above on-demand) are kept, since it is not known which of the
  two is wrong, and fail a check.
* A price that moved by more than a fifth since the day before is kept and fails a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from accelbench_assets.pricing.points import ON_DEMAND, RESERVED, SAVINGS, SPOT, Point

MOST_USD_PER_HOUR = Decimal(1000)
SPOT_FACTOR = Decimal("1.5")
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
            found[place] = f"the source says {price.normalize():f} USD an hour, which cannot be"
    return found


def at_odds(points: Iterable[Point]) -> list[str]:
    """Prices that contradict the on-demand price of the same type and region, one sentence each."""
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
        limit = {SPOT: base * SPOT_FACTOR, **dict.fromkeys((*RESERVED, *SAVINGS), base)}.get(point.tier)
        if limit is not None and price > limit:
            found.append(f"{label(point)}: {price.normalize():f} against {base.normalize():f} on demand")
    return found


def jumps(before: Iterable[Point], after: Iterable[Point]) -> list[str]:
    """Prices of *after* that differ by more than 20 % from the same one of *before*, one sentence each."""
    earlier = {point.key: point.effective_usd_per_hour for point in before}
    found = []
    for point in after:
        old, new = earlier.get(point.key), point.effective_usd_per_hour
        if old and new is not None and abs(new / old - 1) > JUMP:
            change = (new / old - 1) * 100
            found.append(f"{label(point)}: {old.normalize():f} to {new.normalize():f} ({change:+.0f} %)")
    return found


def label(point: Point) -> str:
    """A price by its key, as it is shown: ``aws us-east-1 p5.48xlarge spot use1-az2``."""
    parts = (*point.group, point.zone, point.payment_option, point.offering_class)
    return " ".join(part for part in parts if part)
