"""What is asked for prices: the questions that follow from the settings.

Belongs here: the units of asking. Does not belong here: the options (``settings_groups``), asking (``refresh``,
``aws``).

A unit is one question that succeeds or fails by itself: the price list of one region, its spot history, and so on.
What a failed unit would have told stays as it was known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accelbench_assets.pricing.aws.reading import Reading
from accelbench_assets.pricing.points import (
    AWS,
    CAPACITY_BLOCK,
    ON_DEMAND,
    RESERVED,
    SAGEMAKER,
    SAVINGS,
    SPOT,
    spoken,
)
from accelbench_assets.settings_groups import PricesSettings


@dataclass(frozen=True, slots=True)
class Unit:
    """One question: ``ask(at)`` answers for the groups of *provider*, *region* and *tiers*."""

    provider: str
    region: str
    tiers: tuple[str, ...]
    what: str
    wanted: tuple[str, ...]
    reasons: dict[str, str]
    ask: Callable[[datetime], Reading]

    @property
    def name(self) -> str:
        """As it is shown: ``aws us-east-1 spot``."""
        return f"{self.provider} {self.region} {self.what}"


def aws_units(settings: PricesSettings, mode: str, types: tuple[str, ...]) -> Iterator[Unit]:
    """The questions to AWS for *types* (EC2 names), region by region; *mode* is api or bulk."""
    for region in settings.regions:
        yield from _price_lists(settings, mode, region, types)
        if mode == "api":
            yield from _ec2_only(settings, region, types)


def _price_lists(settings: PricesSettings, mode: str, region: str, types: tuple[str, ...]) -> Iterator[Unit]:
    from accelbench_assets.pricing.aws.bulk import SERVICE, fetch_price_file, fetch_savings_file
    from accelbench_assets.pricing.aws.products import fetch_products
    from accelbench_assets.pricing.aws.savings import fetch_savings

    for provider, listed in ((AWS, (ON_DEMAND, *RESERVED)), (SAGEMAKER, (ON_DEMAND,))):
        names = types if provider == AWS else tuple(f"ml.{name}" for name in types)

        def prices(at: datetime, provider: str = provider, names: tuple[str, ...] = names) -> Reading:
            common: dict[str, Any] = {"at": at, "timeout_s": settings.timeout_s}
            if mode == "api":
                return fetch_products(SERVICE[provider], region, names, **common)
            return fetch_price_file(provider, region, names, base_url=settings.bulk_url, **common)

        def savings(at: datetime, provider: str = provider, names: tuple[str, ...] = names) -> Reading:
            common: dict[str, Any] = {"at": at, "timeout_s": settings.timeout_s}
            if mode == "api":
                return fetch_savings(provider, region, names, **common)
            return fetch_savings_file(provider, region, names, base_url=settings.bulk_url, **common)

        said = {tier: f"not on the {spoken(tier)} price list of {region}" for tier in (*listed, *SAVINGS)}
        yield Unit(provider, region, listed, "price list", names, said, prices)
        yield Unit(provider, region, SAVINGS, "savings plans", names, said, savings)


def _ec2_only(settings: PricesSettings, region: str, types: tuple[str, ...]) -> Iterator[Unit]:
    from accelbench_assets.pricing.aws.blocks import fetch_blocks
    from accelbench_assets.pricing.aws.spot import fetch_spot

    def spot(at: datetime) -> Reading:
        return fetch_spot(region, types, at=at, timeout_s=settings.timeout_s)

    def blocks(at: datetime) -> Reading:
        return fetch_blocks(region, types, hours=settings.block_hours, at=at, timeout_s=settings.timeout_s)

    none = {SPOT: f"no spot price was quoted in {region} in 30 days"}
    yield Unit(AWS, region, (SPOT,), "spot", types, none, spot)
    none = {CAPACITY_BLOCK: f"no capacity block is offered in {region}"}
    yield Unit(AWS, region, (CAPACITY_BLOCK,), "capacity blocks", types, none, blocks)
