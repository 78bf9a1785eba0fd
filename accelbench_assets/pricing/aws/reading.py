"""What reading an answer gives: points, and what in it could not be understood.

Belongs here: the two collections every reader returns, and the error of a source that cannot be asked.
Does not belong here: reading any particular answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.pricing.points import AWS, SAGEMAKER, Group, Point
from accelbench_assets.pricing.raw import RawAnswer


class PriceSourceError(AccelBenchError):
    """A source of prices could not be asked or answered nonsense; names the source, never a credential."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every point of one answer carries: when it was asked, who answered, the hash of the answer."""

    fetched_at: datetime
    source: str
    sha256: str

    def fields(self, provider: str = AWS) -> dict[str, Any]:
        """As columns of a point of *provider*.

        An endpoint of SageMaker has no tenancy, as in the packaged file: else the packaged price and the asked one of a
        type would be two prices that are never compared.
        """
        asked = {"fetched_at": self.fetched_at, "source": self.source, "source_sha256": self.sha256}
        return {**asked, "tenancy": None} if provider == SAGEMAKER else asked


@dataclass
class Reading:
    """Points, and the groups whose prices were there but could not be read: those keep what was known.

    ``odd`` are terms of a kind that is not known here (a new plan, a new payment); they are passed over and told.
    ``sold_out`` is set where the source said in so many words that nothing is on offer; no points alone say no such
    thing.
    """

    points: list[Point] = field(default_factory=list)
    unread: dict[Group, str] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    raw: list[RawAnswer] = field(default_factory=list)
    sold_out: bool = False

    @property
    def priced(self) -> int:
        """Number of points with a price."""
        return sum(p.effective_usd_per_hour is not None for p in self.points)

    def refuse(self, group: Group, problem: str) -> None:
        """Note that *group* cannot be read; the first problem is kept."""
        self.unread.setdefault(group, problem)

    def settle(self) -> Reading:
        """Drop the points of groups that could not be read: half an answer is none."""
        self.points = [p for p in self.points if p.group not in self.unread]
        return self

    def drop(self, tiers: Collection[str]) -> None:
        """Take out the points of *tiers* that are not believed; what was known of them stands."""
        self.points = [p for p in self.points if p.tier not in tiers]

    def add_missing(self, groups: Iterable[Group], reasons: Mapping[str, str], stamp: Stamp) -> None:
        """A row with the reason of its tier for every one of *groups* that the answer has no price of."""
        known = {p.group for p in self.points} | self.unread.keys()
        self.points += [
            Point(*group, missing_reason=reasons[group.tier], **stamp.fields(group.provider))
            for group in groups
            if group not in known
        ]


def mapping(value: object) -> Mapping[str, Any]:
    """*value* if it is a JSON object, else an empty one: a missing field and a field of the wrong kind are alike."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """*value* if it is text, without blanks around it, else empty."""
    return value.strip() if isinstance(value, str) else ""
