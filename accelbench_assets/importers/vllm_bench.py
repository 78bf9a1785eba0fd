"""``vllm bench serve --save-result``: one JSON object a run, ``--append-result`` one a line (vLLM 0.32.0).

Belongs here: recognising that object and mapping its figures. Does not belong here: our own log under vLLM's
formulas (``bench.compat``).

What is ours: with the completions API every event carries text, so TTFT, TPOT (first chunk taken as one
token), chunk gaps and E2E are the same quantities. With a chat API the first event may be role-only and the
last finish-only, and the tool stamps both: nothing there is ours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from accelbench_assets.importers.document import Fields, ImportRefused, Source
from accelbench_assets.importers.model import (
    SUCCESSES,
    WHOLE_RUN,
    Figure,
    ImportedRun,
    Load,
    closed_too,
    plain_figure,
)

KIND, TOOL = "vllm_bench", "vllm bench serve"
_METRICS = {"ttft": "ttft_from_send", "tpot": "tpot", "itl": "chunk_gap", "e2el": "e2e_from_send"}
_TEXT_ONLY = ("vllm", "openai")
"""Backends that use the completions API."""
_CHAT = "the tool stamps any event with choices, a role-only first and a finish-only last one included"


def matches(document: Any) -> bool:
    """Whether *document* is such a result: flat, with vLLM's own key names."""
    return isinstance(document, dict) and {"request_throughput", "completed", "total_input_tokens"} <= set(
        document
    )


def read(source: Source) -> list[ImportedRun]:
    """One run for each object of the file. Raises ``ImportRefused`` naming the field."""
    several = len(source.documents) > 1
    return [
        _benchmark(Fields(f"{source.name}, line {number}" if several else source.name, document))
        for number, document in enumerate(source.documents, 1)
    ]


def _benchmark(fields: Fields) -> ImportedRun:
    if "total_output_tokens" not in fields:
        raise ImportRefused(
            f"{fields.file}: total_output_tokens is missing: an embedding benchmark has no tokens to time.",
            hint="Import a result of text generation.",
        )
    backend = fields.maybe_text("backend") or fields.text("endpoint_type")
    ok, duration = fields.count("completed"), fields.number("duration")
    load = _load(fields)
    figures = tuple(_figure(fields, name, ok) for name in _METRICS if f"mean_{name}_ms" in fields)
    reasons = {"rates": WHOLE_RUN, "percentiles": SUCCESSES}
    own: dict[str, Figure] = {}
    if backend in _TEXT_ONLY:
        own = {_METRICS[figure.metric]: figure for figure in figures}
        reasons["tpot"] = "the first chunk is taken as one token"
    else:
        reasons |= {figure.metric: f"{_CHAT} (backend {backend})" for figure in figures}
    if load is not None and load.kind == "open" and "max_concurrency" in fields:
        reasons["load"] = "an open loop with a cap on requests in flight, so it is closed where it saturates"
    finished = _date(fields)
    if finished is not None:
        reasons["started_at"] = "the time zone is not stated; read as UTC"
    return ImportedRun(
        kind=KIND,
        tool=TOOL,
        tool_version=None,
        model=fields.maybe_text("model_id"),
        load=load,
        ok=ok,
        errors=fields.count("failed") if "failed" in fields else None,
        duration_s=duration,
        started_at=finished and finished - timedelta(seconds=duration),
        rates={
            "requests_per_s": fields.number("request_throughput"),
            "output_tokens_per_s": fields.number("output_throughput"),
            "total_tokens_per_s": fields.maybe("total_token_throughput"),
            "input_tokens_per_s": fields.number("total_input_tokens") / duration if duration else None,
        },
        input_tokens_mean=fields.number("total_input_tokens") / ok if ok else None,
        output_tokens_mean=fields.number("total_output_tokens") / ok if ok else None,
        own=closed_too(own, load),
        verbatim=figures,
        reasons=reasons,
    )


def _figure(fields: Fields, name: str, ok: int) -> Figure:
    names = {"mean": f"mean_{name}_ms", "std": f"std_{name}_ms", "p50": f"median_{name}_ms"}
    names |= {f"p{level}": f"p{level}_{name}_ms" for level in (90, 95, 99)}
    names["p999"] = f"p99.9_{name}_ms"
    return plain_figure(name, "ms", fields, names, n=None if name in ("itl", "tpot") else ok)


def _load(fields: Fields) -> Load:
    rate = fields.raw("request_rate")
    if rate in ("inf", float("inf"), None):
        if "max_concurrency" in fields:
            return Load("closed", fields.number("max_concurrency", low=1))
        return Load("closed", fields.number("num_prompts", low=1), "at_once")
    burstiness = fields.maybe("burstiness") if fields.raw("burstiness") != float("inf") else None
    arrival = "poisson" if burstiness == 1 else "constant" if burstiness is None else f"gamma:{burstiness:g}"
    return Load("open", fields.number("request_rate", low=1e-9), arrival)


def _date(fields: Fields) -> datetime | None:
    text = fields.maybe_text("date")
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise ImportRefused(
            f"{fields.file}: date is {text!r}, expected YYYYMMDD-HHMMSS.",
            hint="Import the file as the tool wrote it.",
        ) from None
