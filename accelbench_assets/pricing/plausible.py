"""Prices that nobody would believe: far from the same machine elsewhere, or from its own on-demand price.

Belongs here: the bounds with their reasons, the reference each price is held against, the words. Pure.
Does not belong here: prices that cannot be at all, jumps from day to day (``sanity``), what becomes of a price that is
not believed (``merge.blanked``).

* On demand: the median of the same type's price in other regions and in the package.
* Spot, commitments, capacity blocks: the on-demand price of the same type and region; without a believed one the
  median of other regions, with the bounds widened by as much as regions may differ.
* Everything, and alone what has no such reference: USD per hour of one accelerator.

Two prices that contradict each other with no third to settle it are both not believed. Packaged prices are facts that
were looked at; they serve as references and are not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import NamedTuple

from accelbench_assets.pricing.points import (
    AWS,
    CAPACITY_BLOCK,
    ON_DEMAND,
    RESERVED,
    SAGEMAKER,
    SAVINGS,
    SPOT,
    Point,
    plain,
)
from partitions.catalog import load_instances

SAGEMAKER_PREFIX = "ml."


class Span(NamedTuple):
    """Least and most of what is believed, as a share of the reference."""

    low: Decimal
    high: Decimal

    def __str__(self) -> str:
        return f"{plain(self.low)} to {plain(self.high)}"

    def times(self, other: Span) -> Span:
        """Bounds of a product."""
        return Span(self.low * other.low, self.high * other.high)


REGIONAL = Span(Decimal("0.4"), Decimal("2.5"))
"""On demand against the median elsewhere. Regions of one type differ by less than a factor of two, and the largest cut
of a GPU type's list price that AWS announced (45 %) reaches regions and the package on different days."""
OF_ON_DEMAND = {
    # Spot never costs more than on demand, and AWS says of it "up to 90 % off".
    SPOT: Span(Decimal("0.02"), Decimal(1)),
    # "Up to 72 % off"; a commitment a little above a list price that was just cut is told by `sanity.at_odds`.
    **dict.fromkeys((*RESERVED, *SAVINGS), Span(Decimal("0.2"), Decimal("1.2"))),
    # Follows demand, but it is bought ahead and whole, so nobody pays a multiple of the price by the hour.
    CAPACITY_BLOCK: Span(Decimal("0.1"), Decimal(2)),
}
PER_ACCELERATOR = Span(Decimal("0.05"), Decimal(100))
"""USD per accelerator-hour on demand. The cheapest chip rented is near 0.2, the dearest below 20 in its home region."""
MOST_ACCELERATORS = 16
"""In one instance: the upper bound for a type whose count is not known here."""


