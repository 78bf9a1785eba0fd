"""inference-perf: ``summary_lifecycle_metrics.json`` and ``stage_N_lifecycle_metrics.json`` (0.7.0).

Belongs here: recognising those reports and mapping their figures (seconds become ms). Does not belong here:
our own log under its formulas (``bench.compat``).

What is ours: TTFT, from the send to the first content. Not ours: its TPOT divides by a local tokenizer's
count unless told otherwise (the report does not say), its ITL holds zeros inside a chunk, its latencies end
with the stream. A stage names its load, the summary does not; neither names the model.
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

KIND, TOOL = "inference_perf", "inference-perf"
_METRICS = {
    "time_to_first_token": "ttft",
    "time_per_output_token": "divides by a local tokenizer's count unless it was told to use the server's",
    "inter_token_latency": "the tokens of a chunk share its stamp: gaps of 0 inside, the full gap at its edge",
    "normalized_time_per_output_token": "request latency / N, so it includes TTFT",
    "request_latency": "ends with the stream: the usage chunk after the last token is in it",
}
_NAMES = {"mean": "mean", "min": "min", "max": "max", "p50": "median", "p999": "p99.9"}
_NAMES |= {p: p for p in ("p90", "p95", "p99")}


def matches(document: Any) -> bool:
    """Whether *document* is a lifecycle report."""
    return isinstance(document, dict) and {"load_summary", "successes", "failures"} <= set(document)


def read(source: Source) -> list[ImportedRun]:
    """The one run of a report. Raises ``ImportRefused`` naming the field."""
    fields = Fields(source.name, source.documents[0])
    successes, summary = fields.child("successes"), fields.child("load_summary")
    ok = successes.count("count")
    latency, throughput = successes.child("latency"), successes.child("throughput")
    figures = {name: _figure(latency.child(name), name, ok) for name in _METRICS if name in latency}
    load = _load(summary)
    own = {"ttft_from_send": figures["time_to_first_token"]} if "time_to_first_token" in figures else {}
    served, retold = successes.maybe_child("output_tokens"), successes.maybe_child("output_len")
    duration = fields.number("benchmark_time_seconds")
    reasons = {name: text for name, text in _METRICS.items() if name != "time_to_first_token"}
    reasons |= {
        "time_to_first_token": "answers of one token are left out",
        "rates": WHOLE_RUN,
        "percentiles": SUCCESSES,
    }
    outputs = throughput.number("output_tokens_per_sec")
    if served is not None and duration > 0:
        outputs = served.number("total") / duration  # as the server counts, whatever the rate was made of
    elif retold is not None:
        reasons["output_tokens_per_s"] = "tokens as a local tokenizer counts them"
    prompts = successes.maybe_child("prompt_tokens")
    return [
        ImportedRun(
            kind=KIND,
            tool=TOOL,
            tool_version=None,
            model=None,
            load=load,
            ok=ok,
            errors=fields.child("failures").count("count"),
            duration_s=duration,
            rates={
                "requests_per_s": throughput.number("requests_per_sec"),
                "output_tokens_per_s": outputs,
                "input_tokens_per_s": prompts.number("total") / duration
                if prompts and duration > 0
                else None,
            },
            input_tokens_mean=prompts.maybe("mean") if prompts else None,
            output_tokens_mean=served.maybe("mean") if served else None,
            own=closed_too(own, load),
            verbatim=tuple(figures.values()),
            reasons=reasons,
        )
    ]


def _figure(fields: Fields, name: str, ok: int) -> Figure:
    seconds = plain_figure(name, "s", fields, _NAMES, n=None if name == "inter_token_latency" else ok)
    return seconds.scaled(1000.0, "ms")


def _load(summary: Fields) -> Load | None:
    if "concurrency" in summary:
        return Load("closed", summary.number("concurrency", low=1))
    if "requested_rate" in summary:
        # Both of its timers draw random gaps; "constant" is exponential gaps rescaled.
        return Load("open", summary.number("requested_rate", low=1e-9), "poisson")
    return None
