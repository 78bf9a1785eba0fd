"""When requests are due, drawn before the clock starts and hashed.

Belongs here: seeds split by purpose, arrival laws, the hash of what was drawn.
Does not belong here: waiting for a due time (``timer``), what a request says (``prompts``), how long it is
(``lengths``), reading a trace file (``datasets``), sending (``client``).

Every number comes from SHA-256-derived seeds and ``random.Random(seed).random()``, whose sequence Python
guarantees; the laws on top are in this file, because only ``random()`` is guaranteed and the library's own
``gammavariate`` and ``gauss`` may change. Due times add up gaps rounded to whole nanoseconds, so that a last
bit of another C library's ``log`` cannot shift a schedule. The same root seed therefore gives the same
schedule on every host and Python version.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

NS = 1_000_000_000
_PLAIN = ("poisson", "constant", "trace", "at_once")
_KINDS = "none, poisson, constant, gamma:K, trace, steps:FACTORxSECONDS,... and at_once"


def child_seed(root: int, purpose: str, *index: int) -> int:
    """A 64-bit seed for one *purpose* (``content``, ``arrival``, …), so that changing one draw changes no
    other."""
    text = "/".join([str(root), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def check_arrival(text: str) -> None:
    """Raise ``ValueError`` unless *text* is an arrival law: none | poisson | constant | gamma:K | trace |
    steps:FACTORxSECONDS,... | at_once."""
    if not isinstance(text, str):
        raise ValueError(f"arrival: {text!r} is not a text; known are {_KINDS}")
    kind, _, rest = text.partition(":")
    if text in _PLAIN or text == "none":
        return
    if kind == "gamma" and rest:
        gamma_shape(text)
    elif kind == "steps" and rest:
        pieces(text)
    else:
        raise ValueError(f"arrival: {text!r} is unknown; known are {_KINDS}")


def gamma_shape(text: str) -> float:
    """K of ``gamma:K``: the gaps' shape, so that their coefficient of variation is ``1/sqrt(K)``."""
    shape = _positive(text.partition(":")[2])
    if shape is None or not 0.001 <= shape <= 1000:
        raise ValueError(f"arrival: {text!r}: the shape K of gamma:K must be a number from 0.001 to 1000")
    return shape


def pieces(text: str) -> list[tuple[float, float]]:
    """(factor of the step's rate, seconds) of each piece of ``steps:0.5x120,1.5x120``."""
    found = []
    for part in text.partition(":")[2].split(","):
        factor, _, seconds = part.partition("x")
        pair = _positive(factor), _positive(seconds)
        if pair[0] is None or pair[1] is None:
            raise ValueError(f"arrival: {part!r} of {text!r} is not FACTORxSECONDS with two positive numbers")
        found.append((pair[0], pair[1]))
    return found


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def arrivals(law: str, rate_per_s: float, duration_s: float, seed: int, *, lead_s: float = 0.0) -> array[int]:
    """Due times in nanoseconds since the start of a step, ascending, all below *duration_s*.

    ``poisson``: independent exponential gaps of mean ``1/rate``, never rescaled to a wished count.
    ``gamma:K``: independent gamma gaps of shape K and mean ``1/rate``, never rescaled.
    ``constant``: every ``1/rate``, the first half a gap after the start (so that a window holds
    ``rate x window`` of them), without rounding drift.
    ``steps:…``: Poisson, its rate stepping through the pieces from *lead_s* (the warm-up) on; the first
    piece's rate holds before it, the last one's after the last.
    ``at_once``: ``rate_per_s`` is a number of requests, all due at *lead_s*.
    Raises ``ValueError`` for other laws; a trace is replayed by :func:`replay`.
    """
    check_arrival(law)
    kind = law.partition(":")[0]
    if kind == "constant":
        return _constant(rate_per_s, duration_s)
    if kind == "at_once":
        return array("q", [round(lead_s * NS)]) * int(rate_per_s)
    draw = random.Random(seed).random
    if kind == "steps":
        return _stepped(pieces(law), rate_per_s, duration_s, lead_s, draw)
    mean = NS / rate_per_s
    if kind == "poisson":
        return _renewal(lambda: -math.log(1.0 - draw()) * mean, duration_s)
    if kind == "gamma":
        shape = gamma_shape(law)
        gap = gamma_draw(shape, draw)
        return _renewal(lambda: gap() * mean / shape, duration_s)
    raise ValueError(f"arrival: {law!r} is not drawn from a law")


