"""Spot prices: the time-weighted mean and 90th percentile of each zone over the last 30 days.

Belongs here: DescribeSpotPriceHistory and the weighting. Does not belong here: interruptions, what a lost run costs.

A quote holds from its time to the next quote of the same type and zone. The API also gives the last quote before the
window, which holds from the window's beginning. Time before the first quote known is left out of the weighting.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from accelbench_assets.pricing.aws.clients import client, translated
from accelbench_assets.pricing.aws.reading import Reading, Stamp, mapping, text
from accelbench_assets.pricing.points import AWS, QUANTUM, SPOT, Group, Point, money, utc
from accelbench_assets.pricing.raw import RawAnswer

WINDOW = timedelta(days=30)
PRODUCT = "Linux/UNIX"
QUANTILE = Decimal("0.9")


class Weighted(NamedTuple):
    """USD per hour over a window: mean by time, and what nine tenths of the time cost at most."""

    mean: Decimal
    p90: Decimal
    since: datetime


def fetch_spot(region: str, wanted: Iterable[str], *, at: datetime, timeout_s: float) -> Reading:
    """Spot prices of the *wanted* types in every zone of *region* over the 30 days to *at* (UTC).

    Raises ``PriceSourceError``.
    """
    names = sorted(wanted)
    start = at - WINDOW
    api = client("ec2", region, timeout_s)
    with translated("ec2", region):
        pages = api.get_paginator("describe_spot_price_history").paginate(
            StartTime=start,
            EndTime=at,
            # Filters, since a type that a region does not know would be refused as a parameter.
            Filters=[
                {"Name": "instance-type", "Values": names},
                {"Name": "product-description", "Values": [PRODUCT]},
            ],
        )
        history = [quote for page in pages for quote in page.get("SpotPriceHistory", [])]
    document = {
        "operation": "DescribeSpotPriceHistory",
        "request": {"region": region, "StartTime": start, "EndTime": at, "InstanceTypes": names},
        "SpotPriceHistory": history,
    }
    content = json.dumps(document, sort_keys=True, default=lambda v: v.isoformat()).encode()
    raw = RawAnswer(content)
    stamp = Stamp(at, f"AWS EC2 DescribeSpotPriceHistory {region}, 30 days, weighted by time", raw.sha256)
    reading = read_history(history, region=region, wanted=frozenset(names), start=start, end=at, stamp=stamp)
    reading.raw.append(raw)
    return reading


def read_history(
    history: Iterable[object],
    *,
    region: str,
    wanted: frozenset[str],
    start: datetime,
    end: datetime,
    stamp: Stamp,
) -> Reading:
    """One point for each type and zone that was quoted."""
    reading = Reading()
    quotes: dict[tuple[str, str], list[tuple[datetime, Decimal]]] = defaultdict(list)
    for entry in history:
        quote = mapping(entry)
        instance = text(quote.get("InstanceType"))
        if instance not in wanted or text(quote.get("ProductDescription")) not in ("", PRODUCT):
            continue
        zone = text(quote.get("AvailabilityZoneId")) or text(quote.get("AvailabilityZone"))
        price, since = money(quote.get("SpotPrice")), utc(quote.get("Timestamp"))
        if not zone or not price or since is None:
            problem = f"a spot quote has no zone, time or price: {quote.get('SpotPrice')!r}"
            reading.refuse(Group(AWS, region, instance, SPOT), problem)
            continue
        quotes[instance, zone].append((since, price))
    for (instance, zone), found in sorted(quotes.items()):
        weighted = weigh(found, start, end)
        if weighted is not None:
            reading.points.append(
                Point(
                    *Group(AWS, region, instance, SPOT),
                    zone=zone,
                    usd_per_hour=weighted.mean,
                    usd_per_hour_p90=weighted.p90,
                    effective_from=weighted.since,
                    **stamp.fields(),
                )
            )
    return reading.settle()


def weigh(quotes: Sequence[tuple[datetime, Decimal]], start: datetime, end: datetime) -> Weighted | None:
    """Mean and 90th percentile of *quotes* (time, USD per hour) over *start* to *end*; ``None`` if none holds there."""
    ordered = sorted(quotes)
    pieces: list[tuple[Decimal, Decimal]] = []  # price, seconds
    since = None
    for number, (begin, price) in enumerate(ordered):
        until = min(ordered[number + 1][0] if number + 1 < len(ordered) else end, end)
        begin = max(begin, start)
        if until > begin:
            since = begin if since is None else since
            pieces.append((price, Decimal(str((until - begin).total_seconds()))))
    if since is None:
        return None
    whole = sum((seconds for _, seconds in pieces), Decimal(0))
    mean = sum((price * seconds for price, seconds in pieces), Decimal(0)) / whole
    passed, p90 = Decimal(0), pieces[0][0]
    for price, seconds in sorted(pieces):
        passed, p90 = passed + seconds, price
        if passed >= QUANTILE * whole:
            break
    return Weighted(mean.quantize(QUANTUM, ROUND_HALF_EVEN), p90, since)
