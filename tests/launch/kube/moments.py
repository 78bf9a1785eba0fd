"""Time in the emulated cluster.

Belongs here: the two text forms of a moment, the scale of Kubernetes' own pauses. Does not belong here: what
waits for how long.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime | None = None) -> str:
    """Whole seconds, as ``metav1.Time``."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(moment: datetime | None = None) -> str:
    """Microseconds, as ``metav1.MicroTime``."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def after(seconds: float) -> datetime:
    return now() + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Pace:
    """Kubernetes' own pauses, made shorter for tests."""

    scale: float = 1.0

    def __call__(self, seconds: float, least: float = 0.0) -> float:
        return max(least, seconds * self.scale)
