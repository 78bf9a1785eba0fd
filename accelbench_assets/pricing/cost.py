"""What tokens and requests cost, from an hourly price and measured rates.

Belongs here: pure formulas. ``P`` is USD an hour for everything that serves, rates are per second at one
reporting point. Does not belong here: which price (``snapshot``), which step (``sql/marts`` has the same
formulas over tables; a test holds both to the same golden figures).

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
