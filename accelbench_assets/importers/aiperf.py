"""``aiperf profile``: ``profile_export_aiperf.json`` and ``profile_export.jsonl`` (read in aiperf 0.13.0).

Belongs here: the summary and mapping its figures; the records of single requests are read by
``aiperf_records``. Does not belong here: our own log under aiperf's formulas (``bench.compat``).

What is ours: TTFT, request latency (it ends with the last content), and the chunk gaps. Its ITL is our TPOT
with the first chunk taken as one token, but only where it counted tokens as the server does; by default it
counts with a local tokenizer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from accelbench_assets.importers import genai_perf
from accelbench_assets.importers.document import Fields, ImportRefused, Source
from accelbench_assets.importers.genai_perf import LOCAL_TOKENS, average, maybe_average, stated
from accelbench_assets.importers.model import SUCCESSES, WHOLE_RUN, ImportedRun, Load, closed_too

KIND, TOOL = "aiperf", "aiperf"
METRICS = {**genai_perf.METRICS, "inter_chunk_latency": "ms"}
_OWN = {
    "time_to_first_token": "ttft_from_send",
    "request_latency": "e2e_from_send",
    "inter_chunk_latency": "chunk_gap",
}
_REASONS = {
    "inter_chunk_latency": "percentiles are a t-digest's estimates",
    "output_token_throughput_per_user": "1 / its inter_token_latency",
    "rates": WHOLE_RUN,
    "percentiles": SUCCESSES,
    "started_at": "the time zone is not stated; read as UTC",
}


def matches(document: Any) -> bool:
    """Whether *document* is a summary that names its aiperf version."""
    return isinstance(document, dict) and "aiperf_version" in document and "request_throughput" in document


def read(source: Source) -> list[ImportedRun]:
    """The one run of a summary. Raises ``ImportRefused`` naming the field."""
    fields = Fields(source.name, source.documents[0])
    if fields.raw("was_cancelled") is True or fields.raw("is_complete") is False:
        raise ImportRefused(
            f"{source.name}: is_complete or was_cancelled says that the run did not reach its end.",
            hint="Import a run that completed.",
        )
    ok, config = fields.child("request_count").count("avg"), fields.child("input_config")
    rate, load = average(fields, "request_throughput"), _load(config)
    # Its rates are over the bounds of the phase, which are wider than benchmark_duration (first send to last token).
    duration = ok / rate if rate else average(fields, "benchmark_duration")
    figures = {
        name: figure
        for name, unit in METRICS.items()
        if (
            figure := stated(
                fields, name, unit, ok, "t_digest" if name == "inter_chunk_latency" else "linear"
            )
        )
    }
    own = {ours: figures[name] for name, ours in _OWN.items() if name in figures}
    reasons = dict(_REASONS)
    endpoint = config.maybe_child("endpoint")
    served = endpoint is not None and endpoint.raw("use_server_token_count") is True
    tokens, outputs = (
        maybe_average(fields, "output_token_throughput"),
        maybe_average(fields, "output_sequence_length"),
    )
    if served and "inter_token_latency" in figures:
        own["tpot"] = figures["inter_token_latency"]
        reasons |= {"inter_token_latency": "our TPOT, with the first chunk taken as one token"}
    elif not served:
        reasons["inter_token_latency"] = LOCAL_TOKENS
        total = maybe_average(fields, "total_usage_completion_tokens")
        if total and ok and duration:  # the server's own count is in the file too
            tokens, outputs = total / duration, total / ok
        else:
            reasons["output_tokens_per_s"] = "tokens as a local tokenizer counts them"
    inputs = maybe_average(fields, "input_sequence_length" if served else "usage_prompt_tokens")
    inputs = maybe_average(fields, "input_sequence_length") if inputs is None else inputs
    return [
        ImportedRun(
            kind=KIND,
            tool=TOOL,
            tool_version=fields.text("aiperf_version"),
            model=model_name(config),
            load=load,
            ok=ok,
            errors=fields.child("error_request_count").count("avg") if "error_request_count" in fields else 0,
            duration_s=duration,
            started_at=_time(fields),
            endpoint=first_text(endpoint, "urls"),
            rates={
                "requests_per_s": rate,
                "output_tokens_per_s": tokens,
                "input_tokens_per_s": inputs * rate if inputs is not None else None,
                "concurrency_mean": maybe_average(fields, "effective_concurrency"),
            },
            input_tokens_mean=inputs,
            output_tokens_mean=outputs,
            own=closed_too(own, load),
            verbatim=tuple(figures.values()),
            reasons=reasons,
        )
    ]


def first_text(fields: Fields | None, name: str) -> str | None:
    """The only text of the list *name*, ``None`` when there is another number of them."""
    value = fields.raw(name) if fields else None
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else None


def model_name(config: Fields) -> str | None:
    """The model's name if exactly one was under test."""
    models = config.maybe_child("models")
    items = models.raw("items") if models else None
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        return None
    name = items[0].get("name")
    return name if isinstance(name, str) and name.strip() else None


def _load(config: Fields) -> Load | None:
    """The load of the only profiling phase; ``None`` where one number does not describe it."""
    phases = [p for p in config.children("phases") if p.raw("kind") in ("profiling", None)]
    if len(phases) != 1:
        return None
    (phase,) = phases
    if "rate" in phase:
        kind = phase.maybe_text("type") or "constant"
        return Load(
            "open", phase.number("rate", low=1e-9), kind if kind in ("poisson", "constant") else "gamma"
        )
    return Load("closed", phase.number("concurrency", low=1)) if "concurrency" in phase else None


def _time(fields: Fields) -> datetime | None:
    text = fields.maybe_text("start_time")
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ImportRefused(
            f"{fields.file}: start_time is {text!r}, no ISO 8601 time.",
            hint="Import the file as the tool wrote it.",
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
