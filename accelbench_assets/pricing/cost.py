"""What tokens and requests cost, from an hourly price and measured rates.

Belongs here: pure formulas. ``P`` is USD an hour for everything that serves, rates are per second at one
reporting point. Does not belong here: which price (``snapshot``), what an hour or a month costs (``fleet``), fits over
several workloads (``mix_fit``), which step (``sql/marts`` has the same formulas over tables; a test holds both to the
same golden figures).

A rate that is null or zero gives null: nothing was produced, so nothing has a price. Prices must be positive.
"""

from __future__ import annotations

from typing import NamedTuple

SECONDS_PER_HOUR = 3600.0
TOKENS = 1e6
OUTPUT_WEIGHT = 4.0  # w: one output token counts as this many uncached input tokens; a convention
CACHED_DISCOUNT = 0.1  # d: one cached input token counts as this share of an uncached one; a convention


class TokenSplit(NamedTuple):
    """USD per 10^6 tokens of each kind; together they recover the hour exactly once."""

    input: float
    cached_input: float
    output: float


def _per(usd_per_hour: float, units_per_s: float | None) -> float | None:
    if not usd_per_hour > 0:
        raise ValueError(f"usd_per_hour: {usd_per_hour!r} is not a positive price")
    if units_per_s is not None and units_per_s < 0:
        raise ValueError(f"a rate cannot be negative: {units_per_s!r}")
    return usd_per_hour / (SECONDS_PER_HOUR * units_per_s) if units_per_s else None


def _per_million(usd_per_hour: float, tokens_per_s: float | None) -> float | None:
    unit = _per(usd_per_hour, tokens_per_s)
    return None if unit is None else TOKENS * unit


def usd_per_request(usd_per_hour: float, requests_per_s: float | None) -> float | None:
    """``P / (3600 X)``: the primary figure, conserved whatever the split between tokens."""
    return _per(usd_per_hour, requests_per_s)


def usd_per_1m_total(
    usd_per_hour: float, input_tokens_per_s: float, output_tokens_per_s: float
) -> float | None:
    """``1e6 P / (3600 (X_in + X_out))``: only comparable at the same mix of input and output."""
    return _per_million(usd_per_hour, input_tokens_per_s + output_tokens_per_s)


def usd_per_1m_input_full_hour(usd_per_hour: float, input_tokens_per_s: float | None) -> float | None:
    """``1e6 P / (3600 X_in)``: the whole hour from input alone. Never add it to the output figure."""
    return _per_million(usd_per_hour, input_tokens_per_s)


def usd_per_1m_output_full_hour(usd_per_hour: float, output_tokens_per_s: float | None) -> float | None:
    """``1e6 P / (3600 X_out)``: the whole hour from output alone. Never add it to the input figure."""
    return _per_million(usd_per_hour, output_tokens_per_s)


def weighted_split(
    usd_per_hour: float,
    new_input_tokens_per_s: float,
    output_tokens_per_s: float,
    *,
    cached_input_tokens_per_s: float = 0.0,
    output_weight: float = OUTPUT_WEIGHT,
    cached_discount: float = CACHED_DISCOUNT,
) -> TokenSplit | None:
    """``c_in = 1e6 P / (3600 (X_new + d X_cached + w X_out))``, ``c_out = w c_in``, ``c_cached = d c_in``.

    Conserved for every weight: summed over the tokens of an hour it gives the hour's price, once.
    """
    weighted = (
        new_input_tokens_per_s
        + cached_discount * cached_input_tokens_per_s
        + output_weight * output_tokens_per_s
    )
    unit = _per_million(usd_per_hour, weighted)
    return None if unit is None else TokenSplit(unit, cached_discount * unit, output_weight * unit)


def prefill_busy_share(prefill_s: float, output_tokens: float, step_s: float, batch: float) -> float:
    """``phi = t_prefill / (t_prefill + N_out t_step(B) / B)``: the share of an engine's busy time spent on input.

    *prefill_s* is the time one request's input takes alone, *step_s* one decode step with *batch* requests in it.
    """
    if min(prefill_s, output_tokens, step_s) < 0 or not batch > 0:
        raise ValueError("times and tokens cannot be negative, and a batch holds more than no request")
    busy = prefill_s + output_tokens * step_s / batch
    if not busy > 0:
        raise ValueError("an engine that is never busy has no share of it")
    return prefill_s / busy


def busy_time_split(
    usd_per_hour: float, new_input_tokens_per_s: float, output_tokens_per_s: float, prefill_share: float
) -> TokenSplit | None:
    """``c_in = 1e6 phi P / (3600 X_new)``, ``c_out = 1e6 (1 - phi) P / (3600 X_out)``; cached input costs no time."""
    if not 0 <= prefill_share <= 1:
        raise ValueError(f"prefill_share: {prefill_share!r} is no share")
    whole_in = _per_million(usd_per_hour, new_input_tokens_per_s)
    whole_out = _per_million(usd_per_hour, output_tokens_per_s)
    if whole_in is None or whole_out is None:
        return None
    return TokenSplit(prefill_share * whole_in, 0.0, (1 - prefill_share) * whole_out)


def blended(split: TokenSplit, ratio: float = 3.0) -> float:
    """``(r c_in + c_out) / (r + 1)``, USD per 10^6 tokens at *ratio* input tokens an output token."""
    if ratio < 0:
        raise ValueError(f"ratio: {ratio!r} is negative")
    return (ratio * split.input + split.output) / (ratio + 1)


def utilised(cost: float | None, utilisation: float) -> float | None:
    """``c / u``: what a unit costs when only the share *utilisation* (above 0, at most 1) of the capacity is used."""
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation: {utilisation!r} is not above 0 and at most 1")
    return None if cost is None else cost / utilisation


def utilisation(requests_served: float, capacity_requests_per_s: float, billed_hours: float) -> float:
    """``served / (X_slo x billed hours x 3600)``."""
    if not capacity_requests_per_s > 0 or not billed_hours > 0 or requests_served < 0:
        raise ValueError("a utilisation needs a capacity and billed hours")
    return requests_served / (capacity_requests_per_s * billed_hours * SECONDS_PER_HOUR)


def request_interval(
    usd_per_hour: float, requests_per_s_low: float | None, requests_per_s_high: float | None
) -> tuple[float | None, float | None]:
    """Lower and upper USD a request: the interval of the rate, inverted. A price has no interval; it has a date."""
    return _per(usd_per_hour, requests_per_s_high), _per(usd_per_hour, requests_per_s_low)
