"""The largest load a server carries within an objective: which point to measure next, and what was found (rule M23).

Belongs here: the order of points (closed ladder, bisection, open-loop confirmation), the test a point has to pass, the
names of objectives. Does not belong here: measuring a point (``run``), intervals and verdicts of a run.

A closed ladder C = 1, 2, 4, … goes on until throughput gains less than 5 % twice, the objective is missed, or more
than 1 % of the requests fail. Bisection then finds, to 5 % or one user, the knee: the fewest users who draw at least
95 % of the best throughput within the objective. The open loop confirms shares of that throughput, and bisects to 5 %
between the highest rate that passes and the next that does not. The published capacity is the highest rate that passed.
Every answer depends on the points alone, so the same points always lead to the same next one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.plan import PlanError, Step

GAIN = 0.05  # less than this more throughput is no gain; also the width to which is bisected
ERROR_SHARE = 0.01
ACHIEVED_SHARE = 0.99
FRACTIONS = (0.5, 0.7, 0.8, 0.9, 0.95)
MAX_CONCURRENCY = 4096
_SMALLEST_FRACTION = 0.1  # of the closed loop's throughput: below it no rate is tried
TIERS: dict[str, tuple[float | None, float | None]] = {  # TTFT and TPOT in ms, both by 99 % of the requests
    "interactive": (500.0, 30.0),
    "chat": (1000.0, 50.0),
    "server": (2000.0, 100.0),
    "batch": (None, None),
}
_CLAUSES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
_QUANTILE = 0.99


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point. ``requests_per_s``: answers completed in the window; ``attainment``: share of the requests
    due in it that met the objective; ``achieved``: sent over due; ``stable``: the backlog did not grow (M24)."""

    kind: str
    load_kind: str
    load_value: float
    requests_per_s: float
    attainment: float
    error_rate: float
    passed: bool
    achieved: float = 1.0
    stable: bool = True


def point(
    step: Step,
    slo: Mapping[str, Any],
    *,
    requests_per_s: float,
    attainment: float,
    error_rate: float,
    achieved: float = 1.0,
    stable: bool = True,
) -> Point:
    """The point that *step* measured, with its verdict."""
    passed = attainment >= slo["quantile"] and error_rate <= ERROR_SHARE
    if step.load_kind == "open":
        passed = passed and achieved >= ACHIEVED_SHARE and stable
    facts = (requests_per_s, attainment, error_rate, passed, achieved, stable)
    return Point(step.kind, step.load_kind, step.load_value, *facts)


