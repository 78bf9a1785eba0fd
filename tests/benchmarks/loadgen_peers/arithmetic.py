"""A client's figures against what the ground-truth server did: pure functions of two logs.

Belongs here: reading the server's log, errors of matched requests and of distributions, load kept, arrival
rates and deviations. All times in ns on CLOCK_MONOTONIC or in ms as named.
Does not belong here: processes, files of the peers (``peers``), targets (``verdict``).

Truth of a request: TTFT = first token's send - request received; E2E = last token's send - request received;
TPOT = (last - first) / (tokens - tokens of the first chunk). Error = client's - server's. Where the client says
which request is which, the error is taken per request, and its size (without sign) is what percentiles are of;
else it is the difference of the two distributions' percentiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Figures = dict[str, float]
SERVER_LIMIT = 0.80  # of a core: beyond it the server may be what limits


@dataclass(frozen=True, slots=True)
class Served:
    """What the server did for one request."""

    request_id: str
    received_ns: int
    sends_ns: Sequence[int]
    last_send_ns: int
    tokens: int
    fault: str | None

    @property
    def ttft_ms(self) -> float:
        """First token's send since the request was received; only with tokens."""
        return (self.sends_ns[0] - self.received_ns) / 1e6

    @property
    def e2e_ms(self) -> float:
        """Last token's send since the request was received; only with tokens."""
        return (self.sends_ns[-1] - self.received_ns) / 1e6


@dataclass(frozen=True, slots=True)
class ServerLog:
    """The requests in order of arrival, and the server's own largest share of a core if it wrote one."""

    requests: list[Served]
    core_share_max: float | None

    def by_id(self) -> dict[str, Served]:
        """Requests by their ``x-request-id``."""
        return {one.request_id: one for one in self.requests}

    def whole(self) -> list[Served]:
        """Requests that were served to their end without a fault."""
        return [one for one in self.requests if one.fault is None and one.tokens]


@dataclass(frozen=True, slots=True)
class Timed:
    """One request as a client stamped it. Offsets of chunks in ns on the server's clock."""

    request_id: str
    sent_ns: int
    chunks_ns: Sequence[int]
    scheduled_ns: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a client says of its run: percentiles of its own (metric -> (p50, p99) in ms) or requests, counts."""

    ok: int
    failed: int
    percentiles: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    requests: Sequence[Timed] = ()
    failures: Mapping[str, str] = field(default_factory=dict)  # request id -> class of the client
    extra: Figures = field(default_factory=dict)


def read_log(path: Path) -> ServerLog:
    """Parse the server's JSON lines; kernel receive stamps where it has them."""
    requests: list[Served] = []
    share: float | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "server" in row:
            share = row["server"].get("core_share_max")
        elif "received_ns" in row:
            kernel = row.get("kernel_received_ns")
            received = row["received_ns"] if kernel is None else kernel
            sends = row.get("sends_ns") or []
            last = row.get("last_send_ns") or (sends[-1] if sends else received)
            requests.append(Served(row["request_id"], received, sends, last, row["tokens"], row.get("fault")))
    return ServerLog(sorted(requests, key=lambda one: one.received_ns), share)


def percentile(values: Iterable[float], percent: float) -> float:
    """Linear between ranks; NaN of nothing."""
    array = np.fromiter(values, float)
    return float(np.percentile(array, percent)) if array.size else float("nan")


def matched(log: ServerLog, requests: Sequence[Timed]) -> Figures:
    """Errors of requests known by id, in ms: TTFT, E2E, each gap between chunks, and each token's stamp against
    its send. Requests whose chunks are not as many as the server's sends are left to the counts."""
    truth = log.by_id()
    ttft: list[float] = []
    e2e: list[float] = []
    stamps: list[np.ndarray] = []
    gaps: list[np.ndarray] = []
    for one in requests:
        served = truth.get(one.request_id)
        if served is None or not served.tokens or len(served.sends_ns) != len(one.chunks_ns):
            continue
        ttft.append(abs((one.chunks_ns[0] - one.sent_ns) / 1e6 - served.ttft_ms))
        e2e.append(abs((one.chunks_ns[-1] - one.sent_ns) / 1e6 - served.e2e_ms))
        seen, sent = np.asarray(one.chunks_ns, np.int64), np.asarray(served.sends_ns, np.int64)
        stamps.append((seen - sent) / 1e6)
        gaps.append(np.abs(np.diff(seen) - np.diff(sent)) / 1e6)
    figures = {"matched": float(len(ttft))}
    if ttft:
        for name, values in (
            ("ttft", np.asarray(ttft)),
            ("e2e", np.asarray(e2e)),
            ("gap", np.concatenate(gaps)),
            ("stamp", np.concatenate(stamps)),
        ):
            for percent in (50, 99):
                figures[f"{name}_error_p{percent}_ms"] = percentile(values, percent)
    return figures


