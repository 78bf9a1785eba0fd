"""``accelbench cost``: what a run's tokens and requests cost anywhere, and what serving a load would cost a month.

Belongs here: choosing run, prices and date, replicas for a rate, the reason where there is no price.
Does not belong here: formulas (``sql/marts``, ``pricing``), how it is shown (``cost_tables``), which prices there are
(``prices``), what we have spent ourselves (``spending``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    AsOfOption,
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    day_of,
    near,
)
from accelbench_assets.cli.output import write_csv, write_json
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake
    from accelbench_assets.sqlkit.costs import Offer

ANY = "any"
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
        str,
        typer.Option(
            "--tier",
            help="on_demand, reserved_1y, reserved_3y, savings_1y, savings_3y, spot, capacity_block; any: all.",
        ),
    ] = "on_demand",
    region: Annotated[
        str | None, typer.Option("--region", help="Region of the prices (default: the setting); any: all.")
    ] = None,
    payment: Annotated[
        str | None,
        typer.Option(
            "--payment", help="Of reserved and savings: no_upfront, partial_upfront or all_upfront."
        ),
    ] = None,
    as_of: AsOfOption = None,
    rps: Annotated[
        float | None,
        typer.Option("--rps", help="Also the replicas and dollars a month for this many requests a second."),
    ] = None,
    curve: Annotated[
        str | None,
        typer.Option("--curve", help="With --rps: scaled over a day like this: office, consumer or flat."),
    ] = None,
    utilization: Annotated[
        float | None,
        typer.Option(
            "--utilization", help="The share of the server's capacity that is used; costs are divided by it."
        ),
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What a run's requests and tokens cost, at the prices of any region, tier, payment and day.

    A price you declared is always among them. Without a run: what every attempt has cost us, and the month to date.
    JSON is one object: run_id, offer, rows (every column of cost_per_token), projection; CSV has the rows.
    """
    format_ = chosen(fmt, as_json)
    if run is None and cell is None:
        given = {"--region": region, "--payment": payment, "--as-of": as_of, "--rps": rps, "--curve": curve}
        given |= {"--utilization": utilization, "--tier": None if tier == "on_demand" else tier}
        if alone := [flag for flag, value in given.items() if value is not None]:
            raise UsageError(
                f"{alone[0]} is about the cost of a run, and none was named.",
                hint="`accelbench runs` lists them; --cell takes a cell's current run.",
            )
        from accelbench_assets.cli.spending import show_spent

        show_spent(format_)
        return
    if run is not None and cell is not None:
        raise UsageError("cost: a run and --cell were both given: choose one.")
    if rps is not None and not 0 < rps < float("inf"):
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
    offer = Offer(region=None if place == ANY else place, as_of=day_of("--as-of", as_of))
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
        from accelbench_assets.cli.cost_tables import show

        show(rows, projection, rps, utilization)


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
    from accelbench_assets.pricing.points import PAYMENTS, TIERS

    priced = [row for row in found if row["price_point_id"] is not None]
    for flag, value, name, names in (
        ("--tier", tier, "tier", (*TIERS, ANY)),
        ("--payment", payment, "payment_option", PAYMENTS),
    ):
        if value is None or value in names:
            continue
        known = sorted({str(row[name]) for row in priced if row[name] is not None}) or sorted(names)
        raise UsageError(f"{flag}: no price of this instance has {value!r}. {near(str(value), known)}")
    kept = [
        row
        for row in priced
        if row["tier"] == "declared"
        or (tier in (row["tier"], ANY) and payment in (row["payment_option"], None))
    ]
    if kept:
        return kept
    asked = replace(offer, tier=None if tier == ANY else tier, payment_option=payment)
    priceless = ("usd_per", "price_", "instance_hourly", "hourly")
    blank: dict[str, Any] = {name: None for name in found[0] if name.startswith(priceless)}
    blank |= {"price_declared": False, "provider": None, "region": None, "tier": None, "payment_option": None}
    said, kind = str(found[0]["missing_reason"] or ""), str(found[0]["instance_type"])
    own = "" if said == f"no {offer.described()} is known for {kind}" else said  # what the run says of it
    reason = _reason(asked, kind, priced, own)
    return [
        {**row, **blank, "missing_reason": reason}
        for row in {row["step_index"]: row for row in found}.values()
    ]


def _reason(asked: Offer, instance_type: str, priced: Sequence[Mapping[str, Any]], said: str) -> str:
    """Why there is no price as *asked*: what there is instead, or the command that may fill the gap."""
    from accelbench_assets.pricing.amazon import command
    from accelbench_assets.pricing.snapshot import NO_PRICE
    from partitions.cell import family_of

    text = f"no {asked.described()} is known for {instance_type}"
    family = family_of(instance_type)
    if family in NO_PRICE:
        return f"{text}: {NO_PRICE[family]}"
    there = sorted({str(row["tier"]) for row in priced if row["instance_hourly_usd"] is not None})
    if there:
        return f"{text}; there are prices of tier {', '.join(there)}"
    if said:
        return f"{text}; {said}"
    if asked.as_of is not None and asked.as_of < datetime.now(UTC).date():
        return f"{text}, and sources are only asked for the current day"
    return (
        f"{text}: `{command(asked.region or STATE.settings.region, asked.tier or 'on_demand')}` asks for one"
    )


def _utilised(row: Mapping[str, Any], share: float) -> dict[str, Any]:
    """*row* with what every unit costs when the server is used for *share* of its capacity."""
    from accelbench_assets.pricing.cost import utilised

    changed = {name: utilised(value, share) for name, value in row.items() if name.startswith(_PER_UNIT)}
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
    from accelbench_assets.cli.cost_tables import payment_of
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
    if curve is not None and all(row["ready_s"] is None for row in rows):
        STATE.warn("Nothing is scaled over the day: how long a start takes is not on record.")
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
                "payment": payment_of(row),
                "price_point_id": row["price_point_id"],
                "hourly_usd": row["hourly_usd"],
                "peak_requests_per_s": rps,
                "capacity_requests_per_s": capacity,
                "step_index": step,
                "is_bounded": points[0].get("is_bounded"),
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
