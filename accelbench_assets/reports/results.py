"""The results table as a page shows it: columns, and for each run and step the text and sort value of a cell.

Belongs here: which columns there are, how a gate, a failure or a missing price is worded, what a cell sorts
by. Does not belong here: queries (``reports/pages``), number formats (``format``), markup (templates).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelbench_assets.reports.data import Row
from accelbench_assets.reports.format import MISSING, count, moment, money, share, significant

QUANTILES = ("p50", "p90", "p95", "p99")
METRICS = {
    "ttft": ("TTFT", "time to first token, from the scheduled arrival"),
    "tpot": ("TPOT", "time per output token of one request"),
    "itl": ("ITL", "inter-token latency, pooled over requests"),
    "e2e": ("E2E", "end-to-end latency, to the last token"),
}
VERDICTS = ("pass", "warn", "void")


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``kind`` is ``text`` or ``number``, ``better`` is ``lower``, ``higher`` or empty."""

    key: str
    label: str
    unit: str = ""
    kind: str = "number"
    group: str = ""
    quantile: str = ""
    better: str = ""
    explain: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: text, what it sorts by (``None``: last), a second line, a style (``gate``, ``missing``)."""

    text: str
    sort: float | str | None = None
    note: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One run × step, ready for the table and the chart."""

    run_id: str
    cell_key: str
    model: str
    subtitle: str
    origin: str
    evidence_level: str
    hardware: str
    verdict: str
    reservations: tuple[str, ...]
    engine: str
    engine_version: str
    instance: str
    workload: str
    deployment: str
    load_kind: str
    load_value: float
    output_tokens_per_s: float | None
    ttft_ms: float | None
    ttft_low_ms: float | None
    ttft_high_ms: float | None
    cells: Mapping[str, Cell]


def _columns() -> tuple[Column, ...]:
    latency = tuple(
        Column(f"{metric}_{q}", q, "ms", group=label, quantile=q, better="lower", explain=explain)
        for metric, (label, explain) in METRICS.items()
        for q in QUANTILES
    )
    return (
        Column("model", "Model", kind="text"),
        Column("engine", "Engine", kind="text"),
        Column(
            "instance", "Instance", kind="text", explain="instance type, this machine or a foreign server"
        ),
        Column("load", "Load", explain="C: requests kept in flight; λ: scheduled arrivals a second"),
        Column(
            "output_tokens_per_s",
            "tok/s",
            group="Throughput",
            better="higher",
            explain="useful output tokens",
        ),
        Column("requests_per_s", "req/s", group="Throughput", better="higher", explain="requests completed"),
        *latency,
        Column("errors", "Errors", better="lower", explain="share of the scheduled requests that failed"),
        Column(
            "cost", "$/1M out", "", better="lower", explain="recovers the whole hour by output tokens alone"
        ),
        Column("validity", "Validity", kind="text", explain="worst verdict of the validity rules"),
        Column("workload", "Workload", kind="text"),
        Column("finished", "Finished", kind="text", explain="UTC"),
    )


COLUMNS = _columns()


@dataclass(frozen=True, slots=True)
class HeaderGroup:
    """A heading over *span* neighbouring columns; an empty label where a column stands alone."""

    label: str
    span: int
    unit: str
    explain: str
    quantiles: bool


def header_groups() -> tuple[HeaderGroup, ...]:
    """The first line of the table's head, from left to right."""
    groups: list[HeaderGroup] = []
    for column in COLUMNS:
        if column.group and groups and groups[-1].label == column.group:
            groups[-1] = replace(groups[-1], span=groups[-1].span + 1)
        else:
            unit, explain = (column.unit, column.explain) if column.quantile else ("", "")
            groups.append(HeaderGroup(column.group, 1, unit, explain, bool(column.quantile)))
    return tuple(groups)


def results(answers: Mapping[str, Iterable[Row]]) -> list[Result]:
    """Join the page's ``results``, ``percentiles`` and ``costs`` rows, in the order of ``results``."""
    percentiles = {(p["run_id"], p["step_index"], p["metric"]): p for p in answers["percentiles"]}
    costs: dict[tuple[str, int], list[Row]] = {}
    for cost in answers["costs"]:
        costs.setdefault((cost["run_id"], cost["step_index"]), []).append(cost)
    return [
        _result(row, percentiles, costs.get((row["run_id"], row["step_index"]), []))
        for row in answers["results"]
    ]