def distribution(log: ServerLog, percentiles: Mapping[str, tuple[float, float]]) -> Figures:
    """Errors of a client that gives percentiles only: its percentile minus the server's, in ms (signed)."""
    whole = log.whole()
    truth = {
        "ttft": [one.ttft_ms for one in whole],
        "e2e": [one.e2e_ms for one in whole],
        "gap": [gap / 1e6 for one in whole for gap in np.diff(np.asarray(one.sends_ns, np.int64))],
    }
    figures: Figures = {}
    for name, values in truth.items():
        if values and name in percentiles:
            for percent, claimed in zip((50, 99), percentiles[name], strict=True):
                figures[f"{name}_error_p{percent}_ms"] = claimed - percentile(values, percent)
    return figures


def throughput(served: Sequence[Served]) -> Figures:
    """Tokens and requests a second between the first request received and the last piece sent."""
    if not served:
        return {}
    start, end = span(served)
    seconds = (end - start) / 1e9
    tokens = sum(one.tokens for one in served)
    if seconds <= 0:
        return {}
    return {
        "tokens": float(tokens),
        "hot_s": seconds,
        "tokens_per_s": tokens / seconds,
        "requests_per_s": len(served) / seconds,
    }


def span(served: Sequence[Served]) -> tuple[int, int]:
    """First receipt and last send of requests, ns."""
    return min(one.received_ns for one in served), max(one.last_send_ns for one in served)


def load_kept(served: Sequence[Served], concurrency: int, request_ms: float) -> float:
    """Share of the load asked for: *concurrency* users, each with a request of *request_ms* at all times, need
    requests / concurrency x request_ms; what it really took is the span of what the server saw."""
    start, end = span(served)
    return (len(served) / concurrency) * request_ms / ((end - start) / 1e6)


def arrivals(served: Sequence[Served], rate_per_s: float) -> Figures:
    """How requests arrived at the server in an open loop: rate, gaps, and deviation from the best straight line
    of the asked rate (only meaningful for a constant law), in ms."""
    at = np.asarray([one.received_ns for one in served], np.float64) / 1e6
    if at.size < 3:
        return {}
    gaps = np.diff(at)
    ideal = np.arange(at.size) * 1000.0 / rate_per_s
    drift = np.abs(at - ideal - np.median(at - ideal))
    counts = np.histogram(at, bins=np.arange(at[0], at[-1], 10 * 1000.0 / rate_per_s))[
        0
    ]  # ten are due in each
    return {
        "rate_per_s": (at.size - 1) / (at[-1] - at[0]) * 1e3,
        "gap_p50_ms": percentile(gaps, 50),
        "gap_p99_ms": percentile(gaps, 99),
        "gap_cv": float(np.std(gaps) / np.mean(gaps)),
        "dispersion": float(np.var(counts) / np.mean(counts)) if counts.size > 1 else float("nan"),
        "drift_p50_ms": percentile(drift, 50),
        "drift_p99_ms": percentile(drift, 99),
    }


def exponential_p(times_ns: Iterable[int]) -> float:
    """Kolmogorov-Smirnov p of the gaps between *times_ns* against an exponential law of their own mean."""
    from scipy.stats import kstest

    gaps = np.diff(np.sort(np.fromiter(times_ns, np.int64))) / 1e9
    return float(kstest(gaps, "expon", args=(0, float(np.mean(gaps)))).pvalue)


def deviations(log: ServerLog, requests: Sequence[Timed]) -> Figures:
    """Arrival at the server minus the scheduled time, per request, in ms (without sign)."""
    truth = log.by_id()
    late = [
        abs(truth[one.request_id].received_ns - one.scheduled_ns) / 1e6
        for one in requests
        if one.scheduled_ns is not None and one.request_id in truth
    ]
    if not late:
        return {}
    return {"deviation_p50_ms": percentile(late, 50), "deviation_p99_ms": percentile(late, 99)}
