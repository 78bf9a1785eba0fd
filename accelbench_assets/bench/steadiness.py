"""Whether a window was steady, and whether an open load outran the server. Rules S5 and M24, from samples.

Belongs here: the series of 20 equal-time batches of W (in flight, tokens, TTFT, backlog) and the verdict over them.
Does not belong here: the tests themselves (``loadgen.steady``), labels that need several steps (``saturation``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelbench_assets.bench.frame import BATCHES, Frame
from loadgen.steady import Steadiness, judge, kendall

Array = NDArray[Any]
IN_FLIGHT_SHARE, SENT_SHARE = 0.97, 0.99  # S5 (c)
BURST_SHARE, PREEMPTION_SHARE = 0.05, 0.01  # S5 (d)
_BURST_FAILURES = 2  # one failed request is not a burst, however few its batch holds
_GROWTH_ROOTS, _GROWTH_P = 3.0, 0.01  # M24


def in_flight_by_batch(frame: Frame) -> Array:
    """Time average of requests in flight in each batch of W, from send to the end of the exchange, float64."""
    started, ended = frame.sent_ns, frame.ended_ns()
    edges = frame.window.edges_ns
    stay = np.maximum(ended - started, 0)
    until = np.array([np.clip(edge - started, 0, stay).sum() for edge in edges], dtype=np.float64)
    return np.diff(until) / np.diff(edges)


def backlog_by_edge(frame: Frame) -> Array:
    """Requests that were due and had not ended, at the 21 edges of the batches, int64.

    One that was never sent counts as ended when it was due: it failed in the client.
    """
    ended = np.sort(np.where(frame.sent_ns > 0, frame.ended_ns(), frame.due_ns))
    edges = frame.window.edges_ns
    return np.searchsorted(frame.due_ns, edges) - np.searchsorted(ended, edges)


def ttft_by_batch(frame: Frame) -> Array:
    """Median TTFT in ms of the requests due in each batch of W, failures infinite; NaN where it is not finite or no
    request was due."""
    values = frame.numbers("ttft_ms")
    values = np.where(frame.ok & ~np.isnan(values), values, np.inf)[frame.judged]
    batch = frame.batch_of(frame.due_ns[frame.judged])
    medians = np.full(BATCHES, np.nan)
    for index in range(BATCHES):
        if (found := np.sort(values[batch == index])).size:
            medians[index] = found[(found.size - 1) // 2]
    return np.where(np.isfinite(medians), medians, np.nan)


def series(frame: Frame) -> dict[str, list[float]]:
    """The series of S5 that this step has, one value a batch, keyed as ``loadgen.steady.LIMITS``."""
    seconds = frame.window.seconds / BATCHES
    found = {
        "in_flight": in_flight_by_batch(frame),
        "token_rate": frame.survey.tokens_by_batch.sum(axis=0) / seconds,
    }
    if not np.all(np.isnan(frame.numbers("ttft_ms"))):
        found["ttft"] = ttft_by_batch(frame)
    if frame.window.load_kind == "open":
        found["backlog"] = backlog_by_edge(frame)[1:]
    return {name: [float(value) for value in values] for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Backlog:
    """M24 of an open step: ``growth`` in requests over W, ``limit`` = 3 sqrt(arrivals), trend of the batches."""

    growth: int
    growth_per_s: float
    limit: float
    p: float

    @property
    def unstable(self) -> bool:
        """Whether arrivals outran the server: there is no steady state, and latencies describe the test's length."""
        return self.growth > self.limit and self.p < _GROWTH_P


def backlog(frame: Frame) -> Backlog | None:
    """The backlog's growth; ``None`` for a closed step."""
    if frame.window.load_kind != "open":
        return None
    edges = backlog_by_edge(frame)
    growth = int(edges[-1] - edges[0])
    _, p = kendall([float(value) for value in edges[1:]])
    limit = _GROWTH_ROOTS * math.sqrt(max(1, int(frame.arrived.sum())))
    return Backlog(growth, growth / frame.window.seconds, limit, p)


def steadiness(
    frame: Frame,
    *,
    restarted: bool = False,
    preemptions: int | None = None,
    throttled_s: float | None = None,
    thinks: bool = False,
) -> Steadiness:
    """S5 (a) to (d) over the window of *frame*; ``run_steps.steady`` is its ``steady``.

    From side channels: *restarted* (an engine restarted in W), *preemptions* in W, *throttled_s* (seconds of W in
    which an accelerator throttled); ``None`` is not measured and judged as none. *thinks*: users of a closed loop
    pause between turns, so that fewer than C may be in flight. ``figures`` are those of ``loadgen.steady.judge`` and
    ``load_share`` (in flight / C, or sent / due), ``error_share_max`` and, for open steps, ``backlog_growth_per_s``.
    """
    batches = series(frame)
    found = judge(batches)
    share, limit, shortfall = _load_share(frame, batches["in_flight"])
    worst, burst = _worst_errors(frame)
    figures = {**found.figures, "load_share": share, "error_share_max": worst}
    if (grown := backlog(frame)) is not None:
        figures["backlog_growth_per_s"] = grown.growth_per_s
    faults: list[str] = []
    if restarted:
        faults.append("An engine restarted in the window.")
    if burst:
        faults.append(f"{worst:.0%} of the requests of one twentieth of the window failed; the limit is 5 %.")
    requests = int(frame.arrived.sum())
    if preemptions and preemptions > PREEMPTION_SHARE * requests:
        faults.append(f"The engine preempted {preemptions} times for {requests} requests; the limit is 1 %.")
    if throttled_s:
        faults.append(f"An accelerator throttled for {throttled_s:g} s of the window.")
    if not thinks and share is not None and share < limit:
        faults.append(shortfall)
    if not faults:
        return Steadiness(found.steady, found.reason, figures)
    return Steadiness(False, faults[0], {**figures, "verdict": "disturbed"})


def _load_share(frame: Frame, in_flight: Sequence[float]) -> tuple[float | None, float, str]:
    """S5 (c): the share of the asked load that was there, its limit, and a sentence for less."""
    if frame.window.load_kind == "closed":
        asked = frame.window.load_value
        share = math.fsum(in_flight) / len(in_flight) / asked if asked else None
        text = f"On average {share or 0.0:.1%} of {frame.window.label} was in flight; the limit is 97 %."
        return share, IN_FLIGHT_SHARE, text
    due = max(frame.window.requests_scheduled, int(frame.arrived.sum()))
    sent = int(frame.holds(frame.sent_ns).sum())
    share = min(1.0, (sent + 1) / due) if due else None  # one request may cross an edge of the window
    return share, SENT_SHARE, f"Only {share or 0.0:.1%} of the scheduled requests were sent in the window."


def _worst_errors(frame: Frame) -> tuple[float, bool]:
    """The largest share of failures in a batch of W, and whether a batch has a burst of them (S5 (d))."""
    due = frame.by_batch(frame.due_ns[frame.judged])
    failed = frame.by_batch(frame.due_ns[frame.judged & ~frame.ok])
    shares = failed / np.maximum(due, 1)
    burst = (shares > BURST_SHARE) & (failed >= _BURST_FAILURES)
    return float(shares.max(initial=0.0)), bool(burst.any())
