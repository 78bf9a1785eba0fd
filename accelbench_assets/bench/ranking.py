"""Which of many configurations are best. Rule S8.

Belongs here: Benjamini-Hochberg over a catalogue, the set of the best. Does not belong here: which results may rank
(``sql/marts``), the test of one pair (``regression``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FALSE_DISCOVERY_RATE = 0.10
Interval = tuple[float, float]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the order given: what is at most 0.10 is a discovery at a false discovery rate of 10 %
    (Benjamini and Hochberg, 1995)."""
    count = len(p_values)
    adjusted = [0.0] * count
    least = 1.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__, reverse=True)):
        least = min(least, p_values[index] * count / (count - rank))
        adjusted[index] = least
    return adjusted


def best_set(intervals: Mapping[str, Interval | None], *, lower_is_better: bool = False) -> list[str]:
    """The leader and everything that its interval does not tell from it, best first.

    *intervals* are those of the ranking metric by configuration; one without an interval (``None``) is in no set. The
    leader has the best middle of its interval; ties and order are by middle, then name.
    """
    known = {name: interval for name, interval in intervals.items() if interval is not None}
    sign = 1.0 if lower_is_better else -1.0
    order = sorted(known, key=lambda name: (sign * sum(known[name]), name))
    if not order:
        return []
    low, high = known[order[0]]
    return [name for name in order if known[name][0] <= high and known[name][1] >= low]
