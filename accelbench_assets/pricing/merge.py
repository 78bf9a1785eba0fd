"""Which of the known prices hold on a day: packaged, carried on from earlier days, just fetched, declared.

Belongs here: the choice by recency, the blanks, what becomes of an impossible or doubted price. Pure.
Does not belong here: where points come from, the table (``snapshot``).

The prices of one group (provider, region, type, tier) are one answer and hold or fall together: the answer that was
given last counts, whole. A price that nobody could ask anew stays with its own date and source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from accelbench_assets.pricing.points import DECLARED, LONG_AGO, Group, Point
from partitions.cell import OWN_FAMILIES


def newest(*sources: Iterable[Point]) -> list[Point]:
    """Group by group the points of the source that was asked last; of sources asked together the later one given.

    Points of one source that belong to a group count by the newest of them.
    """
    chosen: dict[Group, tuple[datetime, list[Point]]] = {}
    for source in sources:
        groups: dict[Group, list[Point]] = defaultdict(list)
        for point in source:
            groups[point.group].append(point)
        for group, points in groups.items():
            asked = max(point.fetched_at or LONG_AGO for point in points)
            before = chosen.get(group)
            if before is None or asked >= before[0]:
                chosen[group] = (asked, points)
    return [point for _, points in chosen.values() for point in points]


def hold_back(fetched: Iterable[Point], faults: dict[int, str], known: Iterable[Point]) -> list[Point]:
    """*fetched* with every impossible price (*faults*: position -> what is wrong) replaced by what was known of it,
    or by a row that says why there is none.
    """
    points = list(fetched)
    if not faults:
        return points
    before = {point.key: point for point in known}
    for place, problem in faults.items():
        point = points[place]
        earlier = before.get(point.key)
        if earlier is not None and earlier.effective_usd_per_hour is not None:
            points[place] = earlier
            continue
        points[place] = blanked(point, problem)
    return points


def blanked(point: Point, reason: str) -> Point:
    """*point* without its price, which *reason* has in words; who was asked and when stays."""
    return replace(
        point,
        usd_per_hour=None,
        usd_per_hour_p90=None,
        upfront_usd=None,
        term_hours=None,
        missing_reason=reason,
    )


def settled(points: Iterable[Point]) -> list[Point]:
    """*points* in their order of keeping, without "has no price" of machines that somebody declared one for."""
    points = list(points)
    declared = {p.instance_type for p in points if p.tier == DECLARED and p.provider in OWN_FAMILIES}
    kept = [p for p in points if p.tier == DECLARED or p.instance_type not in declared]
    return sorted(kept, key=lambda p: tuple(part or "" for part in p.key))
