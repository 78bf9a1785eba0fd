"""How a recommendation is shown: flat rows, the JSON document, tables, and the arithmetic of the first.

Belongs here: columns and forms. Does not belong here: flags and names (``recommend``), any arithmetic (``sizing``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.options import Format
from accelbench_assets.cli.output import Column, console, emit, number, write_csv
from accelbench_assets.cli.state import STATE

if TYPE_CHECKING:
    from accelbench_assets.sizing.ask import Ask
    from accelbench_assets.sizing.estimate import Interval
    from accelbench_assets.sizing.measured import Measured, MeasuredRow
    from accelbench_assets.sizing.money import Cost
    from accelbench_assets.sizing.recommend import LeftOut, Ranked, Recommendation
    from partitions.rows import ModelRow

_COST = (
    "usd_per_hour",
    "usd_per_request",
    "usd_per_1m_output_full_hour",
    "usd_per_1m_total",
    "usd_per_month",
)
ESTIMATED_FIELDS = (
    *(
        "place",
        "origin",
        "instance_type",
        "accelerator",
        "accelerators",
        "accelerators_used",
        "tp",
        "replicas",
    ),
    *(
        "quantization",
        "quantized",
        "weight_bytes",
        "max_model_len",
        "longest_context",
        "kv_cache_tokens",
        "concurrency",
    ),
    *("ttft_ms", "ttft_ms_low", "ttft_ms_high", "tpot_ms", "tpot_ms_low", "tpot_ms_high"),
    *(
        "requests_per_s",
        "requests_per_s_low",
        "requests_per_s_high",
        "output_tokens_per_s",
        "output_tokens_per_s_low",
    ),
    *("output_tokens_per_s_high", "measured_runs", "instances", "replicas_needed", *_COST),
    *("usd_per_1m_output_full_hour_low", "usd_per_1m_output_full_hour_high", "price_as_of"),
    *("missing_reason", "warnings"),
)
MEASURED_FIELDS = (
    *(
        "place",
        "origin",
        "instance_type",
        "engine",
        "engine_version",
        "tp",
        "replicas",
        "quantization",
        "workload_id",
    ),
    *(
        "evidence_level",
        "load_kind",
        "load_value",
        "ttft_p95_ms",
        "tpot_p95_ms",
        "requests_per_s",
        "instances",
    ),
    *(*_COST, "price_as_of", "missing_reason", "run_id"),
)
ESTIMATED_COLUMNS = (
    Column("place", "#", "int"),
    Column("instance_type", "instance"),
    Column("tp", "tp", "int"),
    Column("replicas", "replicas", "int"),
    Column("quantization", "quant"),
    Column("concurrency", "conc", "int", keep=2),
    Column("ttft", "TTFT ms"),
    Column("tpot", "TPOT ms"),
    Column("rate", "req/s"),
    Column("instances", "need", "int", keep=1),
    Column("usd_per_hour", "$/h", "usd"),
    Column("usd_per_1m_output_full_hour", "$/1M out", "usd", keep=4),
    Column("month", "$/month"),
    Column("measured_runs", "runs behind", "int", keep=3),
)
MEASURED_COLUMNS = (
    Column("place", "#", "int"),
    Column("instance_type", "instance"),
    Column("engine", "engine", keep=2),
    Column("tp", "tp", "int"),
    Column("quantization", "quant"),
    Column("workload_id", "workload", keep=3),
    Column("ttft_p95_ms", "TTFT p95", "ms"),
    Column("tpot_p95_ms", "TPOT p95", "ms"),
    Column("requests_per_s", "req/s", "rate"),
    Column("instances", "need", "int", keep=1),
    Column("usd_per_hour", "$/h", "usd"),
    Column("usd_per_1m_output_full_hour", "$/1M out", "usd", keep=4),
    Column("month", "$/month"),
    Column("evidence_level", "evidence", keep=5),
)


def _cost_fields(cost: Cost) -> dict[str, Any]:
    return {
        "instances": cost.instances,
        "replicas_needed": cost.replicas,
        "usd_per_hour": cost.usd_per_hour,
        "usd_per_request": cost.usd_per_request,
        "usd_per_1m_output_full_hour": cost.usd_per_1m_output,
        "usd_per_1m_total": cost.usd_per_1m_total,
        "usd_per_month": cost.usd_per_month,
        "price_as_of": cost.price_as_of,
        "missing_reason": cost.missing_reason,
    }


def _three(name: str, found: Interval | None) -> dict[str, Any]:
    low, middle, high = (found.low, found.middle, found.high) if found else (None, None, None)
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def estimated_row(one: Ranked, model: ModelRow) -> dict[str, Any]:
    """A ranked estimate as a flat row; rates are of one replica, costs of whole instances."""
    from accelbench_assets.sizing import kv

    option, way = one.option, one.option.way
    rate, usd = way.estimate.requests_per_s, one.cost.usd_per_1m_output
    return {
        "place": one.place,
        "origin": "estimated",
        "instance_type": option.instance.instance_type,
        "accelerator": option.instance.accelerator.id,
        "accelerators": option.instance.accelerator_count,
        "accelerators_used": option.devices_used,
        "tp": way.tp,
        "replicas": option.replicas,
        "quantization": way.weights.precision,
        "quantized": way.weights.how,
        "weight_bytes": way.weights.total_bytes,
        "max_model_len": way.pool.max_model_len,
        "longest_context": kv.longest(model, way.pool.blocks, in_flight=way.limits.in_flight),
        "kv_cache_tokens": way.pool.tokens,
        "concurrency": way.estimate.concurrency,
        **_three("ttft_ms", way.estimate.ttft_ms),
        **_three("tpot_ms", way.estimate.tpot_ms),
        **_three("requests_per_s", way.estimate.requests_per_s),
        **_three("output_tokens_per_s", way.estimate.output_tok_s),
        "measured_runs": way.priors.runs,
        **_cost_fields(one.cost),
        "usd_per_1m_output_full_hour_low": None
        if usd is None or rate is None
        else usd * rate.middle / rate.high,
        "usd_per_1m_output_full_hour_high": None
        if usd is None or rate is None
        else usd * rate.middle / rate.low,
        "warnings": list(option.warnings),
    }


def measured_row(one: MeasuredRow) -> dict[str, Any]:
    """A measured answer as a flat row; the rate is of the whole run."""
    step = one.step
    return {
        "place": one.place,
        "origin": "measured",
        **{name: getattr(step, name) for name in MEASURED_FIELDS if hasattr(step, name)},
        **_cost_fields(one.cost),
    }


def left_out_row(one: LeftOut) -> dict[str, Any]:
    """What is left out, why, and what to change."""
    remedies = [{"kind": remedy.kind, "text": remedy.text} for remedy in one.remedies]
    return {"instance_type": one.instance_type, "code": one.code, "reason": one.text, "remedies": remedies}


def document(found: Recommendation, measured: Measured, origin: str | None) -> dict[str, Any]:
    """The JSON document; a list that was not asked for is absent."""
    from accelbench_assets.sizing.explain import lines

    body: dict[str, Any] = {"ask": _asked(found.ask)}
    if origin != "estimated":
        body["measured"] = [measured_row(row) for row in measured.rows]
        body["measured_left_out"] = measured.left_out
    if origin != "measured":
        body["estimated"] = [estimated_row(row, found.ask.model) for row in found.estimated]
        body["left_out"] = [left_out_row(row) for row in found.left_out]
        body["arithmetic"] = lines(found.estimated[0], found.ask) if found.estimated else []
    return body


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "model": ask.model.slug,
        "isl": ask.isl,
        "osl": ask.osl,
        "ttft_ms": ask.ttft_ms,
        "tpot_ms": ask.tpot_ms,
        "rps": ask.rps,
        "max_usd_per_month": ask.max_usd_per_month,
        "quantization": ask.quantization,
        "kv_cache_dtype": ask.kv_cache_dtype,
        "max_model_len": ask.context,
    }


def print_csv(found: Recommendation, measured: Measured, origin: str) -> None:
    """One of the two lists: they have different columns and are never mixed."""
    if origin == "measured":
        write_csv([measured_row(row) for row in measured.rows], MEASURED_FIELDS)
        return
    write_csv([estimated_row(row, found.ask.model) for row in found.estimated], ESTIMATED_FIELDS)
    if measured.rows:
        STATE.note(f"{len(measured.rows)} measured rows are a list of their own: --origin measured.")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    month, reason = row["usd_per_month"], row["missing_reason"]
    row["month"] = f"{month:,.0f}" if month is not None else f"none: {reason}"
    for cell, name in (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("rate", "requests_per_s")):
        if f"{name}_low" in row:
            low, middle, high = row[f"{name}_low"], row[name], row[f"{name}_high"]
            row[cell] = f"{number(middle)} ({number(low, 2)}-{number(high, 2)})"
    return row


def print_tables(found: Recommendation, measured: Measured, origin: str | None, limit: int) -> None:
    """Measured first, then estimates, the arithmetic of the first, and what does not serve; *limit* rows of each."""
    out = console()
    if origin != "estimated":
        rows = [_shown(measured_row(row)) for row in measured.rows[:limit]]
        if rows:
            emit(rows, MEASURED_COLUMNS, Format.table, title="Measured")
            out.print()
        elif measured.left_out:
            why = ", ".join(f"{n} {reason}" for reason, n in measured.left_out.items())
            STATE.note(f"No measured cell answers this ask: {why}.")
        else:
            STATE.note("Nothing of this was measured yet.")
    if origin == "measured":
        return
    rows = [_shown(estimated_row(row, found.ask.model)) for row in found.estimated[:limit]]
    if rows:
        emit(rows, ESTIMATED_COLUMNS, Format.table, title="Estimated, not measured (req/s of one replica)")
        more = len(found.estimated) - len(rows)
        if more:
            STATE.note(f"{more} more: --limit {len(found.estimated)}.")
        _arithmetic(found)
    _left_out(found, limit)


def _arithmetic(found: Recommendation) -> None:
    from accelbench_assets.sizing.explain import lines

    first, out = found.estimated[0], console()
    out.print(f"\nHow {first.option.instance.instance_type} comes to this:", soft_wrap=True)
    for line in lines(first, found.ask):
        out.print(f"  {line}", soft_wrap=True)


def _left_out(found: Recommendation, limit: int) -> None:
    """Instances that do not serve; alike ones (same reason) share a line."""
    if not found.left_out:
        return
    alike: dict[tuple[str, str], list[LeftOut]] = {}
    for one in found.left_out:
        alike.setdefault((one.code, one.text), []).append(one)
    out = console()
    out.print("\nWhat does not serve:", soft_wrap=True)
    for (_, text), group in list(alike.items())[:limit]:
        out.print(f"  {', '.join(one.instance_type for one in group)}: {text}", soft_wrap=True)
        for remedy in group[0].remedies:
            out.print(f"    instead: {remedy.text}", soft_wrap=True)
    if len(alike) > limit:
        STATE.note(f"{len(alike) - limit} more reasons: --format json has all.")
