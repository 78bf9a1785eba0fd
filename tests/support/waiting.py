"""Waiting for a condition, with a limit that only bounds a hang.

Belongs here: the limit every test shares and the loop that waits. Does not belong here: claims about speed (they are
benchmarks). No test may pass or fail by how fast the machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

HANG_S = 120.0
"""Longer than anything a test waits for takes on a machine with many times more work than cores."""

Value = TypeVar("Value")


def until(look: Callable[[], Value], what: str = "it", limit_s: float = HANG_S) -> Value:
    """The first true value of *look*. Raises ``AssertionError`` after *limit_s* seconds."""
    end = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}; the last look gave {found!r}"
        time.sleep(0.02)
    return found