def _result(row: Row, percentiles: Mapping[tuple[str, int, str], Row], costs: list[Row]) -> Result:
    run_id, step = row["run_id"], row["step_index"]
    model, deployment = str(row["model"]), _label(row["cell_key"])
    verdict, reservations = judgement(row["validity"], row["verdict"])
    closed = row["load_kind"] == "closed"
    cells = {
        "model": Cell(model, model),
        "instance": _text(row["instance_type"], row["accelerator_name"]),
        "engine": Cell(
            str(row["engine"]), f"{row['engine']} {row['engine_version']}", str(row["engine_version"] or "")
        ),
        "workload": _text(row["workload_id"]),
        "load": Cell(f"{'C' if closed else 'λ'}={row['load_value']:g}", row["load_value"]),
        "output_tokens_per_s": _number(row["output_tokens_per_s"]),
        "requests_per_s": _number(row["requests_per_s"]),
        "errors": _errors(row),
        "validity": Cell(verdict, VERDICTS.index(verdict) if verdict in VERDICTS else None),
        "cost": cost_cell(costs),
        "finished": Cell(moment(row["committed_at"])[:16], moment(row["committed_at"])),
    }
    for metric in METRICS:
        found = percentiles.get((run_id, step, metric))
        cells |= {f"{metric}_{q}": quantile_cell(found, q) for q in QUANTILES}
    ttft = percentiles.get((run_id, step, "ttft"), {})
    return Result(
        run_id=run_id,
        cell_key=str(row["cell_key"]),
        model=model,
        subtitle=deployment,
        origin=str(row["origin"]),
        evidence_level=str(row["evidence_level"]),
        hardware=str(row["hardware"] or ""),
        verdict=verdict,
        reservations=reservations,
        engine=str(row["engine"]),
        engine_version=str(row["engine_version"] or ""),
        instance=str(row["instance_type"]),
        workload=str(row["workload_id"]),
        deployment=deployment,
        load_kind=str(row["load_kind"]),
        load_value=float(row["load_value"]),
        output_tokens_per_s=row["output_tokens_per_s"],
        ttft_ms=_finite(ttft.get("p50")),
        ttft_low_ms=_finite(ttft.get("p50_ci_low")),
        ttft_high_ms=_finite(ttft.get("p50_ci_high")),
        cells=cells,
    )


def quantile_cell(found: Row | None, quantile: str) -> Cell:
    """A quantile's cell: a value with its interval, or its gate in words; never a number behind a gate."""
    if found is None:
        return Cell(MISSING, style="missing", note="not measured")
    gate, value = found[f"{quantile}_gate"], _finite(found[quantile])
    if gate in ("published", "wide") and value is not None:
        low, high = found[f"{quantile}_ci_low"], found[f"{quantile}_ci_high"]
        interval = "" if low is None else f"≥ {significant(low)}"
        if low is not None and high is not None:
            interval = f"{significant(low)}–{significant(high)}"
        return Cell(significant(value), value, f"{interval} wide".strip() if gate == "wide" else interval)
    if gate == "needs_n":
        needed = found[f"{quantile}_needs_n"]
        return Cell("needs more requests" if needed is None else f"needs ≥ {needed:,} requests", style="gate")
    if gate == "beyond_timeout":
        return Cell("> timeout", math.inf, style="gate")
    if gate == "derived":
        return Cell("not published", style="gate", note="the tokens of a chunk were inferred, not counted")
    return Cell(MISSING, style="missing", note="not measured")


def cost_cell(costs: list[Row]) -> Cell:
    """USD per 1M output tokens at the lowest known price, or why there is none. A declared price says so."""
    priced = [c for c in costs if c["usd_per_1m_output_full_hour"] is not None]
    if not priced:
        reasons = sorted({str(c["missing_reason"]) for c in costs if c["missing_reason"]})
        return Cell(MISSING, note=(reasons or ["no price known"])[0].replace("_", " "), style="missing")
    best = min(priced, key=lambda c: (c["tier"] != "on_demand", c["usd_per_1m_output_full_hour"]))
    tier = str(best["tier"] or "").replace("_", " ")
    return Cell(
        money(best["usd_per_1m_output_full_hour"]),
        float(best["usd_per_1m_output_full_hour"]),
        "declared price" if best["price_declared"] else " · ".join(filter(None, (tier, best["region"]))),
    )


def judgement(validity: Any, step_verdict: str | None) -> tuple[str, tuple[str, ...]]:
    """The worst verdict of a run's rules and its step, and a sentence for every rule that did not pass."""
    rules = json.loads(validity) if isinstance(validity, str) and validity else validity or {}
    verdicts, sentences = [step_verdict] if step_verdict in VERDICTS else [], []
    for rule, entry in sorted(rules.items()) if isinstance(rules, Mapping) else ():
        verdict = entry.get("verdict") if isinstance(entry, Mapping) else entry
        verdicts.append(verdict if verdict in VERDICTS else "pass")
        if verdict in ("warn", "void"):
            text = entry.get("text") if isinstance(entry, Mapping) else ""
            sentences.append(f"{rule}: {text or verdict}")
    if not verdicts:
        return "not judged", ()
    return max(verdicts, key=VERDICTS.index), tuple(sentences)


def _label(cell_key: Any) -> str:
    """The deployment part of a cell key without its digest: ``tp1-bf16``."""
    parts = str(cell_key).split("~")
    return parts[3].rpartition("-")[0] if len(parts) == 5 else ""


def _text(value: Any, note: Any = None) -> Cell:
    return Cell(str(value), str(value), str(note or "")) if value else Cell(MISSING, style="missing")


def _number(value: float | None) -> Cell:
    return (
        Cell(significant(value), value)
        if value is not None
        else Cell(MISSING, style="missing", note="not measured")
    )


def _errors(row: Row) -> Cell:
    if row["error_rate"] is None:
        return Cell(MISSING, style="missing", note="not measured")
    return Cell(
        share(row["error_rate"]),
        row["error_rate"],
        f"{count(row['errors'])} of {count(row['requests_scheduled'])}",
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
