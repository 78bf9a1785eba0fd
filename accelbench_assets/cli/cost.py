"""``accelbench cost``: what a run's tokens and requests cost anywhere, and what serving a load would cost a month.

Belongs here: choosing run, prices and date, laying out what the join says, replicas for a rate.
Does not belong here: formulas (``sql/marts``, ``pricing``), which prices there are (``prices``), what we have spent
ourselves (``spending``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, console, number, write_csv, write_json, write_table
from accelbench_assets.cli.progress import load_label
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake
    from accelbench_assets.sqlkit.costs import Offer

ANY = "any"
COLUMNS = (
    Column("load", "load"),
    Column("tier", "tier"),
    Column("payment", "payment", keep=2),
    Column("region", "region", keep=1),
    Column("zone", "zone", keep=9),
    Column("hourly_usd", "USD/h", "usd"),
    Column("usd_per_request", "$/request", "usd"),
    Column("usd_per_1m_total", "$/1M total", "usd", keep=4),
    Column("usd_per_1m_input_split", "$/1M in", "usd", keep=5),
    Column("usd_per_1m_output_split", "$/1M out", "usd", keep=5),
    Column("usd_per_1m_input_full_hour", "full hour: in", "usd", keep=7),
    Column("usd_per_1m_output_full_hour", "or out", "usd", keep=6),
    Column("usd_per_1m_goodput_output", "$/1M good", "usd", keep=8),
    Column("as_of", "price of", keep=3),
    Column("missing_reason", "why none", wrap=True),
)
PROJECTION = (
    Column("tier", "tier"),
    Column("payment", "payment", keep=1),
    Column("region", "region"),
    Column("replicas", "replicas", "int"),
    Column("instances", "instances", "int"),
    Column("usd_per_month", "USD/month", "usd"),
    Column("autoscaled_usd_per_month", "autoscaled", "usd", keep=3),
    Column("utilisation_at_peak", "use at peak", "share", keep=2),
    Column("break_even_utilisation", "pays above", "share", keep=4),
    Column("cold_start_usd", "cold start", "usd", keep=5),
)
_PER_UNIT = ("usd_per_request", "usd_per_good_request", "usd_per_1m_")


def cost(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run, by id or prefix. Without: what we have spent."),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="Instead of a run: the current run of this cell (key or id).")
    ] = None,
    tier: Annotated[
        str, typer.Option("--tier", help="on_demand, reserved_1y, spot, …; any: all of them.")
    ] = "on_demand",
    region: Annotated[
        str | None, typer.Option("--region", help="Region of the prices (default: the setting); any: all.")
    ] = None,
    payment: Annotated[
        str | None, typer.Option("--payment", help="no_upfront, partial_upfront or all_upfront.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Prices as known at the end of this day (2026-11-30).")
    ] = None,
    rps: Annotated[
        float | None,
        typer.Option("--rps", help="Also: replicas and dollars a month for this peak request rate."),
    ] = None,
    curve: Annotated[
        str | None, typer.Option("--curve", help="With --rps: autoscaled over a day: office, consumer, flat.")
    ] = None,
    utilization: Annotated[
        float | None,
        typer.Option(
            "--utilization", help="Divide the costs by this use of the server (above 0, at most 1)."
        ),
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Cost of a run's steps at the prices of any region, tier, payment and day; declared prices always count.

    JSON is one object: offer, rows (every column of cost_per_token), projection. CSV has the rows. Without a run: every
    attempt's own cost and the month to date.
    """
    format_ = chosen(fmt, as_json)
    if run is None and cell is None:
        from accelbench_assets.cli.spending import show_spent

        show_spent(format_)
        return
    if run is not None and cell is not None:
        raise UsageError("cost: a run and --cell were both given: choose one.")
    if rps is not None and not rps > 0:
        raise UsageError(f"--rps: {rps:g} is not a request rate.")
    if utilization is not None and not 0 < utilization <= 1:
        raise UsageError(f"--utilization: {utilization:g} is not above 0 and at most 1.")
    if curve is not None:
        from accelbench_assets.pricing.fleet import CURVES

        if rps is None or curve not in CURVES:
            raise UsageError(f"--curve needs --rps and is one of {', '.join(CURVES)}.")
    from accelbench_assets.sqlkit.costs import Offer, cost_rows

    lake = STATE.lake()
    run_id = _run_of(lake, run, cell)
    place = region or STATE.settings.region
    # Every tier is joined, so that a commitment stands beside the on-demand price it competes with.
    offer = Offer(region=None if place == ANY else place, as_of=_day(as_of))
    found = cost_rows(lake, offer, run_ids=[run_id], declared=True).to_pylist()
    if not found:
        raise UsageError(
            f"Run {run_id} has no results, so it has no cost.", hint="`accelbench show` says why."
        )
    rows = _chosen(found, tier, payment, offer)
    if utilization is not None:
        rows = [_utilised(row, utilization) for row in rows]
    projection = _projection(lake, run_id, found, rows, rps, curve) if rps is not None else []
    if format_ is Format.json:
        asked = {
            "tier": tier,
            "region": place,
            "payment_option": payment,
            "as_of": as_of,
            "utilisation": utilization,
        }
        write_json({"run_id": run_id, "offer": asked, "rows": rows, "projection": projection})
    elif format_ is Format.csv:
        write_csv(rows, list(rows[0]))
    else:
        _show(rows, projection, rps, utilization)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--as-of: {text!r} is not a day such as 2026-11-30.") from None


