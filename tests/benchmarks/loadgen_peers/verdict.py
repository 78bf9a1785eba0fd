"""What must hold, line by line, against what was measured: met, not met, or undecided and why.

Belongs here: the targets and how each line is read from the rows. No line is left out because it was missed.
Does not belong here: measuring (``execute``), tables (``report``).

A row in which the server used more than 80 % of a core does not count; where nothing else is left, the line is
undecided. Figures of several runs are medians. A peer's error counts without its sign.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.benchmarks.loadgen_peers.execute import Row
from tests.benchmarks.loadgen_peers.scenarios import (
    FAULT_TIMEOUT_S,
    FLOOR,
    FREEZE_S,
    GAP_MS,
    LEVELS,
    MEMORY_REQUESTS,
    OPEN_RATE,
    OURS,
    TTFT_MS,
    UNPACED,
    UNPACED_8,
)

MET, NOT_MET, UNDECIDED = "met", "not met", "undecided"
REQUIRED_PEER = "vllm-bench"
_FLUSHED_MB = 0.15  # a tenth of the growth allowed: what allocator noise adds to "not at all"
_FLOOR_TIMES = 3.0


@dataclass(frozen=True, slots=True)
class Line:
    """One acceptance line; texts for people."""

    text: str
    target: str
    measured: str
    verdict: str
    peer: str = "–"
    ratio: str = "–"


@dataclass(frozen=True, slots=True)
class Measured:
    """A median, the runs it is of, and why there is none."""

    value: float | None
    runs: int = 0
    why: str = ""

    def show(self, unit: str = "") -> str:
        """With its unit and the number of runs where there were several."""
        if self.value is None:
            return f"– ({self.why})"
        runs = f" (median of {self.runs})" if self.runs > 1 else ""
        return f"{self.value:.4g}{' ' + unit if unit else ''}{runs}"


class Rows:
    """Rows by scenario, level and client."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def of(self, scenario: str, level: str, client: str) -> list[Row]:
        """All rows of one cell."""
        return [
            one for one in self.rows if (one.scenario, one.level, one.client) == (scenario, level, client)
        ]

    def median(
        self, scenario: str, level: str, client: str, figure: str, *, limited_counts: bool = False
    ) -> Measured:
        """The median of *figure* over the rows that count."""
        rows = self.of(scenario, level, client)
        if not rows:
            return Measured(None, why="not run")
        good = [one for one in rows if one.error is None and figure in one.figures]
        if not good:
            return Measured(None, why=next((one.error for one in rows if one.error), f"no {figure}"))
        counted = [one for one in good if limited_counts or not one.server_limited]
        if not counted:
            return Measured(None, why="server-limited")
        return Measured(statistics.median(one.figures[figure] for one in counted), len(counted))

    def peers(self) -> list[str]:
        """Every client that is not ours or the floor."""
        return sorted({one.client for one in self.rows} - {OURS, FLOOR})

    def best_peer(
        self,
        scenario: str,
        level: str,
        figure: str,
        best: Callable[..., float],
        *,
        limited_counts: bool = False,
    ) -> tuple[str, Measured]:
        """The peer with the smallest (``min``) or largest (``max``) size of *figure*, and that size.

        Without a figure of vllm bench there is none.
        """
        found = {
            peer: self.median(scenario, level, peer, figure, limited_counts=limited_counts)
            for peer in self.peers()
        }
        sizes = {peer: abs(one.value) for peer, one in found.items() if one.value is not None}
        if REQUIRED_PEER not in sizes:
            why = found[REQUIRED_PEER].why if REQUIRED_PEER in found else "not run"
            return "–", Measured(None, why=f"without vllm bench no 'best peer' line counts ({why})")
        value = best(sizes.values())
        name = next(peer for peer, size in sizes.items() if size == value)
        return name, Measured(value, 1)


def judge(rows: Sequence[Row]) -> list[Line]:
    """All lines in the order of the acceptance text."""
    found = Rows(rows)
    return [
        line
        for part in (_accuracy, _against_peers, _cost, _start_and_memory, _open_loop, _faults, _traps)
        for line in part(found)
    ]


