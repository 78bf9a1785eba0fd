"""How a recommendation is shown: flat rows, the JSON document, tables, and the arithmetic of the first.

Belongs here: columns and forms. Does not belong here: flags and names (``recommend``), what is said of prices
(``recommend_prices``), any arithmetic (``sizing``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.options import Format
from accelbench_assets.cli.output import Column, console, emit, number, write_csv
from accelbench_assets.cli.recommend_prices import (
    PRICE_FIELDS,
    fitting,
    price_cells,
    priced_with,
    print_warnings,
    warnings_of,
)
from accelbench_assets.cli.state import STATE

if TYPE_CHECKING:
    from accelbench_assets.pricing.offers import Offer, PriceBook
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
    *("usd_per_1m_output_full_hour_low", "usd_per_1m_output_full_hour_high", *PRICE_FIELDS, "warnings"),
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
    *(*_COST, *PRICE_FIELDS, "run_id", "warnings"),
)
ESTIMATED_COLUMNS = (
    Column("place", "#", "int"),
    Column("instance_type", "instance"),
    Column("tp", "tp", "int"),
    Column("replicas", "replicas", "int"),
    Column("quantization", "quant", keep=1),
    Column("concurrency", "conc", "int", keep=6),
    Column("ttft", "TTFT ms", keep=4),
    Column("tpot", "TPOT ms", keep=5),
    Column("rate", "req/s"),
    Column("instances", "need", "int", keep=2),
    Column("usd_per_hour", "$/h", "usd"),
    Column("price_zone", "zone"),
    Column("usd_per_hour_p90", "p90 $/h", "usd", keep=7),
    Column("payment", "payment", keep=8),
    Column("usd_per_1m_output_full_hour", "$/1M out", "usd", keep=3),
    Column("month", "$/month"),
    Column("measured_runs", "runs behind", "int", keep=9),
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
    Column("price_zone", "zone"),
    Column("usd_per_hour_p90", "p90 $/h", "usd", keep=6),
    Column("payment", "payment", keep=2),
    Column("usd_per_1m_output_full_hour", "$/1M out", "usd", keep=4),
    Column("month", "$/month"),
    Column("evidence_level", "evidence", keep=5),
)


def _cost_fields(cost: Cost, offer: Offer) -> dict[str, Any]:
    return {
        "instances": cost.instances,
        "replicas_needed": cost.replicas,
        "usd_per_hour": cost.usd_per_hour,
        "usd_per_request": cost.usd_per_request,
        "usd_per_1m_output_full_hour": cost.usd_per_1m_output,
        "usd_per_1m_total": cost.usd_per_1m_total,
        "usd_per_month": cost.usd_per_month,
        **price_cells(offer),
    }


def _three(name: str, found: Interval | None) -> dict[str, Any]:
    low, middle, high = (found.low, found.middle, found.high) if found else (None, None, None)
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def estimated_row(one: Ranked, model: ModelRow, offer: Offer) -> dict[str, Any]:
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
        **_cost_fields(one.cost, offer),
        "usd_per_1m_output_full_hour_low": None
        if usd is None or rate is None
        else usd * rate.middle / rate.high,
        "usd_per_1m_output_full_hour_high": None
        if usd is None or rate is None
        else usd * rate.middle / rate.low,
        "warnings": warnings_of(option, offer),
    }


def measured_row(one: MeasuredRow, offer: Offer) -> dict[str, Any]:
    """A measured answer as a flat row; the rate is of the whole run."""
    step = one.step
    return {
        "place": one.place,
        "origin": "measured",
        **{name: getattr(step, name) for name in MEASURED_FIELDS if hasattr(step, name)},
        **_cost_fields(one.cost, offer),
        "warnings": list(offer.warnings),
    }


def left_out_row(one: LeftOut) -> dict[str, Any]:
    """What is left out, why, and what to change."""
    remedies = [{"kind": remedy.kind, "text": remedy.text} for remedy in one.remedies]
    return {"instance_type": one.instance_type, "code": one.code, "reason": one.text, "remedies": remedies}


def document(
    found: Recommendation, measured: Measured, origin: str | None, book: PriceBook
) -> dict[str, Any]:
    """The JSON document; a list that was not asked for is absent."""
    body: dict[str, Any] = {"ask": _asked(found.ask), "prices": priced_with(book)}
    if origin != "estimated":
        body["measured"] = _measured(measured, book)
        body["measured_left_out"] = measured.left_out
    if origin != "measured":
        body["estimated"] = _estimated(found, book)
        body["left_out"] = [left_out_row(row) for row in found.left_out]
        body["arithmetic"] = _lines(found, book) if found.estimated else []
    return body


def _estimated(found: Recommendation, book: PriceBook, limit: int | None = None) -> list[dict[str, Any]]:
    model = found.ask.model
    return [
        estimated_row(one, model, book.offer(one.option.instance.instance_type))
        for one in found.estimated[:limit]
    ]


def _measured(found: Measured, book: PriceBook, limit: int | None = None) -> list[dict[str, Any]]:
    return [measured_row(one, book.offer(one.step.instance_type)) for one in found.rows[:limit]]


def _lines(found: Recommendation, book: PriceBook) -> list[str]:
    """The arithmetic of the first, priced in its own terms, with every warning at its end."""
    from accelbench_assets.sizing.explain import lines

    first = found.estimated[0]
    offer, told = book.offer(first.option.instance.instance_type), lines(first, found.ask)
    known = len(first.option.warnings)
    return [*told, *warnings_of(first.option, offer)[known:]]


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "model": ask.model.slug,
        "model_id": ask.model.model_id,
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


def print_csv(found: Recommendation, measured: Measured, origin: str, book: PriceBook) -> None:
    """One of the two lists: they have different columns and are never mixed."""
    if origin == "measured":
        write_csv(_measured(measured, book), MEASURED_FIELDS)
        return
    write_csv(_estimated(found, book), ESTIMATED_FIELDS)
    if measured.rows:
        STATE.note(f"{len(measured.rows)} measured rows are a list of their own: --origin measured.")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    month = row["usd_per_month"]
    terms = [row[name] for name in ("price_payment_option", "price_offering_class") if row[name]]
    row["payment"] = " ".join(terms).replace("_", " ")
    row["month"] = f"{month:,.0f}" if month is not None else "no price"
    for cell, name in (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("rate", "requests_per_s")):
        if f"{name}_low" in row:
            low, middle, high = row[f"{name}_low"], row[name], row[f"{name}_high"]
            row[cell] = f"{number(middle)} ({number(low, 2)}-{number(high, 2)})"
    return row


def print_tables(
    found: Recommendation, measured: Measured, origin: str | None, limit: int, book: PriceBook
) -> None:
    """Measured first, then estimates, the arithmetic of the first, and what does not serve; *limit* rows of each."""
    out, model = console(), found.ask.model
    out.print(f"Model: {model.slug} ({model.model_id})", soft_wrap=True)
    if book.snapshot_id is None:
        STATE.note("No snapshot of prices is in the lake: these are the packaged ones.")
    if origin != "estimated":
        rows = [_shown(row) for row in _measured(measured, book, limit)]
        if rows:
            emit(rows, fitting(MEASURED_COLUMNS, rows), Format.table, title="Measured")
            print_warnings(rows, book)
            out.print()
        if measured.left_out:
            why = ", ".join(f"{n} {reason}" for reason, n in measured.left_out.items())
            STATE.note(f"{'Left out' if rows else 'No measured cell answers this ask'}: {why}.")
        elif not rows:
            STATE.note("Nothing of this was measured yet.")
    if origin == "measured":
        return
    rows = [_shown(row) for row in _estimated(found, book, limit)]
    if rows:
        title = f"Estimated, not measured (req/s of one replica; {book.wish.described()})"
        emit(rows, fitting(ESTIMATED_COLUMNS, rows), Format.table, title=title)
        print_warnings(rows, book)
        more = len(found.estimated) - len(rows)
        if more:
            STATE.note(f"{more} more: --limit {len(found.estimated)}.")
        first = found.estimated[0].option.instance.instance_type
        out.print(f"\nHow {first} comes to this:", soft_wrap=True)
        for line in _lines(found, book):
            out.print(f"  {line}", soft_wrap=True)
    _left_out(found, limit)


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
