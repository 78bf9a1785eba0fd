"""What may be asked for prices, and how: the effective settings of pricing.

Belongs here: the options with their defaults and limits, and the units of asking that follow from them.
Does not belong here: asking (``refresh``, ``aws``).

A unit is one question that succeeds or fails by itself: the price list of one region, its spot history, and so on.
What a failed unit would have told stays as it was known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from accelbench_assets.errors import UsageError
from accelbench_assets.pricing.aws.reading import Reading

REGIONS = (
    *("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-1", "eu-north-1"),
    *("ap-northeast-1", "ap-southeast-2", "ap-south-1"),
)
"""Nine regions where AWS rents accelerators of several families."""
MODES = ("off", "auto", "api", "bulk")


@dataclass(frozen=True, slots=True)
class Sources:
    """What the daily snapshot asks. Nothing leaves this machine unless it is switched on.

    ``aws`` is off (ask nothing), api (needs credentials), bulk (public files), or auto: the API where there are
    credentials, else the files. A source asked within ``max_age_h`` hours is not asked again; ``timeout_s`` bounds
    each wait for an answer, ``block_hours`` are the lengths of capacity blocks that are asked about.
    """

    aws: str = "off"
    regions: tuple[str, ...] = REGIONS
    max_age_h: float = 20.0
    timeout_s: float = 30.0
    block_hours: tuple[int, ...] = (24,)
    bulk_url: str = "https://pricing.us-east-1.amazonaws.com"

    def __post_init__(self) -> None:
        if self.aws not in MODES:
            raise UsageError(f"prices.aws: {self.aws!r} is not one of {', '.join(MODES)}.")
        if not self.regions:
            raise UsageError("prices.regions: name at least one region.")

    @classmethod
    def of(cls, settings: object) -> Sources:
        """The group ``prices`` of the settings; the defaults where there is none."""
        group = getattr(settings, "prices", None)
        names = {field.name for field in fields(cls)}
        return cls(**{name: getattr(group, name) for name in names if hasattr(group, name)})


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


def aws_units(sources: Sources, mode: str, types: tuple[str, ...]) -> Iterator[Unit]:
    """The questions to AWS for *types* (EC2 names), region by region; *mode* is api or bulk."""
    for region in sources.regions:
        yield from _price_lists(sources, mode, region, types)
        if mode == "api":
            yield from _ec2_only(sources, region, types)


def _price_lists(sources: Sources, mode: str, region: str, types: tuple[str, ...]) -> Iterator[Unit]:
    from accelbench_assets.pricing.aws.bulk import SERVICE, fetch_price_file, fetch_savings_file
    from accelbench_assets.pricing.aws.products import fetch_products
    from accelbench_assets.pricing.aws.savings import fetch_savings
    from accelbench_assets.pricing.points import AWS, ON_DEMAND, RESERVED, SAGEMAKER, SAVINGS

    for provider, listed in ((AWS, (ON_DEMAND, *RESERVED)), (SAGEMAKER, (ON_DEMAND,))):
        names = types if provider == AWS else tuple(f"ml.{name}" for name in types)

        def prices(at: datetime, provider: str = provider, names: tuple[str, ...] = names) -> Reading:
            common: dict[str, Any] = {"at": at, "timeout_s": sources.timeout_s}
            if mode == "api":
                return fetch_products(SERVICE[provider], region, names, **common)
            return fetch_price_file(provider, region, names, base_url=sources.bulk_url, **common)

        def savings(at: datetime, provider: str = provider, names: tuple[str, ...] = names) -> Reading:
            common: dict[str, Any] = {"at": at, "timeout_s": sources.timeout_s}
            if mode == "api":
                return fetch_savings(provider, region, names, **common)
            return fetch_savings_file(provider, region, names, base_url=sources.bulk_url, **common)

        said = {tier: f"not on the {_spoken(tier)} price list of {region}" for tier in (*listed, *SAVINGS)}
        yield Unit(provider, region, listed, "price list", names, said, prices)
        yield Unit(provider, region, SAVINGS, "savings plans", names, said, savings)


def _ec2_only(sources: Sources, region: str, types: tuple[str, ...]) -> Iterator[Unit]:
    from accelbench_assets.pricing.aws.blocks import fetch_blocks
    from accelbench_assets.pricing.aws.spot import fetch_spot
    from accelbench_assets.pricing.points import AWS, CAPACITY_BLOCK, SPOT

    def spot(at: datetime) -> Reading:
        return fetch_spot(region, types, at=at, timeout_s=sources.timeout_s)

    def blocks(at: datetime) -> Reading:
        return fetch_blocks(region, types, hours=sources.block_hours, at=at, timeout_s=sources.timeout_s)

    none = {SPOT: f"no spot price was quoted in {region} in 30 days"}
    yield Unit(AWS, region, (SPOT,), "spot", types, none, spot)
    none = {CAPACITY_BLOCK: f"no capacity block is offered in {region}"}
    yield Unit(AWS, region, (CAPACITY_BLOCK,), "capacity blocks", types, none, blocks)


def _spoken(tier: str) -> str:
    return tier.replace("_", "-") if tier == "on_demand" else tier.replace("_", " ")