def _run_of(lake: Lake, run: str | None, cell: str | None) -> str:
    if run is not None:
        from accelbench_assets.cli.results import find_record

        return str(find_record(lake, run)["run_id"])
    from accelbench_assets.cli.results import rows
    from accelbench_assets.cli.trials import cell_id_of
    from accelbench_assets.sqlkit.duck import connect

    cell_id = cell_id_of(lake, str(cell))
    with connect(lake, only=("benchmark_results",)) as db:
        found = rows(
            db, "select run_id from benchmark_results where is_current and cell_id = ? limit 1", [cell_id]
        )
    if not found:
        raise UsageError(
            f"--cell: {cell!r} has no current run.", hint="`accelbench runs` lists what became of it."
        )
    return str(found[0]["run_id"])


def _chosen(
    found: Sequence[dict[str, Any]], tier: str, payment: str | None, offer: Offer
) -> list[dict[str, Any]]:
    """The rows of the tier and payment asked for; steps of which none is left keep a row that says so."""
    priced = [row for row in found if row["price_point_id"] is not None]
    for flag, value, name in (("--tier", tier, "tier"), ("--payment", payment, "payment_option")):
        known = sorted(
            {str(row[name]) for row in priced if row[name] is not None} | {"on_demand"} - {payment}
        )
        if value not in (None, ANY, *known) and priced:
            raise UsageError(f"{flag}: no price of this instance has {value!r}. {near(str(value), known)}")
    kept = [
        row
        for row in priced
        if row["tier"] == "declared"
        or (tier in (row["tier"], ANY) and payment in (row["payment_option"], None))
    ]
    if kept:
        return kept
    asked = replace(offer, tier=None if tier == ANY else tier, payment_option=payment).described()
    priceless = ("usd_per", "price_", "instance_hourly", "hourly")
    blank: dict[str, Any] = {name: None for name in found[0] if name.startswith(priceless)}
    blank |= {"price_declared": False, "provider": None, "region": None, "tier": None, "payment_option": None}
    return [
        {**row, **blank, "missing_reason": f"no {asked} is known for {row['instance_type']}"}
        for row in {row["step_index"]: row for row in found}.values()
    ]


def _utilised(row: Mapping[str, Any], share: float) -> dict[str, Any]:
    """*row* with what every unit costs when the server is used for *share* of its capacity."""
    changed = {
        name: value / share for name, value in row.items() if name.startswith(_PER_UNIT) and value is not None
    }
    return {**row, **changed, "utilisation": share}


