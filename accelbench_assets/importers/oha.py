"""oha: ``--output-format json`` (form read in its source, ``printer.rs``).

Belongs here: recognising that object and mapping its figures (seconds become ms). Does not belong here: what
the requests asked for, which oha does not know.

oha is an HTTP tool: nothing it times is a token's time. Its first byte is the head of the answer, its
latency ends with the body, and its percentiles are of every answer, error pages included. Only counts and
requests a second are ours. It names neither model nor load.
"""

from __future__ import annotations

from typing import Any

from accelbench_assets.importers.document import Fields, Source
from accelbench_assets.importers.model import WHOLE_RUN, Figure, ImportedRun, ordered

KIND, TOOL = "oha", "oha"
_DEADLINE = "aborted due to deadline"
"""Requests that the tool itself cut at the end of its time; no failures of the server."""
_LEVELS = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}


def matches(document: Any) -> bool:
    """Whether *document* is such a result."""
    if not isinstance(document, dict) or not isinstance(document.get("summary"), dict):
        return False
    return "requestsPerSec" in document["summary"] and "latencyPercentiles" in document


def read(source: Source) -> list[ImportedRun]:
    """The one run of the file. Raises ``ImportRefused`` naming the field."""
    fields = Fields(source.name, source.documents[0])
    summary, statuses = fields.child("summary"), fields.child("statusCodeDistribution")
    counts = {code: statuses.count(code) for code in statuses.names()}
    failures = fields.maybe_child("errorDistribution")
    lost = {text: failures.count(text) for text in failures.names()} if failures else {}
    ok = sum(count for code, count in counts.items() if code.startswith("2"))
    errors = sum(counts.values()) - ok + sum(n for text, n in lost.items() if text != _DEADLINE)
    duration = summary.number("total")
    figures = []
    if sum(counts.values()):
        triple = fields.child("details").child("firstByte")
        figures = [
            _figure(fields, "latency", "latencyPercentiles", summary, sum(counts.values())),
            _figure(fields, "first_byte", "firstBytePercentiles", triple, sum(counts.values())),
        ]
    reasons = {
        "latency": "of the whole answer, not up to the last token; error pages are in it",
        "first_byte": "the head of the answer, which a server may send before any token",
        "tokens": "an HTTP tool counts none",
        "requests_per_s": "completed requests (2xx); the tool's own figure counts every request",
        "rates": WHOLE_RUN,
    }
    return [
        ImportedRun(
            kind=KIND,
            tool=TOOL,
            tool_version=None,
            model=None,
            load=None,
            ok=ok,
            errors=errors,
            duration_s=duration,
            rates={"requests_per_s": ok / duration if duration > 0 else None},
            verbatim=tuple(figure for figure in figures if figure is not None),
            reasons=reasons,
        )
    ]


def _figure(fields: Fields, metric: str, name: str, triple: Fields, n: int) -> Figure | None:
    percentiles = fields.maybe_child(name)  # firstBytePercentiles came later than the rest of the form
    if percentiles is None:
        return None
    levels = {ours: percentiles.number(theirs) for ours, theirs in _LEVELS.items() if theirs in percentiles}
    seconds = Figure(
        metric,
        "s",
        n,
        levels,
        mean=triple.maybe("average"),
        low=triple.maybe("fastest"),
        high=triple.maybe("slowest"),
        method="nearest_above",
    )
    return ordered(seconds, fields).scaled(1000.0, "ms")
