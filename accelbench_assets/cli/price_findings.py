"""What a refresh found and what two days of prices differ in, as rows and sentences.

Belongs here: the words of ``accelbench prices refresh`` and ``diff``. Does not belong here: the commands (``prices``),
the rules that find something (``pricing``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelbench_assets.pricing.points import Point
    from accelbench_assets.pricing.refresh import Report


def findings(report: Report) -> list[str]:
    """What somebody should look at, one sentence each; failed units and jumps are told elsewhere."""
    return [
        *(f"held back, cannot be: {one}" for one in report.impossible),
        *(f"no price, not believed: {one}" for one in report.implausible),
        *(f"at odds: {one}" for one in report.at_odds),
        *(f"vanished since the day before: {one}" for one in report.vanished),
    ]


def changes(before: Iterable[Point], after: Iterable[Point]) -> list[dict[str, Any]]:
    """Prices that moved, came, vanished or are no longer believed, in the order of their keys; ``says`` is the reason
    where there is no price any more.
    """
    from accelbench_assets.pricing.sanity import label

    old, new = {p.key: p for p in before}, {p.key: p for p in after}
    reasons = {p.group: p.missing_reason for p in new.values() if p.missing_reason is not None}
    rows = []
    for key in sorted({*old, *new}, key=lambda k: tuple(part or "" for part in k)):
        was, now = ((p.effective_usd_per_hour if p else None) for p in (old.get(key), new.get(key)))
        if was == now:
            continue
        point = new.get(key) or old[key]
        says = ""
        if now is None:
            says = point.missing_reason or reasons.get(point.group) or "no longer in the answer"
        gone = "implausible" if says.startswith("implausible") else "vanished"
        change = f"{(now / was - 1) * 100:+.2f} %" if was and now else "new" if now else gone
        rows.append(
            {"price": label(point), "was": exact(was), "is": exact(now), "change": change, "says": says}
        )
    return rows


def kept(before: Iterable[Point], after: Iterable[Point]) -> list[str]:
    """Asked prices of *after* that are still those of *before*, by provider, region and tier: nobody was asked
    since, or no answer was usable. Packaged facts and declared prices are never asked.
    """
    from accelbench_assets.pricing.points import DECLARED
    from accelbench_assets.pricing.providers import packaged_points

    old = {(p.key, p.fetched_at) for p in before if p.effective_usd_per_hour is not None}
    facts = {(p.source, p.fetched_at) for p in packaged_points()}
    stale = Counter(
        (p.fetched_at, p.provider, p.region, p.tier)
        for p in after
        if p.fetched_at is not None
        and p.tier != DECLARED
        and (p.key, p.fetched_at) in old
        and (p.source, p.fetched_at) not in facts
    )
    return [
        f"kept from {at:%Y-%m-%d %H:%M} UTC, no usable answer since: {number} price{'s' * (number != 1)} of "
        f"{provider} {region} {tier.replace('_', ' ')}"
        for (at, provider, region, tier), number in sorted(stale.items())
    ]


def exact(value: Decimal | None) -> str:
    """Prices are shown as they are, never rounded: 2.24208."""
    from accelbench_assets.pricing.points import plain

    return "-" if value is None else plain(value)
