"""What an option costs: an hour, a request, a million tokens, a month at a request rate.

Belongs here: joining a price with a rate, replicas and instances for a request rate, the monthly limit. Does not belong
here: prices (``pricing``), the formulas per token (``pricing.cost``), ranking (``recommend``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from accelbench_assets.pricing.cost import usd_per_1m_output_full_hour, usd_per_1m_total, usd_per_request
from accelbench_assets.sizing.ask import HEADROOM, HOURS_PER_MONTH, Ask


@dataclass(frozen=True, slots=True)
class Price:
    """USD an hour of one instance, or why there is none; with its day, source and how it is paid."""

    usd_per_hour: Decimal | None
    missing_reason: str | None
    as_of: str
    source: str
    terms: str = "on demand"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a deployment costs at its rate. USD; null fields have ``missing_reason`` or no request rate.

    ``usd_per_hour`` is of one instance. ``usd_per_1m_output`` recovers the whole hour from output tokens alone;
    ``usd_per_1m_total`` from all tokens. ``instances`` and ``replicas`` carry ``rps`` with a quarter to spare, in whole
    deployments; ``usd_per_month`` is 730 hours of them (of one deployment where no rate was asked for).
    """

    usd_per_hour: Decimal | None
    missing_reason: str | None
    price_as_of: str
    price_terms: str
    instances: int
    replicas: int
    usd_per_request: float | None
    usd_per_1m_output: float | None
    usd_per_1m_total: float | None
    usd_per_month: float | None


Prices = Callable[[str], Price]


def units_needed(rps: float, requests_per_s: float) -> int:
    """How many units of *requests_per_s* each carry *rps* with a quarter to spare; at least 1."""
    return max(1, math.ceil(rps / (HEADROOM * requests_per_s) - 1e-9))


def cost_of(
    price: Price,
    requests_per_s: float,
    isl: float,
    osl: float,
    rps: float | None,
    replicas: int,
    *,
    instances: int = 1,
) -> Cost:
    """The cost of a deployment of *instances* that does *requests_per_s* with *replicas*, at *rps* if given.

    Deployments are bought whole; of an instance's replicas only those needed are counted.
    """
    units, needed = 1, replicas
    if rps is not None:
        units = units_needed(rps, requests_per_s)
        needed = units_needed(rps, requests_per_s / replicas) if instances == 1 else units * replicas
    each = None if price.usd_per_hour is None else float(price.usd_per_hour)
    hour = None if each is None else each * instances
    return Cost(
        usd_per_hour=price.usd_per_hour,
        missing_reason=price.missing_reason,
        price_as_of=price.as_of,
        price_terms=price.terms,
        instances=units * instances,
        replicas=needed,
        usd_per_request=None if hour is None else usd_per_request(hour, requests_per_s),
        usd_per_1m_output=None if hour is None else usd_per_1m_output_full_hour(hour, requests_per_s * osl),
        usd_per_1m_total=None
        if hour is None
        else usd_per_1m_total(hour, requests_per_s * isl, requests_per_s * osl),
        usd_per_month=None if each is None else HOURS_PER_MONTH * each * (units * instances),
    )


def order_of(cost: Cost, rps: float | None) -> tuple[bool, float, float]:
    """The sort key: priced first; by the month at a request rate, then by what a request costs."""
    if cost.usd_per_month is None or cost.usd_per_request is None:
        return True, 0.0, 0.0
    return False, cost.usd_per_month if rps is not None else 0.0, cost.usd_per_request


def over_budget(cost: Cost, ask: Ask) -> str | None:
    """Why *cost* is beyond the monthly limit; None within it, or without a limit. An unknown price is not within."""
    if ask.max_usd_per_month is None:
        return None
    if cost.usd_per_month is None:
        return f"no price to hold against the limit: {cost.missing_reason}"
    if cost.usd_per_month <= ask.max_usd_per_month:
        return None
    many = f"{cost.instances} instances" if cost.instances > 1 else "one instance"
    verb = "cost" if cost.instances > 1 else "costs"
    return f"{many} {verb} USD {cost.usd_per_month:,.2f} a month, over {ask.max_usd_per_month:,.2f}"
