"""Capacity blocks by DescribeCapacityBlockOfferings: what a reserved block of hours costs just now.

Belongs here: the request, and the price per instance-hour of an offering. Does not belong here: buying one.

The whole block is paid upfront and billed whatever is used of it. The price follows supply and demand; a row is the
cheapest offering of its zone and length at the moment of asking.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from accelbench_assets.pricing.aws.clients import NotOffered, client, translated
from accelbench_assets.pricing.aws.reading import Reading, Stamp, mapping, text
from accelbench_assets.pricing.points import AWS, CAPACITY_BLOCK, QUANTUM, Group, Point, money, utc
from accelbench_assets.pricing.raw import RawAnswer

FAMILIES = ("p4d", "p4de", "p5", "p5e", "p5en", "p6-b200", "p6-b300", "trn1", "trn2")
"""Families that are sold by the block; the others are not asked about."""


def sold_by_block(instance: str) -> bool:
    """Whether blocks of this type exist anywhere."""
    return instance.split(".")[0] in FAMILIES


def fetch_blocks(
    region: str, wanted: Iterable[str], *, hours: Sequence[int], at: datetime, timeout_s: float
) -> Reading:
    """Offerings for one instance of each *wanted* type for each number of *hours*. Raises ``PriceSourceError``."""
    names = [name for name in sorted(wanted) if sold_by_block(name)]
    api = client("ec2", region, timeout_s)
    answers = []
    for name in names:
        for length in hours:
            request = {"InstanceType": name, "InstanceCount": 1, "CapacityDurationHours": length}
            answer: dict[str, Any] = {"request": request}
            try:
                with translated("ec2", region):
                    pages = api.get_paginator("describe_capacity_block_offerings").paginate(**request)
                    answer["offerings"] = [
                        o for page in pages for o in page.get("CapacityBlockOfferings", [])
                    ]
            except NotOffered as refusal:
                answer |= {"offerings": [], "refused": str(refusal)}
            answers.append(answer)
    document = {"operation": "DescribeCapacityBlockOfferings", "region": region, "answers": answers}
    raw = RawAnswer(json.dumps(document, sort_keys=True, default=lambda v: v.isoformat()).encode())
    stamp = Stamp(at, f"AWS EC2 DescribeCapacityBlockOfferings {region}", raw.sha256)
    reading = read_offerings(
        (offering for answer in answers for offering in answer["offerings"]),
        region=region,
        wanted=frozenset(names),
        stamp=stamp,
    )
    reading.raw.append(raw)
    understood = [answer for answer in answers if "refused" not in answer]
    reading.sold_out = bool(understood) and not any(answer["offerings"] for answer in answers)
    return reading


def read_offerings(
    offerings: Iterable[object], *, region: str, wanted: frozenset[str], stamp: Stamp
) -> Reading:
    """The cheapest offering of each type, zone and length. An offering of UltraServers is another product."""
    reading = Reading()
    cheapest: dict[Any, Point] = {}
    for entry in offerings:
        offering = mapping(entry)
        instance = text(offering.get("InstanceType"))
        if instance not in wanted or text(offering.get("UltraserverType")):
            continue
        if text(offering.get("Tenancy")) not in ("", "default"):
            continue
        segments = offering.get("CapacityBlockOfferingSegments")
        if isinstance(segments, list) and len(segments) > 1:  # several zones or machines at one fee
            continue
        group = Group(AWS, region, instance, CAPACITY_BLOCK)
        count, zone = offering.get("InstanceCount"), text(offering.get("AvailabilityZone"))
        hours = _hours(offering)
        fee = money(offering.get("UpfrontFee"))
        counted = isinstance(count, int) and not isinstance(count, bool) and count > 0
        if not counted or not zone or hours is None or not fee:
            reading.refuse(group, "an offering without count, zone, length or fee")
            continue
        if text(offering.get("CurrencyCode")) not in ("", "USD"):
            reading.refuse(group, f"an offering in {offering.get('CurrencyCode')}")
            continue
        point = Point(
            *group,
            zone=zone,
            offering_class=f"block_{hours:g}h",
            payment_option="all_upfront",
            upfront_usd=(fee / count).quantize(QUANTUM),  # type: ignore[operator]
            term_hours=hours,
            sku=text(offering.get("CapacityBlockOfferingId")) or None,
            effective_from=utc(offering.get("StartDate")),
            **stamp.fields(),
        )
        best = cheapest.setdefault(point.key, point)
        if (point.upfront_usd or 0) < (best.upfront_usd or 0):
            cheapest[point.key] = point
    reading.points = list(cheapest.values())
    return reading.settle()


def _hours(offering: Any) -> float | None:
    hours, minutes = (
        offering.get("CapacityBlockDurationHours"),
        offering.get("CapacityBlockDurationMinutes", 0),
    )
    if any(isinstance(x, bool) or not isinstance(x, int) or x < 0 for x in (hours, minutes)):
        return None
    return (hours + minutes / 60) or None
