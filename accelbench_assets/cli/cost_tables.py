"""How the costs of a run are shown: what is the same in every row above the table, the rest in it, the words below.

Belongs here: columns, their order of leaving a narrow terminal, the lines that say what a figure means.
Does not belong here: which rows (``cost``), formulas (``sql/marts``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.cli.output import Column, console, number, write_table
from accelbench_assets.cli.progress import load_label
from accelbench_assets.cli.state import STATE
from accelbench_assets.pricing.offers import tier_warning
from accelbench_assets.pricing.points import UNSTATED_REGION as NOWHERE

Row = Mapping[str, Any]
COLUMNS = (
    Column("load", "load"),
    Column("tier", "tier"),
    Column("payment", "payment", keep=2),
    Column("region", "region"),
    Column("zone", "zone", keep=1),
    Column("hourly_usd", "USD/h", "usd"),
    Column("usd_per_request", "$/request", "usd"),
    Column("usd_per_1m_input_split", "$/1M in", "usd", keep=4),
    Column("usd_per_1m_output_split", "$/1M out", "usd", keep=4),
    Column("usd_per_1m_total", "$/1M total", "usd", keep=6),
    Column("usd_per_1m_input_full_hour", "in, full hour", "usd", keep=7),
    Column("usd_per_1m_output_full_hour", "out, full hour", "usd", keep=7),
    Column("usd_per_1m_goodput_output", "$/1M good out", "usd", keep=8),
    Column("as_of", "price of", keep=3),
    Column("missing_reason", "why none", wrap=True),
)
PROJECTION = (
    Column("tier", "tier"),
    Column("payment", "payment"),
    Column("region", "region"),
    Column("zone", "zone", keep=6),
    Column("replicas", "replicas", "int"),
    Column("instances", "instances", "int", keep=7),
    Column("usd_per_month", "USD/month", "usd"),
    Column("autoscaled_usd_per_month", "autoscaled", "usd", keep=1),
    Column("utilisation_at_peak", "use at peak", "share", keep=5),
    Column("break_even_utilisation", "pays above", "share", keep=2),
    Column("cold_start_usd", "cold start", "usd", keep=4),
)
_SAID_ONCE = ("tier", "payment", "region", "zone", "hourly_usd", "as_of")
"""Columns that go above the table when every row says the same."""


def payment_of(row: Row) -> str:
    """Such as ``all upfront standard``; empty where there is no choice."""
    return " ".join(str(row[name]) for name in ("payment_option", "offering_class") if row[name]).replace(
        "_", " "
    )


def show(
    rows: Sequence[Row], projection: Sequence[Row], rps: float | None, utilization: float | None
) -> None:
    """The costs, what they mean, and, at a request rate, the month."""
    out = console()
    first = rows[0]
    machines = f"{first['instance_count']} x " if first["instance_count"] > 1 else ""
    instance = f"{machines}{first['instance_type']}"
    reasons = {row["missing_reason"] for row in rows}
    if len(reasons) == 1 and None not in reasons:
        of = f", {first['tier']} in {first['region']}" if first["region"] not in (None, NOWHERE) else ""
        out.print(f"no cost of {instance}{of}: {reasons.pop()}", soft_wrap=True)
        return
    shown = [
        {
            **row,
            "load": load_label(str(row["load_kind"]), float(row["load_value"])),
            "payment": payment_of(row),
            "as_of": str(row["price_as_of"] or "-")[:10],
        }
        for row in rows
    ]
    priced = [row for row in shown if row["hourly_usd"] is not None]
    _table(COLUMNS, priced or shown, instance)
    for line in (*_meaning(priced or shown, utilization), *(_gaps(rows) if priced else ())):
        out.print(line, soft_wrap=True)
    if projection:
        out.print()
        _projected(projection, rps)


def _table(columns: Sequence[Column], rows: Sequence[Row], subject: str) -> None:
    same = {name for name in _SAID_ONCE if len({row.get(name) for row in rows}) == 1}
    one = rows[0]
    offer = [str(one[name]) for name in ("tier", "payment") if name in same and one[name]]
    region, zone = (one.get(name) if name in same else None for name in ("region", "zone"))
    if region not in (None, NOWHERE):
        offer.append(f"in {region} ({zone})" if zone else f"in {region}")
    title = [subject, *([" ".join(offer)] if offer else [])]
    title += [f"at {number(one['hourly_usd'])} USD/h"] if "hourly_usd" in same and "hourly_usd" in one else []
    title += [f"price of {one['as_of']}"] if "as_of" in same and "as_of" in one else []
    empty = {c.name for c in columns if all(row.get(c.name) in (None, "") for row in rows)}
    kept = [c for c in columns if c.name not in same | empty]
    hidden = write_table(kept, rows, title=", ".join(title))
    if hidden:
        STATE.note(f"No room for: {', '.join(hidden)} (a wider terminal, or --format json, shows them).")


def _meaning(rows: Sequence[Row], utilization: float | None) -> list[str]:
    """What the figures are, in sentences."""
    first = rows[0]
    lines = [
        "in, out: the hour shared out, an output token weighing 4 input tokens. full hour: all of it from input alone,"
        " or from output alone; never add the two."
    ]
    if utilization is not None:
        lines.append(f"All costs are those of a server used for {utilization:.0%} of its capacity.")
    if first["usage_share"] is not None and first["usage_share"] < 1:
        lines.append(
            f"{first['accelerators_used']} of {first['accelerators_billed']} accelerators were used; whole instances"
            f" are billed, and so they are here (a share of {first['usage_share']:.0%} would cost that much of it)."
        )
    tiers = dict.fromkeys(str(row["tier"]) for row in rows if row["hourly_usd"] is not None)
    return [*lines, *dict.fromkeys(text for tier in tiers if (text := tier_warning(tier)) is not None)]


def _gaps(rows: Sequence[Row]) -> list[str]:
    """What else was asked for and has no price, each reason once."""
    tiers: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["hourly_usd"] is None and row["missing_reason"]:
            name = f"{row['tier']} in {row['region']}" if row["region"] else str(row["tier"])
            tiers.setdefault(str(row["missing_reason"]), {})[name] = None
    return [f"no price of {', '.join(names)}: {reason}" for reason, names in tiers.items()]


def _projected(projection: Sequence[Row], rps: float | None) -> None:
    first, out = projection[0], console()
    _table(
        PROJECTION,
        projection,
        f"For {number(rps)} requests/s at the peak, {number(first['capacity_requests_per_s'])} a replica",
    )
    lines = [
        "replicas: used to 75 % of the rate that an open-loop step held within its target; a month has 730 hours."
    ]
    if first["is_bounded"] is False:
        lines.append("Nothing heavier was tried than that step, so fewer replicas might do.")
    if any(row["autoscaled_usd_per_month"] is not None for row in projection):
        lines.append(
            "autoscaled: replicas follow the curve's hours, cold starts paid; what is committed to does not."
        )
    if any(row["break_even_utilisation"] is not None for row in projection):
        lines.append("pays above: on demand is cheaper when less of the term than this is used.")
    for line in lines:
        out.print(line, soft_wrap=True)