def _line(text: str, value: Measured, limit: float, unit: str, *, least: bool = False) -> Line:
    """*value* must be at most (at *least*: at least) *limit*."""
    target = f"{'≥' if least else '≤'} {limit:.4g} {unit}".rstrip()
    if value.value is None:
        return Line(text, target, value.show(), UNDECIDED)
    good = value.value >= limit if least else value.value <= limit
    return Line(text, target, value.show(unit), MET if good else NOT_MET)


def _accuracy(rows: Rows) -> Iterator[Line]:
    for streams in sorted(LEVELS):
        level, least_ms = str(streams), 0.5 if streams <= 64 else 1.0
        for metric in ("ttft", "e2e"):
            name = f"{metric.upper()} error at {level} streams"
            value = rows.median("accuracy", level, OURS, f"{metric}_error_p99_ms")
            floor = rows.median("accuracy", level, FLOOR, f"{metric}_error_p99_ms")
            if floor.value is None:
                line = Line(f"{name}, p99", "–", value.show("ms"), UNDECIDED, f"no floor: {floor.why}")
            else:
                line = _line(f"{name}, p99", value, max(least_ms, _FLOOR_TIMES * floor.value), "ms")
            yield _with_peer(line, "floor", floor, value)
            yield _line(
                f"{name}, p50", rows.median("accuracy", level, OURS, f"{metric}_error_p50_ms"), 0.1, "ms"
            )
        kept = rows.median("accuracy", level, OURS, "load_kept")
        floor = rows.median("accuracy", level, FLOOR, "load_kept")
        yield _with_peer(
            _line(f"load kept at {level} streams", kept, 0.995, "", least=True), "floor", floor, kept
        )
    # Several events a write are one send in the server's log, so there chunks cannot be compared with sends.
    mine = [
        one
        for one in rows.rows
        if one.client == OURS and "unmatched" in one.figures and "a write" not in one.level
    ]
    unmatched = sum(one.figures["unmatched"] for one in mine)
    total = Measured(unmatched, 1) if mine else Measured(None, why="not run")
    yield _line("answers with other chunks than were sent, of all scenarios", total, 0, "")
    stamps = rows.median("busy", "256", OURS, "stamp_error_p99_ms")
    yield _line("token stamps against sends, 4 busy processes beside, p99", stamps, 0.05, "ms")


def _with_peer(line: Line, name: str, peer: Measured, ours: Measured) -> Line:
    if peer.value is None:
        return line
    ratio = f"{ours.value / peer.value:.3g}" if ours.value is not None and peer.value else "–"
    return Line(line.text, line.target, line.measured, line.verdict, f"{name}: {peer.value:.4g}", ratio)


def _share_of_peer(
    rows: Rows, text: str, cell: tuple[str, str, str], share: float, unit: str, *, times: float = 0.0
) -> Line:
    """Ours at most *share* of the best peer's; with *times*, at least so many times the best peer's.

    A server at its limit makes ours a lower bound of a rate: enough to meet a line, not enough to miss it.
    """
    more = times > 0
    name, peer = rows.best_peer(*cell, max if more else min, limited_counts=more)
    ours = rows.median(cell[0], cell[1], OURS, cell[2], limited_counts=more)
    target = f"≥ {times:g} × best peer" if more else f"≤ 1/{1 / share:.0f} of best peer"
    if peer.value is None or ours.value is None:
        why = ours.show(unit) if peer.value is not None else f"{ours.show(unit)}; {peer.why}"
        return Line(text, target, why, UNDECIDED)
    good = ours.value >= times * peer.value if more else ours.value <= share * peer.value
    verdict = MET if good else NOT_MET
    if more and not good and any(one.server_limited for one in rows.of(cell[0], cell[1], OURS)):
        verdict = f"{UNDECIDED}: server-limited"
    line = Line(text, target, ours.show(unit), verdict)
    return _with_peer(line, name, peer, ours)


def _against_peers(rows: Rows) -> Iterator[Line]:
    for metric in ("ttft", "e2e"):
        cell = ("accuracy", "256", f"{metric}_error_p99_ms")
        yield _share_of_peer(
            rows, f"{metric.upper()} error at 256 streams, p99, beside the best peer", cell, 1 / 50, "ms"
        )


