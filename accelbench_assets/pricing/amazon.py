"""AWS as a provider: the packaged on-demand and SageMaker prices, which types there are, and what is asked.

Belongs here: packaged facts as points, the list of EC2 types, blank tiers and the command that fills them.
Does not belong here: requests (``aws``), which points hold (``merge``).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time

from accelbench_assets.pricing.catalog import catalog
from accelbench_assets.pricing.packaged import file_sha256, on_demand
from accelbench_assets.pricing.points import (
    AWS,
    CAPACITY_BLOCK,
    EC2_TIERS,
    ON_DEMAND,
    QUANTUM,
    SAGEMAKER,
    SPOT,
    Group,
    Point,
)
from accelbench_assets.pricing.sources import Unit, aws_units
from accelbench_assets.settings_groups import PricesSettings
from partitions.catalog import load_instances

PACKAGED_REGION = "us-east-1"


def ec2_types() -> tuple[str, ...]:
    """The EC2 types prices are wanted for: those of the catalog and those of the packaged price list."""
    return tuple(dict.fromkeys([*load_instances(), *on_demand()]))


def packaged_ec2() -> tuple[Point, ...]:
    """The packaged on-demand prices; those absent from the list carry the reason."""
    points = []
    for price in on_demand().values():
        known = datetime.combine(price.as_of, time(), UTC)
        points.append(
            Point(
                *Group(AWS, price.region, price.instance_type, ON_DEMAND),
                usd_per_hour=None if price.usd_per_hour is None else price.usd_per_hour.quantize(QUANTUM),
                effective_from=known,
                fetched_at=known,
                source=price.source,
                source_sha256=file_sha256(),
                missing_reason=price.missing_reason,
            )
        )
    return tuple(points)


def packaged_sagemaker() -> tuple[Point, ...]:
    """The packaged prices of SageMaker endpoints (``ml.*``)."""
    return catalog(SAGEMAKER)


def units(settings: PricesSettings) -> Iterator[Unit]:
    """What is asked of AWS under these settings: nothing when it is off."""
    mode = settings.aws
    if mode == "auto":
        from accelbench_assets.pricing.aws.clients import has_credentials

        mode = "api" if has_credentials() else "bulk"
    return iter(()) if mode == "off" else aws_units(settings, mode, ec2_types())


def command(region: str, tier: str = ON_DEMAND) -> str:
    """The command that fills a blank of *region*."""
    source = " --source api" if tier in (SPOT, CAPACITY_BLOCK) else ""
    return f"accelbench prices refresh --provider aws --region {region}{source}"


def blanks(regions: tuple[str, ...], types: tuple[str, ...]) -> Iterator[Point]:
    """A row without a price for every type, tier and region: it says that nobody has asked, and how to ask."""
    for region in regions:
        for tier in EC2_TIERS:
            told = f"not fetched yet: `{command(region, tier)}`"
            if tier == ON_DEMAND:
                told = f"no on-demand price in {region} is packaged or fetched: `{command(region)}`"
            for name in types:
                yield Point(*Group(AWS, region, name, tier), missing_reason=told)
