"""``genai-perf profile``: ``*_genai_perf.json`` (read in genai-perf 0.0.16).

Belongs here: recognising that object, mapping its figures, and the ``{unit, avg, p50 …}`` form that aiperf
took over from it. Does not belong here: aiperf's own files (``aiperf``).

What is ours: TTFT and request latency, from the send to the first and last token. Not ours: its ITL divides
by a local tokenizer's count, which need not be the server's.
"""

from __future__ import annotations

from typing import Any

from accelbench_assets.importers.document import Fields, Source
from accelbench_assets.importers.model import (
    SUCCESSES,
    WHOLE_RUN,
    Figure,
    ImportedRun,
    Load,
    closed_too,
    plain_figure,
)

KIND, TOOL = "genai_perf", "genai-perf"
METRICS = {
    "time_to_first_token": "ms",
    "request_latency": "ms",
    "inter_token_latency": "ms",
    "output_token_throughput_per_user": "tokens/s/user",
}
LOCAL_TOKENS = "its divisor is a local tokenizer's count of the text, not the server's count"
_NAMES = {"mean": "avg", "std": "std", "min": "min", "max": "max"} | {
    p: p for p in ("p50", "p90", "p95", "p99")
}
_REASONS = {
    "inter_token_latency": LOCAL_TOKENS,
    "output_token_throughput_per_user": "1 / its inter_token_latency",
    "output_tokens_per_s": "tokens as a local tokenizer counts them",
    "requests_per_s": "failed requests count too",
    "rates": WHOLE_RUN,
    "percentiles": SUCCESSES,
}


def matches(document: Any) -> bool:
    """Whether *document* is such a result and not aiperf's, which has the same form and names its version."""
    if not isinstance(document, dict) or "aiperf_version" in document:
        return False
    config = document.get("input_config")
    return "request_throughput" in document and isinstance(config, dict) and "perf_analyzer" in config


def read(source: Source) -> list[ImportedRun]:
    """The one run of the file. Raises ``ImportRefused`` naming the field."""
    fields = Fields(source.name, source.documents[0])
    config = fields.child("input_config")
    rate, count = average(fields, "request_throughput"), fields.child("request_count").count("avg")
    load = _load(config.child("perf_analyzer").maybe_child("stimulus"))
    figures = {name: of for name, unit in METRICS.items() if (of := stated(fields, name, unit, count))}
    own = {
        ours: figures[name]
        for ours, name in (("ttft_from_send", "time_to_first_token"), ("e2e_from_send", "request_latency"))
        if name in figures
    }
    duration = count / rate if rate else 0.0
    names = config.raw("model_names")
    endpoint = config.maybe_child("endpoint")
    inputs, outputs = (
        maybe_average(fields, "input_sequence_length"),
        maybe_average(fields, "output_sequence_length"),
    )
    return [
        ImportedRun(
            kind=KIND,
            tool=TOOL,
            tool_version=None,
            model=str(names[0]) if isinstance(names, list) and len(names) == 1 else None,
            load=load,
            ok=count,
            errors=None,
            duration_s=duration,
            endpoint=endpoint.maybe_text("url") if endpoint else None,
            rates={
                "requests_per_s": rate,
                "output_tokens_per_s": maybe_average(fields, "output_token_throughput"),
                "input_tokens_per_s": inputs * rate if inputs is not None else None,
            },
            input_tokens_mean=inputs,
            output_tokens_mean=outputs,
            own=closed_too(own, load),
            verbatim=tuple(figures.values()),
            reasons=_REASONS,
        )
    ]


def average(fields: Fields, name: str) -> float:
    """``avg`` of metric *name*."""
    return fields.child(name).number("avg")


def maybe_average(fields: Fields, name: str) -> float | None:
    """As :func:`average`, ``None`` when the metric is missing."""
    return average(fields, name) if name in fields else None


def stated(
    fields: Fields, name: str, unit: str, n: int | None, method: str = "linear"
) -> Figure | None:  # fmt: skip
    """The distribution of metric *name*, ``None`` when the file has none."""
    metric = fields.maybe_child(name)
    if metric is None:
        return None
    return plain_figure(
        name, unit, metric, _NAMES, n=metric.count("count") if "count" in metric else n, method=method
    )


def _load(stimulus: Fields | None) -> Load | None:
    if stimulus is not None and "concurrency" in stimulus:
        return Load("closed", stimulus.number("concurrency", low=1))
    if stimulus is not None and "request_rate" in stimulus:
        return Load("open", stimulus.number("request_rate", low=1e-9), "constant")
    return None
