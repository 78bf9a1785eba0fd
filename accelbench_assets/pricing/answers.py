"""Whether an answer may be believed as a whole: one that lacks what was known a day ago is no answer.

Belongs here: the count of prices before and after, tier by tier, and the verdict. Pure.
Does not belong here: single prices (``plausible``, ``sanity``), what follows from a verdict (``refresh``).

A source that renames a filter value or a field gives a valid answer with nothing in it. Taken at its word it would say
that nothing is sold. So each tier of a unit is held against what stood before it:

* no price at all where some were known: failed;
* more than half of the known prices gone: failed;
* no price of any type asked about, where nobody ever got an answer: failed. An earlier answer that said the same, and
  was believed, is enough to believe it again;
* what an answer lacks altogether is not believed either where another tier of the same answer failed.

Capacity blocks are stock, not a list: a source that says in so many words that none is on offer is believed, and one
that offers fewer than yesterday too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from accelbench_assets.pricing.aws.reading import Reading
from accelbench_assets.pricing.points import CAPACITY_BLOCK, Group, Point, spoken
from accelbench_assets.pricing.sources import Unit

MOST_LOST = Decimal("0.5")
"""Share of a tier's known prices that may be gone from one answer to the next. AWS retires a family at a time, and no
family is half of what is sold; a renamed field takes most or all."""


def groups_of(unit: Unit) -> list[Group]:
    """Everything *unit* asks about, tier by tier."""
    return [Group(unit.provider, unit.region, name, tier) for tier in unit.tiers for name in unit.wanted]


def failed_tiers(unit: Unit, reading: Reading, standing: Sequence[Point]) -> dict[str, str]:
    """Tier -> why the answer is not believed for it, in words; *standing* are the rows that hold without it.

    Groups that could not be read are left out of the count: they keep what was known anyway.
    """
    asked = set(groups_of(unit)) - reading.unread.keys()
    before, now = _counted(standing, asked), _counted(reading.points, asked)
    answered = {p.tier for p in standing if p.group in asked and p.fetched_at is not None}
    answered |= {group.tier for group in reading.unread}
    failed: dict[str, str] = {}
    empty = []
    for tier in unit.tiers:
        had = {group: n for group, n in before.items() if group.tier == tier}
        has = {group: n for group, n in now.items() if group.tier == tier}
        known, said = sum(had.values()), spoken(tier)
        if not has:
            empty.append(tier)
            if tier == CAPACITY_BLOCK and (reading.sold_out or not known):
                continue
            if known:
                failed[tier] = f"the answer has no {said} price where {known} were known"
            elif tier not in answered:
                failed[tier] = (
                    f"the answer has no {said} price of any of the {len(unit.wanted)} types asked about"
                )
        elif tier != CAPACITY_BLOCK:
            lost = sum(max(0, n - has.get(group, 0)) for group, n in had.items())
            if lost > MOST_LOST * known:
                failed[tier] = f"the answer lacks {lost} of {known} known {said} prices"
    if failed:
        for tier in empty:
            failed.setdefault(tier, f"the answer has no {spoken(tier)} price and is not believed")
    return failed


def _counted(points: Iterable[Point], groups: set[Group]) -> Counter[Group]:
    return Counter(p.group for p in points if p.group in groups and p.effective_usd_per_hour is not None)
