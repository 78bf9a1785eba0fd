"""One job: the server, the client, both ended, and every figure that follows from their two logs.

Belongs here: the order of things and the row of a job. Does not belong here: formulas (``arithmetic``), targets
(``verdict``), which jobs there are (``scenarios``).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.loadgen_peers import arithmetic, processes
from tests.benchmarks.loadgen_peers.arithmetic import Figures, Outcome, Served, ServerLog
from tests.benchmarks.loadgen_peers.clients import Client
from tests.benchmarks.loadgen_peers.measure import Usage
from tests.benchmarks.loadgen_peers.scenarios import OURS, REQUEST_MS, Job

# What ours calls each fault of the server.
CLASSES = {
    "500": "5xx",
    "reset": "mid_stream",
    "hang": "timeout",
    "error_event": "mid_stream",
    "malformed": "malformed",
}
_MIB = 2.0**20


@dataclass
class Row:
    """One client under one load. ``error``: why there are no figures. ``server_limited``: does not count."""

    scenario: str
    level: str
    client: str
    run: int
    figures: Figures = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    ok: int = 0
    failed: int = 0
    server_limited: bool = False
    error: str | None = None
    elapsed_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values; a figure that is no number is left out."""
        row = dataclasses.asdict(self)
        row["figures"] = {
            name: round(value, 6) for name, value in self.figures.items() if math.isfinite(value)
        }
        return row