def _cost(rows: Rows) -> Iterator[Line]:
    cpu = rows.median("accuracy", "256", OURS, "cpu_s_per_mtok")
    yield _line("CPU per million streamed tokens, paced, 256 streams", cpu, 12.0, "s")
    cell = ("accuracy", "256", "cpu_s_per_mtok")
    yield _share_of_peer(rows, "the same beside the best peer", cell, 1 / 3, "s")
    for level, text in ((UNPACED, "an event a write"), (UNPACED_8, "eight events a write")):
        cell = ("capacity", level, "tokens_per_s")
        text = f"unpaced, one process, 64 streams, {text}"
        yield _share_of_peer(rows, text, cell, 0.0, "tokens/s", times=3.0)


def _start_and_memory(rows: Rows) -> Iterator[Line]:
    yield _line("command start to first request", rows.median("start", "cold", OURS, "start_s"), 0.5, "s")
    yield _line("memory then", rows.median("start", "cold", OURS, "rss_at_start_mb"), 80.0, "MB")
    few, some, many = (
        rows.median("memory", f"{count} requests", OURS, "rss_peak_mb", limited_counts=True)
        for count in MEMORY_REQUESTS
    )
    thousands = [count / 1000 for count in MEMORY_REQUESTS]
    yield _line(
        f"memory growth per 1,000 requests of 256 tokens ({MEMORY_REQUESTS[0]:,} to {MEMORY_REQUESTS[1]:,})",
        _slope(few, some, thousands[1] - thousands[0]),
        1.5,
        "MB",
    )
    yield _line(
        f"the same once samples are flushed ({MEMORY_REQUESTS[1]:,} to {MEMORY_REQUESTS[2]:,}): not at all",
        _slope(some, many, thousands[2] - thousands[1]),
        _FLUSHED_MB,
        "MB",
    )


def _slope(low: Measured, high: Measured, thousands: float) -> Measured:
    if low.value is None or high.value is None:
        return Measured(None, why=low.why or high.why)
    return Measured((high.value - low.value) / thousands, 1)


def _open_loop(rows: Rows) -> Iterator[Line]:
    rate = rows.median("open", "constant", OURS, "rate_per_s")
    off = Measured(None if rate.value is None else abs(rate.value / OPEN_RATE - 1) * 100, rate.runs, rate.why)
    yield _line(f"open loop {OPEN_RATE:g}/s: realised rate off by", off, 0.5, "%")
    for percent, limit in ((50, 0.2), (99, 1.0)):
        late = rows.median("open", "constant", OURS, f"deviation_p{percent}_ms")
        yield _line(f"arrival at the server against the schedule, p{percent}", late, limit, "ms")
    for figure, text, limit in (
        ("scheduled_exponential_p", "Poisson gaps as scheduled: Kolmogorov-Smirnov p", 0.01),
        ("exponential_p", "Poisson gaps as they arrived: Kolmogorov-Smirnov p", 0.01),
        ("gap_cv", "Poisson gaps as they arrived: |CV - 1|", 0.03),
        ("dispersion", "Poisson counts as they arrived: |dispersion - 1|", 0.1),
    ):
        value = rows.median("open", "poisson", OURS, figure)
        if figure.endswith("exponential_p"):
            yield _line(text, value, limit, "", least=True)
        else:
            size = None if value.value is None else abs(value.value - 1)
            # The tolerances are for 10,000 arrivals; these are 6,000: wider by the root of their ratio.
            scale = (10_000 / (OPEN_RATE * 60)) ** 0.5
            yield _line(text, Measured(size, value.runs, value.why), limit * scale, "")
    freeze_ms = FREEZE_S[1] * 1e3
    shown = rows.median("open", "freeze", OURS, "client_ttft_max_ms")
    truth = rows.median("open", "freeze", OURS, "truth_ttft_max_ms")
    if truth.value is None or shown.value is None:
        yield Line(f"a {FREEZE_S[1]:g} s freeze shows in full", "= server's", shown.show(), UNDECIDED)
    else:
        off_ms = abs(shown.value - truth.value)
        good = off_ms <= 1.0 and shown.value >= 0.97 * freeze_ms
        yield Line(
            f"a {FREEZE_S[1]:g} s freeze shows in full: largest TTFT from the schedule",
            f"server's {truth.value:.1f} ms ± 1 ms, and ≥ {0.97 * freeze_ms:g} ms",
            f"{shown.value:.1f} ms",
            MET if good else NOT_MET,
        )


