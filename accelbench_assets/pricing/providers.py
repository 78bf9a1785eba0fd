"""Who rents accelerators, and what is known of each: the registry of providers.

Belongs here: one line for each provider. A new one is a module that packages its facts (or asks for them) and a line.
Does not belong here: any provider's particulars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from accelbench_assets.pricing import amazon, lambda_cloud, runpod
from accelbench_assets.pricing.points import AWS, SAGEMAKER, Point
from accelbench_assets.pricing.sources import Unit
from accelbench_assets.settings_groups import PricesSettings


@dataclass(frozen=True, slots=True)
class Provider:
    """``packaged`` are dated facts that need no network; ``units`` what can be asked, nothing for most."""

    packaged: Callable[[], tuple[Point, ...]]
    units: Callable[[PricesSettings], Iterator[Unit]] = lambda settings: iter(())
    asks: bool = False


PROVIDERS: Mapping[str, Provider] = {
    AWS: Provider(amazon.packaged_ec2, amazon.units, asks=True),
    SAGEMAKER: Provider(amazon.packaged_sagemaker),  # asked together with EC2
    "runpod": Provider(runpod.packaged),
    "lambda": Provider(lambda_cloud.packaged),
}


def packaged_points() -> list[Point]:
    """The packaged facts of all providers."""
    return [point for provider in PROVIDERS.values() for point in provider.packaged()]


def packaged_on(day: date) -> list[Point]:
    """The packaged facts that were known by the end of *day* (UTC)."""
    end = datetime.combine(day, time.max, UTC)
    return [p for p in packaged_points() if p.fetched_at is None or p.fetched_at <= end]