def execute(job: Job, client: Client, work: Path, *, keep: bool = False) -> Row:
    """Run *job* in a folder of its own below *work*; a failure of the client is the row's ``error``."""
    row = Row(job.scenario, job.level, job.client, job.run)
    began = time.monotonic()
    if missing := [words for words in job.needs if not processes.truth_knows(words)]:
        row.error = f"the ground-truth server does not know {', '.join(missing)}"
        return row
    folder = work / job.name.replace(" ", "_").replace(",", "").replace("#", "run")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _measure(job, client, folder, row)
    except (RuntimeError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        row.error = row.error or f"{type(error).__name__}: {error}"
    row.elapsed_s = time.monotonic() - began
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def _measure(job: Job, client: Client, folder: Path, row: Row) -> None:
    with processes.TruthServer(folder, job.truth) as server:
        command = client.command(job.load, server.url, folder)
        with processes.busy(job.busy):
            done = processes.run(
                command,
                folder,
                limit_s=job.limit_s,
                env=client.environment(),
                every_s=job.every_s,
                pss=client.processes,
            )
        if (words := server.died()) is not None:
            raise RuntimeError(f"the ground-truth server ended during the run: {words}")
    log = arithmetic.read_log(server.log_path)
    row.figures |= cost(done.usage, log)
    if done.code is None:
        seen, whole = len(log.requests), len(log.whole())
        row.error = (
            f"no result: not done after {job.limit_s:.0f} s, with {whole} of the {job.load.requests} requests "
            f"answered whole and {seen - whole} otherwise; ended"
        )
        return
    if done.code != 0:
        row.error = f"exit code {done.code}: {done.words}"
    outcome = client.read(folder)
    row.error = row.error if outcome.ok == 0 else None  # a generator may exit 1 because requests failed
    counted = [one for one in log.requests if one.tokens]
    if outcome.requests:
        mine = {one.request_id for one in outcome.requests}
        counted = [one for one in counted if one.request_id in mine]
    row.ok, row.failed = outcome.ok, outcome.failed
    row.figures |= compare(job, outcome, log, counted)
    row.figures |= hot(counted, done.usage)
    share = log.core_share_max
    if share is None and counted:
        share = server.usage.core_share_max(*arithmetic.span(counted))
    if share is not None:
        row.figures["server_core_share"] = share
        row.server_limited = share > arithmetic.SERVER_LIMIT
    row.failures = _failures(outcome)


def cost(usage: Usage, log: ServerLog) -> Figures:
    """Start-up, processor time and memory of the whole command."""
    figures: Figures = {
        "whole_s": (usage.ended_ns - usage.began_ns) / 1e9,
        "cpu_whole_s": usage.cpu_s,
        "rss_peak_mb": usage.rss_peak / _MIB,
        "processes": float(usage.processes),
    }
    if usage.pss_peak is not None:
        figures["pss_peak_mb"] = usage.pss_peak / _MIB
    if log.requests:
        first = log.requests[0].received_ns
        figures["start_s"] = (first - usage.began_ns) / 1e9
        figures["cpu_to_start_s"] = usage.cpu_at(first)
        if (rss := usage.rss_at(first)) is not None:
            figures["rss_at_start_mb"] = rss / _MIB
        if (pss := usage.pss_at(first)) is not None:
            figures["pss_at_start_mb"] = pss / _MIB
    return figures


def hot(counted: Sequence[Served], usage: Usage) -> Figures:
    """Rates and processor time between the first request and the last token of what counts."""
    figures = arithmetic.throughput(counted)
    if figures:
        used = usage.cpu_between(*arithmetic.span(counted))
        figures["cpu_hot_s"] = used
        figures["cores"] = used / figures["hot_s"]
        figures["cpu_s_per_mtok"] = used / figures["tokens"] * 1e6
    return figures


def compare(job: Job, outcome: Outcome, log: ServerLog, counted: Sequence[Served]) -> Figures:
    """The client's figures against the server's."""
    figures: Figures = {"requests_at_server": float(len(log.requests)), **outcome.extra}
    for name, (low, high) in outcome.percentiles.items():
        figures[f"client_{name}_p50_ms"], figures[f"client_{name}_p99_ms"] = low, high
    if outcome.requests:
        figures |= arithmetic.matched(log, outcome.requests)
        figures["unmatched"] = len(outcome.requests) - figures["matched"]
        figures |= arithmetic.deviations(log, outcome.requests)
    else:
        figures |= arithmetic.distribution(log, outcome.percentiles)
    if job.load.concurrency is not None and counted and job.scenario in ("accuracy", "busy"):
        figures["load_kept"] = arithmetic.load_kept(counted, job.load.concurrency, REQUEST_MS)
    if job.load.rate_per_s is not None:
        figures |= arithmetic.arrivals(counted, job.load.rate_per_s)
        if job.level == "poisson":
            figures["exponential_p"] = arithmetic.exponential_p(one.received_ns for one in counted)
            due = [one.scheduled_ns for one in outcome.requests if one.scheduled_ns is not None]
            if due:
                figures["scheduled_exponential_p"] = arithmetic.exponential_p(due)
        figures["truth_ttft_max_ms"] = max(one.ttft_ms for one in counted)
        figures["truth_ttft_p99_ms"] = arithmetic.percentile((one.ttft_ms for one in counted), 99)
    injected = [one for one in log.requests if one.fault is not None]
    if job.client == OURS:
        figures |= fault_figures(outcome, log)
    else:
        figures["faults_injected"] = float(len(injected))
    return figures


def fault_figures(outcome: Outcome, log: ServerLog) -> Figures:
    """Each request's fault against the class our samples give it: how many were injected among those measured,
    how many have another class than theirs, and how many that had begun to answer kept no chunk."""
    truth = log.by_id()
    ours = {**{one.request_id: None for one in outcome.requests}, **outcome.failures}
    wrong = injected = begun = 0
    for ident, kind in ours.items():
        served = truth.get(ident)
        expected = CLASSES.get(served.fault, served.fault) if served is not None and served.fault else None
        injected += expected is not None
        wrong += kind != expected
        begun += served is not None and expected is not None and served.tokens > 0
    return {
        "faults_injected": float(injected),
        "faults_misclassed": float(wrong),
        "partial_begun": float(begun),
    }


def _failures(outcome: Outcome) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in outcome.failures.values():
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