def _renewal(gap: Callable[[], float], duration_s: float) -> array[int]:
    due, at, end = array("q"), 0, duration_s * NS
    while (at := at + round(gap())) < end:
        due.append(at)
    return due


def _constant(rate_per_s: float, duration_s: float) -> array[int]:
    due, end, count = array("q"), duration_s * NS, 0
    while (at := (count + 0.5) * NS / rate_per_s) < end:
        due.append(round(at))
        count += 1
    return due


def _stepped(
    parts: Sequence[tuple[float, float]],
    rate_per_s: float,
    duration_s: float,
    lead_s: float,
    draw: Callable[[], float],
) -> array[int]:
    """Unit exponentials mapped through the cumulated rate: exact at every edge."""
    spans = [lead_s, *[seconds for _, seconds in parts]]
    rates = [rate_per_s * factor for factor, _ in (parts[0], *parts)]
    starts = [0.0, *accumulate(spans)]
    mass = [0.0, *accumulate(span * rate for span, rate in zip(spans, rates, strict=True))]
    due, total, end = array("q"), 0.0, round(duration_s * NS)
    while True:
        total -= math.log(1.0 - draw())
        piece = min(bisect_right(mass, total) - 1, len(rates) - 1)
        at = round((starts[piece] + (total - mass[piece]) / rates[piece]) * NS)
        if at >= end:
            return due
        due.append(at)


def gamma_draw(shape: float, draw: Callable[[], float]) -> Callable[[], float]:
    """Draws of a gamma law of *shape* and scale 1 (Marsaglia and Tsang 2000; below shape 1 by its power of a
    uniform), from uniforms on [0, 1)."""
    normal = normal_draw(draw)
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    c = 1 / math.sqrt(9 * d)

    def one() -> float:
        while True:
            x = normal()
            v = (1 + c * x) ** 3
            if v > 0 and math.log(1.0 - draw()) < x * x / 2 + d - d * v + d * math.log(v):
                return d * v

    if shape >= 1:
        return one
    return lambda: one() * (1.0 - draw()) ** (1 / shape)


def normal_draw(draw: Callable[[], float]) -> Callable[[], float]:
    """Draws of a standard normal law (Marsaglia's polar method, one of each pair), from uniforms on [0, 1)."""

    def one() -> float:
        while True:
            x, y = 2 * draw() - 1, 2 * draw() - 1
            s = x * x + y * y
            if 0 < s < 1:
                return x * math.sqrt(-2 * math.log(s) / s)

    return one


def replay(
    offsets_ns: Sequence[int], rate_per_s: float, duration_s: float, lead_s: float, *, thin: int | None = None
) -> tuple[array[int], array[int]]:
    """A trace at *rate_per_s*: due times as of :func:`arrivals`, and of each its place in the trace.

    Its first arrival is due at *lead_s*; the time before, and what the trace does not reach, replay the same
    trace as a ring, so that load goes on unchanged. A place counts through the ring: ``place % n`` is the row
    and ``place // n`` the round (-1 before *lead_s*). Time is scaled, which keeps order and shape; with a
    *thin* seed the trace keeps its own time and each arrival stays with probability rate over its rate.
    """
    n = len(offsets_ns)
    if n < 2 or offsets_ns[-1] <= offsets_ns[0]:
        raise ValueError("a trace needs at least two arrivals at different times")
    first = offsets_ns[0]
    ring_ns = (offsets_ns[-1] - first) * n / (n - 1)  # the ring closes with a mean gap
    scale = rate_per_s / (n / ring_ns * NS)
    keep = 1.0
    if thin is not None:
        keep, scale = scale, 1.0
        if keep > 1.0 + 1e-9:
            raise ValueError(f"thinning cannot raise the trace's {n / ring_ns * NS:g} arrivals a second")
    due, places = array("q"), array("q")
    lead, end = round(lead_s * NS), round(duration_s * NS)
    turn = -math.ceil(lead * scale / ring_ns)
    while True:
        chance = random.Random(child_seed(thin, "thin", turn)).random if thin is not None else None
        for row, offset in enumerate(offsets_ns):
            at = lead + round((turn * ring_ns + offset - first) / scale)
            stays = chance is None or chance() < keep
            if at >= end:
                return due, places
            if at >= 0 and stays:
                due.append(at)
                places.append(turn * n + row)
        turn += 1


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
