"""Estimates with intervals: TTFT, time per output token and throughput of a replica at a concurrency.

Belongs here: the roofline at the low, middle and high end of the priors, the width limit, the largest concurrency
within an SLO. Does not belong here: the roofline, the priors, memory limits (the caller's ceiling on concurrency).

Model of a steady mix at concurrency B: a request uses ``u = prefill + OSL step(B)/B`` seconds of the engine (with
company a prompt shares its steps, so only its products count), so
``X = kept / u``; it stays ``B / X``, of which TTFT is the prefill, the wait for prefills ahead (half the busy share, as
a queue with constant service) and one step; the rest is decode. Approximations of means, not of tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelbench_assets.sizing.bounds import ceiling_output_tok_s
from accelbench_assets.sizing.priors import WIDEST, Priors
from accelbench_assets.sizing.roofline import Efficiency, Replica, mixed_prefill_s, prefill_s, step_s

LINKS_NOT_COUNTED = "All-reduces are not counted: no link rate is published, so this is optimistic."
MOST_WAIT = 0.95  # beyond this busy share of prefills the queue formula says nothing


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure from *low* to *high*, *middle* the best single guess."""

    low: float
    middle: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether *value* lies in it."""
        return self.low <= value <= self.high

    @property
    def ratio(self) -> float:
        """Upper over lower end."""
        return self.high / self.low


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a replica is expected to do at *concurrency*; milliseconds and rates per second of one replica.

    ``ttft_ms`` and the rates are null where the accelerator's FLOPS are not published. ``ceiling_output_tok_s`` is the
    roofline with nothing lost. ``links_counted`` false: all-reduces are left out for want of a published rate.
    """

    concurrency: int
    ttft_ms: Interval | None
    tpot_ms: Interval
    requests_per_s: Interval | None
    output_tok_s: Interval | None
    ceiling_output_tok_s: float
    links_counted: bool


@dataclass(frozen=True, slots=True)
class _Point:
    ttft_s: float | None
    tpot_s: float
    rate: float | None


def _point(one: Replica, batch: float, isl: float, osl: float, at: Efficiency, kept: float) -> _Point:
    step, prefill = step_s(one, batch, isl + osl / 2, at), prefill_s(one, isl, at)
    shared = prefill if batch == 1 else mixed_prefill_s(one, isl, at)
    if prefill is None or shared is None:
        return _Point(None, step / kept, None)
    used = shared + osl * step / batch
    busy = min(shared / used, MOST_WAIT) if batch > 1 else 0.0
    ttft = prefill * (1 + busy / (2 * (1 - busy))) + step
    tpot = step + (batch - 1) * shared / osl
    return _Point(ttft / kept, tpot / kept, kept / used)


def _rate(low: float, middle: float, high: float) -> Interval:
    low = max(low, high / WIDEST)
    return Interval(low, max(low, middle), high)


def _time(low: float, middle: float, high: float) -> Interval:
    high = min(high, low * WIDEST)
    return Interval(low, min(high, middle), high)


def _ends(priors: Priors) -> tuple[tuple[Efficiency, float], ...]:
    """(worst, middle, best) efficiencies, each with the share that a run keeps."""
    mfu, mbu, host, kept = priors.mfu, priors.mbu, priors.host_s, priors.kept
    return (
        (Efficiency(mfu.low, mbu.low, host.high, True), kept.low),
        (Efficiency(mfu.middle, mbu.middle, host.middle, True), kept.middle),
        (Efficiency(mfu.high, mbu.high, host.low, True), kept.high),
    )


def estimate(one: Replica, priors: Priors, concurrency: int, isl: float, osl: float) -> Estimate:
    """The estimate at *concurrency* requests of *isl* and *osl* tokens, which all must be positive."""
    worst, middle, best = (_point(one, concurrency, isl, osl, at, kept) for at, kept in _ends(priors))
    ttft = rate = None
    if worst.ttft_s is not None and middle.ttft_s is not None and best.ttft_s is not None:
        ttft = _time(best.ttft_s * 1e3, middle.ttft_s * 1e3, worst.ttft_s * 1e3)
    if worst.rate is not None and middle.rate is not None and best.rate is not None:
        rate = _rate(worst.rate, middle.rate, best.rate)
    return Estimate(
        concurrency=concurrency,
        ttft_ms=ttft,
        tpot_ms=_time(best.tpot_s * 1e3, middle.tpot_s * 1e3, worst.tpot_s * 1e3),
        requests_per_s=rate,
        output_tok_s=None if rate is None else Interval(rate.low * osl, rate.middle * osl, rate.high * osl),
        ceiling_output_tok_s=ceiling_output_tok_s(one, concurrency, isl, osl),
        links_counted=one.links_known,
    )


def within(
    one: Replica,
    priors: Priors,
    most: int,
    isl: float,
    osl: float,
    *,
    ttft_ms: float | None,
    tpot_ms: float | None,
    e2e_ms: float | None = None,
) -> int:
    """The largest concurrency of at most *most* whose middle estimate meets all limits; 0 if not even one does.

    All times grow with concurrency, so the limit is found by halving. A TTFT that cannot be estimated meets no limit.
    """
    at, kept = _ends(priors)[1]

    def meets(batch: int) -> bool:
        point = _point(one, batch, isl, osl, at, kept)
        first_s = math.inf if point.ttft_s is None else point.ttft_s
        whole_s = first_s + max(0.0, osl - 1) * point.tpot_s
        pairs = ((first_s, ttft_ms), (point.tpot_s, tpot_ms), (whole_s, e2e_ms))
        return all(limit_ms is None or seconds * 1e3 <= limit_ms for seconds, limit_ms in pairs)

    if most < 1 or not meets(1):
        return 0
    if meets(most):
        return most
    low, high = 1, most
    while high - low > 1:
        half = (low + high) // 2
        low, high = (half, high) if meets(half) else (low, half)
    return low
