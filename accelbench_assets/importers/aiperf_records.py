"""``aiperf profile --export-level records``: ``profile_export.jsonl``, one request a line (aiperf 0.13.0).

Belongs here: reducing those records by our own rules: inverse ECDF, failures as +inf, the server's token
counts. Does not belong here: the summary the tool prints of them (``aiperf``).

The lines name neither model nor load; both are the importer's to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from accelbench_assets.importers.document import Fields, ImportRefused, Source
from accelbench_assets.importers.model import LEVELS, WHOLE_RUN, Figure, ImportedRun

KIND, TOOL = "aiperf_records", "aiperf"


def matches(document: Any) -> bool:
    """Whether *document* is a line of such a file."""
    return isinstance(document, dict) and {"metadata", "metrics"} <= set(document)


@dataclass(slots=True)
class _Sums:
    ttft: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    inputs: float = 0.0
    outputs: float = 0.0
    failed: int = 0
    local_counts: int = 0
    first_ns: float = math.inf
    last_ns: float = 0.0


def read(source: Source) -> list[ImportedRun]:
    """The one run of the file. Raises ``ImportRefused`` naming line and field."""
    sums = _Sums()
    for number, document in enumerate(source.documents, 1):
        record = Fields(f"{source.name}, line {number}", document)
        metadata = record.child("metadata")
        if metadata.maybe_text("benchmark_phase") in (None, "profiling"):
            _add(sums, record, metadata)
    ok = len(sums.latency)
    if not ok:
        raise ImportRefused(
            f"{source.name}: none of its {len(source.documents)} records is a completed request.",
            hint="Import a run in which requests completed.",
        )
    span = (sums.last_ns - sums.first_ns) / 1e9
    own = {
        "ttft_from_send": _figure("ttft_from_send", sums.ttft, sums.failed),
        "e2e_from_send": _figure("e2e_from_send", sums.latency, sums.failed),
        "tpot": _figure("tpot", sums.tpot, 0),
        "chunk_gap": _figure("chunk_gap", sums.gaps, 0),
    }
    reasons = {"rates": WHOLE_RUN, "tpot": "the first chunk is taken as one token"}
    if sums.local_counts:
        reasons["tokens"] = f"{sums.local_counts} of {ok} answers are counted by a local tokenizer"
    return [
        ImportedRun(
            kind=KIND,
            tool=TOOL,
            tool_version=None,
            model=None,
            load=None,
            ok=ok,
            errors=sums.failed,
            duration_s=span,
            started_at=datetime.fromtimestamp(sums.first_ns / 1e9, UTC),
            rates={
                "requests_per_s": ok / span if span > 0 else None,
                "output_tokens_per_s": sums.outputs / span if span > 0 else None,
                "input_tokens_per_s": sums.inputs / span if span > 0 else None,
            },
            input_tokens_mean=sums.inputs / ok,
            output_tokens_mean=sums.outputs / ok,
            own={name: figure for name, figure in own.items() if figure is not None},
            reasons=reasons,
        )
    ]


def _add(sums: _Sums, record: Fields, metadata: Fields) -> None:
    if metadata.raw("was_cancelled") is True:
        return
    if "error" in record:
        sums.failed += 1
        return
    metrics = record.child("metrics")
    latency = metrics.child("request_latency").number("value")
    first = (
        metrics.child("time_to_first_token").number("value") if "time_to_first_token" in metrics else latency
    )
    served = "usage_completion_tokens" in metrics
    tokens = metrics.child("usage_completion_tokens" if served else "output_sequence_length").number("value")
    prompt = metrics.maybe_child("usage_prompt_tokens") or metrics.maybe_child("input_sequence_length")
    start = metadata.number("request_start_ns")
    if "time_to_first_token" in metrics:  # an answer that came whole has none
        sums.ttft.append(first)
    sums.latency.append(latency)
    sums.local_counts += not served
    sums.outputs += tokens
    sums.inputs += prompt.number("value") if prompt else 0.0
    if tokens > 1 and latency > first:
        sums.tpot.append((latency - first) / (tokens - 1))
    if gaps := metrics.maybe_child("inter_chunk_latency"):
        sums.gaps += _numbers(gaps)
    sums.first_ns = min(sums.first_ns, start)
    sums.last_ns = max(sums.last_ns, start + latency * 1e6)


def _numbers(fields: Fields) -> list[float]:
    values = fields.raw("value")
    good = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1e12 for v in values
    )
    if not good:
        raise ImportRefused(
            f"{fields.file}: {fields.place}.value is no list of times.",
            hint="Import the file as the tool wrote it.",
        )
    return [float(v) for v in values]


def _figure(metric: str, values: list[float], failed: int) -> Figure | None:
    """Inverse ECDF of *values* with *failed* more that never came."""
    if not values:
        return None
    known = sorted(values)
    n = len(known) + failed
    ranks = {name: max(1, math.ceil(round(percent * n / 100, 9))) for name, percent in LEVELS.items()}
    mean = math.fsum(known) / len(known)
    return Figure(
        metric=metric,
        unit="ms",
        n=n,
        levels={name: known[rank - 1] if rank <= len(known) else math.inf for name, rank in ranks.items()},
        mean=mean,
        std=math.sqrt(math.fsum((v - mean) ** 2 for v in known) / len(known)),
        low=known[0],
        high=None if failed else known[-1],
        method="inverse_ecdf",
    )