@dataclass
class _Lists:
    """On-demand prices by machine (provider, type) and region, as they hold; ``doubted`` are positions left out."""

    held: dict[tuple[str, str], dict[str, tuple[int, Decimal]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    packaged: dict[tuple[str, str], list[tuple[str, Decimal]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    trusted: set[int] = field(default_factory=set)
    doubted: set[int] = field(default_factory=set)

    def reference(self, point: Point) -> tuple[Decimal, str] | None:
        """The median price of the point's machine elsewhere, and of how many; ``None`` without any."""
        machine = (point.provider, point.instance_type)
        elsewhere = {r: one for r, one in self.held.get(machine, {}).items() if r != point.region}
        regions = [price for place, price in elsewhere.values() if place not in self.doubted]
        package = [
            price
            for region, price in self.packaged.get(machine, ())
            if region not in elsewhere or elsewhere[region][0] not in self.trusted  # else counted as a region
        ]
        if not regions and not package:
            return None
        if len(regions) + len(package) == 1:
            (only,) = (*regions, *package)
            return only, "the price in one other region" if regions else "the packaged price"
        said = [f"{len(regions)} other region{'s' * (len(regions) != 1)}"] if regions else []
        said += ["the package"] if package else []
        return median([*regions, *package]), f"the median of {' and '.join(said)}"

    def own(self, point: Point, provider: str, name: str) -> Decimal | None:
        """The believed on-demand price of a machine in the point's region."""
        place, price = self.held.get((provider, name), {}).get(point.region, (None, None))
        return None if place in self.doubted else price


def implausible(points: Sequence[Point], packaged: Collection[Point]) -> dict[int, str]:
    """Position -> why the price there is not believed, with the price itself in the words.

    *points* are all that hold on a day, *packaged* the package's own. Only AWS and SageMaker list prices are judged.
    """
    lists, facts = _Lists(), set(packaged)
    prices = {
        place: price
        for place, point in enumerate(points)
        if point.provider in (AWS, SAGEMAKER)
        and (point.tier == ON_DEMAND or point.tier in OF_ON_DEMAND)
        and (price := point.effective_usd_per_hour) is not None
    }
    for fact in facts:
        if fact.tier == ON_DEMAND and fact.effective_usd_per_hour is not None:
            machine = (fact.provider, fact.instance_type)
            lists.packaged[machine].append((fact.region, fact.effective_usd_per_hour))
    found: dict[int, str] = {}
    for place, price in prices.items():
        point = points[place]
        if point.tier == ON_DEMAND and point in facts:
            lists.trusted.add(place)
        elif problem := _per_accelerator(point, price):
            found[place] = problem
            continue
        if point.tier == ON_DEMAND:
            lists.held[point.provider, point.instance_type][point.region] = (place, price)
    rest = {
        place: price for place, price in prices.items() if place not in found and place not in lists.trusted
    }
    on_demand = {place: price for place, price in rest.items() if points[place].tier == ON_DEMAND}
    found |= _settled(points, on_demand, lists)
    for place in found.keys() - on_demand.keys():  # a comparison says more than a bound
        if points[place].tier == ON_DEMAND:
            found |= dict(_out_of_bounds(points, {place: prices[place]}, lists))
    for place, price in rest.items():
        if place not in on_demand and (problem := _against_on_demand(points[place], price, lists)):
            found[place] = problem
    return found


def _settled(points: Sequence[Point], prices: dict[int, Decimal], lists: _Lists) -> dict[int, str]:
    """On-demand prices out of bounds. Judged twice, the second time without those that the first round doubts, so that
    one wrong price does not make its neighbours look wrong."""
    first = dict(_out_of_bounds(points, prices, lists))
    lists.doubted = set(first)
    second = dict(_out_of_bounds(points, prices, lists))
    for place, problem in first.items():
        if _reference(points[place], lists) is None:  # those who contradict each other, and nobody else
            second.setdefault(place, problem)
    lists.doubted = set(second)
    return second


def _out_of_bounds(
    points: Sequence[Point], prices: dict[int, Decimal], lists: _Lists
) -> Iterable[tuple[int, str]]:
    for place, price in prices.items():
        found = _reference(points[place], lists)
        if found is not None and (problem := _compared(points[place], price, *found, REGIONAL)):
            yield place, problem


def _reference(point: Point, lists: _Lists) -> tuple[Decimal, str] | None:
    """Elsewhere; for a SageMaker type that is priced nowhere else, its EC2 type in the region."""
    found = lists.reference(point)
    if found is None and point.provider == SAGEMAKER:
        base = lists.own(point, AWS, point.instance_type.removeprefix(SAGEMAKER_PREFIX))
        return None if base is None else (base, "the EC2 price in the region")
    return found


def _against_on_demand(point: Point, price: Decimal, lists: _Lists) -> str | None:
    span = OF_ON_DEMAND[point.tier]
    base = lists.own(point, point.provider, point.instance_type)
    if base is not None:
        return _compared(point, price, base, "the on-demand price in the region", span)
    found = lists.reference(point)
    if found is None:
        return None
    return _compared(point, price, found[0], f"{found[1]} on demand", span.times(REGIONAL))


def _per_accelerator(point: Point, price: Decimal) -> str | None:
    row = load_instances().get(point.instance_type.removeprefix(SAGEMAKER_PREFIX))
    least, most = (row.accelerator_count,) * 2 if row else (1, MOST_ACCELERATORS)
    span = PER_ACCELERATOR
    if point.tier in OF_ON_DEMAND:
        span = span.times(OF_ON_DEMAND[point.tier])
    if span.low * least <= price <= span.high * most:
        return None
    count = least if price < span.low * least else most
    return f"implausible: {_raw(point, price)} is {short(price / count)} USD an accelerator-hour ({span} is believed)"


def _compared(point: Point, price: Decimal, base: Decimal, of: str, span: Span) -> str | None:
    if span.low * base <= price <= span.high * base:
        return None
    ratio = f"{short(price / base)} of {plain(base)} USD/h, {of}"
    return f"implausible: {_raw(point, price)} is {ratio} ({span} is believed)"


def _raw(point: Point, price: Decimal) -> str:
    words = f"{plain(price)} USD/h"
    if point.upfront_usd:
        parts = f"{plain(point.usd_per_hour or Decimal(0))} USD/h and {plain(point.upfront_usd)} USD upfront"
        words += f" ({parts} for {point.term_hours:g} h)"
    return words


def short(value: Decimal) -> str:
    """Two significant digits, never in scientific notation: 0.0000018."""
    return plain(Decimal(f"{value:.1e}"))