def _projection(
    lake: Lake,
    run_id: str,
    found: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    rps: float,
    curve: str | None,
) -> list[dict[str, Any]]:
    """Replicas and dollars a month at each of *rows*' prices, from the step that confirmed the capacity."""
    from accelbench_assets.cli.results import rows as read
    from accelbench_assets.pricing import fleet
    from accelbench_assets.sqlkit.duck import connect

    with connect(lake, only=("reporting_points",)) as db:
        points = read(db, "select * from reporting_points where run_id = ? and basis = 'at_slo'", [run_id])
    if not points:
        STATE.warn(
            "No replicas are counted: no open-loop step of the cell's current run met its latency target, and the rate "
            "at saturation is no capacity."
        )
        return []
    step, capacity = points[0]["step_index"], float(points[0]["capacity_requests_per_s"])
    on_demand = {
        (row["provider"], row["region"]): row["instance_hourly_usd"]
        for row in found
        if row["tier"] == "on_demand"
    }
    count = fleet.replicas(rps, capacity)
    projected = []
    for row in rows:
        if row["step_index"] != step or row["hourly_usd"] is None:
            continue
        hourly, listed = float(row["hourly_usd"]), on_demand.get((row["provider"], row["region"]))
        commits = str(row["tier"]).startswith(("reserved", "savings", "capacity"))
        scaled = None  # what is committed to is paid by night as well
        if curve is not None and row["ready_s"] is not None and not commits:
            scaled, _ = fleet.autoscaled_monthly_usd(
                hourly, rps, capacity, float(row["ready_s"]), curve=fleet.CURVES[curve]
            )
        projected.append(
            {
                **{name: row[name] for name in ("provider", "region", "zone", "tier", "payment_option")},
                "payment": _payment(row),
                "price_point_id": row["price_point_id"],
                "hourly_usd": row["hourly_usd"],
                "peak_requests_per_s": rps,
                "capacity_requests_per_s": capacity,
                "step_index": step,
                "replicas": count,
                "instances": count * int(row["instance_count"]),
                "usd_per_month": fleet.monthly_usd(hourly, count),
                "autoscaled_usd_per_month": scaled,
                "utilisation_at_peak": rps / (capacity * count),
                "break_even_utilisation": fleet.break_even_utilisation(
                    float(row["instance_hourly_usd"]), float(listed)
                )
                if commits and listed
                else None,
                "cold_start_usd": row["cold_start_usd"],
            }
        )
    return projected


def _payment(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[name]) for name in ("payment_option", "offering_class") if row[name])


def _show(
    rows: Sequence[Mapping[str, Any]],
    projection: Sequence[Mapping[str, Any]],
    rps: float | None,
    utilization: float | None,
) -> None:
    out = console()
    shown = [
        {
            **row,
            "load": load_label(str(row["load_kind"]), float(row["load_value"])),
            "payment": _payment(row),
            "as_of": str(row["price_as_of"] or "-")[:10],
        }
        for row in rows
    ]
    columns = [c for c in COLUMNS if c.name != "missing_reason" or any(row["missing_reason"] for row in rows)]
    write_table(columns, shown)
    first = rows[0]
    lines = [
        "in, out: the hour shared out, an output token weighing 4 input tokens. full hour: all of it from input or all"
        " from output; never add the two."
    ]
    if utilization is not None:
        lines.append(f"All costs are those of a server used for {utilization:.0%} of its capacity.")
    if first["usage_share"] is not None and first["usage_share"] < 1:
        lines.append(
            f"{first['accelerators_used']} of {first['accelerators_billed']} accelerators were used; whole instances"
            f" are billed, and so they are here (a share of {first['usage_share']:.0%} would cost that much of it)."
        )
    for line in lines:
        out.print(line, soft_wrap=True)
    if projection:
        out.print()
        title = f"For {number(rps)} requests/s at the peak (capacity {number(projection[0]['capacity_requests_per_s'])}"
        write_table(PROJECTION, projection, title=f"{title}/s within the target, used to 75 %)")