def _faults(rows: Rows) -> Iterator[Line]:
    for level in ("four kinds", "and malformed, split"):
        row = next(iter(rows.of("faults", level, OURS)), None)
        text = f"faults ({level})"
        if row is None or row.error is not None or "faults_misclassed" not in row.figures:
            why = "not run" if row is None else row.error or "no figures"
            yield Line(f"{text}: every class counted exactly", "0 misclassed", f"– ({why})", UNDECIDED)
            continue
        figures = row.figures
        wrong, injected = int(figures["faults_misclassed"]), int(figures["faults_injected"])
        classes = ", ".join(f"{kind} {count}" for kind, count in row.failures.items())
        yield Line(
            f"{text}: every class counted exactly",
            "0 misclassed",
            f"{wrong} of {injected} ({classes})",
            MET if wrong == 0 and injected > 0 else NOT_MET,
        )
        begun, kept = int(figures["partial_begun"]), int(figures["partial_kept"])
        yield Line(
            f"{text}: partial samples kept", f"{begun}", f"{kept}", MET if kept >= begun > 0 else NOT_MET
        )
        # 1,000 requests over 64 streams are 16 waves; a hang holds a stream for the timeout, at most a few times.
        limit = 16 * 0.68 + 4 * FAULT_TIMEOUT_S
        yield _line(
            f"{text}: nothing hangs past its timeout; whole command",
            Measured(figures["whole_s"], 1),
            limit,
            "s",
        )


def _traps(rows: Rows) -> Iterator[Line]:
    def near(text: str, level: str, figure: str, right: float) -> Line:
        value = rows.median("traps", level, OURS, figure)
        peers = {
            peer: one.value
            for peer in rows.peers()
            if (one := rows.median("traps", level, peer, figure)).value is not None
        }
        said = ", ".join(f"{peer} {number:.3g}" for peer, number in peers.items()) or "–"
        if value.value is None:
            return Line(text, f"{right:g} ms", value.show(), UNDECIDED, said)
        tolerance = max(1.0, 0.01 * right) if "ttft" in figure else max(0.1, 0.01 * right)
        good = abs(value.value - right) <= tolerance
        return Line(text, f"{right:g} ± {tolerance:g} ms", value.show("ms"), MET if good else NOT_MET, said)

    yield near("role chunk at once, token later: TTFT p50", "early-role", "client_ttft_p50_ms", TTFT_MS)
    yield near("4 tokens per chunk: TPOT p50", "4 per chunk", "client_tpot_p50_ms", GAP_MS)
    yield near("4 tokens per chunk: chunk gap p50", "4 per chunk", "client_gap_p50_ms", 4 * GAP_MS)
    tokens = rows.median("traps", "4 per chunk", OURS, "tokens_per_chunk_counted")
    right = "4"
    if tokens.value is None:
        yield Line("4 tokens per chunk: tokens counted in each", right, tokens.show(), UNDECIDED)
    else:
        yield Line(
            "4 tokens per chunk: tokens counted in each, so ITL is a quarter of the gap",
            right,
            f"{tokens.value:.4g}",
            MET if abs(tokens.value - 4) < 1e-9 else NOT_MET,
        )
    broken = next(iter(rows.of("traps", "malformed", OURS)), None)
    if broken is None or broken.error is not None:
        why = "not run" if broken is None else broken.error or ""
        yield Line("malformed events: counted exactly", "0 misclassed", f"– ({why})", UNDECIDED)
    else:
        wrong = int(broken.figures["faults_misclassed"])
        injected = int(broken.figures["faults_injected"])
        yield Line(
            "malformed events: counted exactly",
            "0 misclassed",
            f"{wrong} of {injected}",
            MET if wrong == 0 and injected > 0 else NOT_MET,
        )
