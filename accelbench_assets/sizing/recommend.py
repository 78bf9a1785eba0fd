"""What to rent: every instance's best option, priced and put in order; what does not serve, and why.

Belongs here: the ranking by cost at the objective, and what is left out of it. Does not belong here: reading the lake
(``measured``), the arithmetic in words (``explain``), cost itself (``money``).

Measured rows and estimates are two lists, each in its own order, and never mixed. Without a price an option has no
cost, says why, and comes after all that have one. Everything is a pure function of the ask, the prices and what was
measured: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accelbench_assets.sizing.ask import Ask, find_instances
from accelbench_assets.sizing.calibrate import NOTHING_MEASURED, Calibration
from accelbench_assets.sizing.fit import Misfit, Option, Sizer, Tried
from accelbench_assets.sizing.money import Cost, Prices, cost_of, order_of, over_budget
from accelbench_assets.sizing.remedies import Adviser, Remedy


@dataclass(frozen=True, slots=True)
class Ranked:
    """An option with its cost; ``place`` counts from 1."""

    place: int
    option: Option
    cost: Cost


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An instance that does not serve the ask: a misfit's code, or ``over_budget``, and the nearest remedies."""

    instance_type: str
    code: str
    text: str
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: estimates in order, what is left out in catalog order, and every way that was tried."""

    ask: Ask
    estimated: tuple[Ranked, ...]
    left_out: tuple[LeftOut, ...]
    tried: tuple[Tried, ...] = field(repr=False)


def ranked(tried: Sequence[Tried], ask: Ask, prices: Prices) -> list[tuple[Option, Cost]]:
    """The options of *tried* in order of cost; equal cost keeps the order of the catalog."""
    found = []
    for one in tried:
        if (option := one.option) is not None:
            price = prices(option.instance.instance_type)
            cost = cost_of(price, option.requests_per_s, ask.isl, ask.osl, ask.rps, option.replicas)
            found.append((option, cost))
    return sorted(found, key=lambda pair: order_of(pair[1], ask.rps))


def recommend(ask: Ask, prices: Prices, calibration: Calibration = NOTHING_MEASURED) -> Recommendation:
    """Every instance of *ask* ranked, or left out with its reason and the nearest two remedies."""
    sizer = Sizer(ask, calibration)
    tried = tuple(sizer.on(instance) for instance in ask.instances)
    placed: list[Ranked] = []
    reasons: dict[str, tuple[str, str]] = {}
    for option, cost in ranked(tried, ask, prices):
        if (text := over_budget(cost, ask)) is None:
            placed.append(Ranked(len(placed) + 1, option, cost))
        else:
            reasons[option.instance.instance_type] = ("over_budget", text)
    # Remedies look beyond the instances that were asked for.
    whole = ask.instances == find_instances(None)
    needed = reasons or any(one.option is None for one in tried)
    elsewhere = tried if whole or not needed else tuple(sizer.on(row) for row in find_instances(None))
    adviser = Adviser(sizer, ranked(elsewhere, ask, prices), prices)
    left_out = []
    for one in tried:
        name = one.instance.instance_type
        if one.option is None:
            misfit: Misfit = one.reason
            left_out.append(LeftOut(name, misfit.code, misfit.text, adviser.after_misfit(one)))
        elif name in reasons:
            code, text = reasons[name]
            left_out.append(LeftOut(name, code, text, adviser.after_budget(one.option)))
    return Recommendation(ask, tuple(placed), tuple(left_out), tried)
