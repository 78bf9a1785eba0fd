"""When requests are due, drawn before the clock starts and hashed.

Belongs here: seeds split by purpose, arrival laws, the hash of what was drawn.
Does not belong here: waiting for a due time (``timer``), what a request says (``prompts``), sending it
(``client``).

Every number comes from SHA-256-derived seeds and ``random.Random.random()``, whose sequence Python
guarantees, so the same root seed gives the same schedule on every host and Python version.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array

NS = 1_000_000_000


def child_seed(root: int, purpose: str, *index: int) -> int:
    """A 64-bit seed for one *purpose* (``content``, ``arrival``, …), so that changing one draw changes no
    other."""
    text = "/".join([str(root), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def arrivals(law: str, rate_per_s: float, duration_s: float, seed: int) -> array[int]:
    """Due times in nanoseconds since the start of a step, ascending, all below *duration_s*.

    ``poisson``: independent exponential gaps of mean ``1/rate``, never rescaled to a wished count.
    ``constant``: every ``1/rate``, the first half a gap after the start (so that a window holds
    ``rate x window`` of them), without rounding drift.
    """
    due = array("q")
    end = duration_s * NS
    if law == "constant":
        count = 0
        while (at := (count + 0.5) * NS / rate_per_s) < end:
            due.append(round(at))
            count += 1
        return due
    if law != "poisson":
        raise ValueError(f"arrival law {law!r} is neither poisson nor constant")
    draw = random.Random(seed).random
    at = 0.0
    while True:
        at -= math.log(1.0 - draw()) / rate_per_s * NS
        if at >= end:
            return due
        due.append(round(at))


class Digest:
    """SHA-256 over a sequence of fields, each length-prefixed so that no two sequences look alike."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: bytes | str) -> None:
        """Append one field."""
        data = value.encode() if isinstance(value, str) else value
        self._hash.update(len(data).to_bytes(8, "big") + data)

    def hex(self) -> str:
        """64 lower-case hex digits."""
        return self._hash.hexdigest()
