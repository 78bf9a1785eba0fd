"""Numbers, times and missing values as text: one place, so that every page writes them alike.

Belongs here: formatting of a single value.
Does not belong here: which values a page shows (``results``), HTML.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

MISSING = "–"
"""Shown for a value that was not measured. Never shown for zero."""


def significant(value: float | None, digits: int = 3) -> str:
    """*value* to *digits* significant digits, thousands separated; whole digits are kept: 8.42, 8,421."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def count(value: float | None) -> str:
    """A count with thousands separators."""
    return MISSING if value is None else f"{int(value):,}"


def share(value: float | None) -> str:
    """A fraction in 0..1 as per cent; zero is ``0 %`` and a small share never rounds to it."""
    if value is None:
        return MISSING
    return "0 %" if value == 0 else f"{significant(value * 100, 2)} %"


def money(value: float | None) -> str:
    """US dollars to three significant digits."""
    return MISSING if value is None else f"${significant(value)}"


def moment(value: datetime | str | None) -> str:
    """A UTC time to the second, ISO-like; text is passed through."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(value: Any) -> str:
    """Any field of a record as text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, datetime):
        return moment(value)
    return str(value)