class Search:
    """Decides by the points measured so far. *pattern* gives every step its times; its load does not matter."""

    def __init__(
        self,
        pattern: Step,
        slo: Mapping[str, Any],
        *,
        arrival: str = "poisson",
        fractions: Sequence[float] = FRACTIONS,
        max_concurrency: int = MAX_CONCURRENCY,
    ) -> None:
        self.slo = {"quantile": _QUANTILE, **slo}
        self._pattern, self._arrival, self._most = pattern, arrival, max_concurrency
        self._fractions = sorted(set(fractions))

    def next(self, points: Sequence[Point]) -> Step | None:
        """The step to measure after *points*, in their order; ``None``: the search is over."""
        closed = {int(p.load_value): p for p in points if p.load_kind == "closed"}
        found = self._next_users(closed)
        if found is not None:
            return self._step(len(points), found[1], "closed", found[0], "none")
        if not (best := _best(closed)):
            return None
        tried = {p.load_value: p for p in points if p.load_kind == "open"}
        rate = self._next_rate(tried, best)
        return None if rate is None else self._step(len(points), rate[1], "open", rate[0], self._arrival)

    def result(self, points: Sequence[Point], stopped: str | None = None) -> dict[str, Any]:
        """What *points* say, for ``shard.json``; *stopped* is why the search did not come to its end."""
        closed = {int(p.load_value): p for p in points if p.load_kind == "closed"}
        confirmed = max(
            (p for p in points if p.load_kind == "open" and p.passed),
            key=lambda p: p.load_value,
            default=None,
        )
        best = _best(closed)
        status, reason = "confirmed", None
        if stopped is not None:
            status = "incomplete"
            reason = f"The search ended before it was done: {stopped}. Its points are kept."
        elif not best:
            status, reason = "not_met", "One user at a time already misses the objective."
        elif confirmed is None:
            status = "unconfirmed"
            reason = "No rate of the open loop met the objective, though the closed loop did."
        elif max(closed) >= self._most and closed[max(closed)].passed and not self._levelled(_ladder(closed)):
            reason = f"Throughput still grew at {self._most} users, the most that were tried."
        return {
            "status": status,
            "reason": reason,
            "knee_concurrency": _knee(closed, best) if best else None,
            "closed_requests_per_s": best or None,
            "capacity_requests_per_s": confirmed.load_value if confirmed else None,
            "confirmed_requests_per_s": confirmed.requests_per_s if confirmed else None,
            "slo": self.slo,
            "points": [dataclasses.asdict(p) for p in points],
        }

    def _next_users(self, closed: Mapping[int, Point]) -> tuple[int, str] | None:
        users, ladder = 1, dict[int, Point]()
        while users in closed:
            ladder[users] = closed[users]
            if not closed[users].passed or self._levelled(ladder) or users >= self._most:
                break
            users = min(2 * users, self._most)
        else:
            return users, "ladder"
        if not (best := _best(closed)):
            return None
        top = max(users for users, p in closed.items() if p.passed)
        above = min((users for users, p in closed.items() if users > top), default=None)
        if above is not None and closed[above].requests_per_s > best * (1 + GAIN) and _wide(top, above):
            return (top + above) // 2, "bisect"  # more users would draw more: the objective is what limits
        knee = _knee(closed, best)
        below = max((users for users in closed if users < knee), default=knee)
        return ((below + knee) // 2, "bisect") if _wide(below, knee) else None

    @staticmethod
    def _levelled(ladder: Mapping[int, Point]) -> bool:
        rates = [ladder[users].requests_per_s for users in sorted(ladder)][-3:]
        return len(rates) == 3 and all(b < a * (1 + GAIN) for a, b in itertools.pairwise(rates))

    def _next_rate(self, tried: Mapping[float, Point], best: float) -> tuple[float, str] | None:
        for fraction in self._fractions:
            if (rate := _rounded(fraction * best)) not in tried:
                return rate, "confirm"
        low = max((rate for rate, p in tried.items() if p.passed), default=0.0)
        high = min((rate for rate in tried if rate > low), default=None)
        if high is None or high <= low * (1 + GAIN) or high <= _SMALLEST_FRACTION * best:
            return None
        rate = _rounded((low + high) / 2)
        return None if rate in tried else (rate, "bisect")

    def _step(self, index: int, kind: str, load_kind: str, value: float, arrival: str) -> Step:
        pattern = self._pattern
        limit = min(pattern.warmup_max_s, max(2 * pattern.window_s, 4 * pattern.warmup_s))
        return dataclasses.replace(
            pattern,
            step_index=index,
            kind=kind,
            load_kind=load_kind,
            load_value=float(value),
            arrival=arrival,
            warmup_max_s=limit,  # an overloaded point never settles, and must not cost ten minutes
        )


def _ladder(closed: Mapping[int, Point]) -> dict[int, Point]:
    """The points of the ladder itself, without those of the bisection."""
    return {users: one for users, one in closed.items() if one.kind == "ladder"}


def _best(closed: Mapping[int, Point]) -> float:
    return max((p.requests_per_s for p in closed.values() if p.passed), default=0.0)


def _knee(closed: Mapping[int, Point], best: float) -> int:
    return min(users for users, p in closed.items() if p.passed and p.requests_per_s >= (1 - GAIN) * best)


def _wide(low: int, high: int) -> bool:
    return high - low > 1 and high > low * (1 + GAIN)


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def parse_slo(text: str) -> dict[str, float | None]:
    """An objective from its name (``chat``) or its clauses (``ttft=1000,tpot=50,e2e=9000@0.95``, in ms).

    ``@`` gives the share of requests that has to meet all clauses, 0.99 where it is left out. Raises ``PlanError``.
    """
    clauses, _, share = text.strip().partition("@")
    slo: dict[str, float | None] = {"ttft_ms": None, "tpot_ms": None, "e2e_ms": None}
    slo["quantile"] = _positive(share, text, most=1.0) if share else _QUANTILE
    if clauses in TIERS:
        slo["ttft_ms"], slo["tpot_ms"] = TIERS[clauses]
        return slo
    for clause in clauses.split(","):
        name, equals, value = clause.strip().partition("=")
        if name not in _CLAUSES or not equals:
            raise PlanError(
                f"slo: {clause.strip()!r} is neither one of {', '.join(TIERS)} nor of the form ttft=1000 "
                "(ttft, tpot or e2e, in milliseconds)"
            )
        slo[_CLAUSES[name]] = _positive(value, text)
    return slo


def _positive(value: str, text: str, most: float = float("inf")) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not (0 < number <= most and number < float("inf")):
        limit = f" and at most {most:g}" if most < float("inf") else ""
        raise PlanError(f"slo: {value!r} in {text!r} must be a number above 0{limit}")
    return number
