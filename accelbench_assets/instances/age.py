"""How old packaged facts are, in one form for every place that says it.

Belongs here: the day facts are of and the days since. Does not belong here: the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime


@dataclass(frozen=True, slots=True)
class Age:
    """The ISO day facts are of, and whole days since."""

    as_of: str
    days: int

    def __str__(self) -> str:
        ago = "today" if self.days == 0 else f"{self.days} day{'s' if self.days != 1 else ''} old"
        return f"facts of {self.as_of} ({ago})"


def age_of(as_of: str, today: date | None = None) -> Age:
    """The age of facts of the ISO day *as_of*; 0 days for a day that is still to come."""
    now = today or datetime.now(UTC).date()
    return Age(as_of, max(0, (now - date.fromisoformat(as_of)).days))
