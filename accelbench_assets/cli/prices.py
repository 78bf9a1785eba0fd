"""``accelbench prices list | show | refresh | diff``: what machines cost, who says so, and since when.

Belongs here: listing the snapshot of a day, asking for a new one, comparing two days.
Does not belong here: prices (``pricing``), costs of results (``query``, ``show``).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

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
    split_list,
)
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.price_findings import changes, exact, findings, kept
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import AccelBenchError, UsageError

if TYPE_CHECKING:
    from accelbench_assets.pricing.points import Point

app = typer.Typer(
    help="What machines cost: list, show, refresh, diff.", no_args_is_help=True, rich_markup_mode=None
)

FIELDS = (
    *("provider", "region", "zone", "instance_type", "os", "tenancy"),
    *("tier", "payment_option", "offering_class"),
    *("effective_usd_per_hour", "usd_per_hour", "usd_per_hour_p90", "upfront_usd", "term_hours", "sku"),
    *("effective_from", "fetched_at", "source", "source_sha256", "missing_reason"),
)
COLUMNS = (
    Column("instance_type", "instance"),
    Column("provider", "provider", keep=5),
    Column("region", "region"),
    Column("zone", "zone", keep=4),
    Column("tier", "tier"),
    Column("payment_option", "payment", keep=3),
    Column("offering_class", "class", keep=3),
    Column("price", "USD/h"),
    Column("p90", "p90 USD/h", keep=2),
    Column("upfront_usd", "upfront USD", "usd", keep=6),
    Column("term_hours", "term h", "int", keep=7),
    Column("fetched_at", "as of", "time"),
    Column("said", "source, or why there is no price", wrap=True),
)
ProviderOption = Annotated[str | None, typer.Option("--provider", help="Only this provider.")]
RegionOption = Annotated[
    str | None, typer.Option("--region", help="Only this region (default: the setting); any: all of them.")
]


@app.command("list")
def list_prices(
    instance: Annotated[str | None, typer.Option("--instance", help="Only this type or family.")] = None,
    region: RegionOption = None,
    tier: Annotated[str, typer.Option("--tier", help="Only this tier; any: all of them.")] = "on_demand",
    provider: ProviderOption = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what has no price, and why.")] = False,
    as_of: AsOfOption = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the latest prices, each with the day it is from and its source."""
    format_ = chosen(fmt, as_json)
    points = _known(day_of("--as-of", as_of))
    _check("--tier", tier, {p.tier for p in points} | {"on_demand", "any"})
    if provider is not None:
        _check("--provider", provider, {p.provider for p in points})
    found = [
        p
        for p in _in_region(points, region, provider)
        if tier in (p.tier, "any")
        and (provider is None or p.provider == provider)
        and (instance is None or instance in (p.instance_type, p.instance_type.split(".")[0]))
        and (not missing or p.missing_reason is not None)
    ]
    _emit(found, format_)


@app.command("show")
def show_prices(
    instance: Annotated[str, typer.Argument(help="The instance type, such as p5.48xlarge.")],
    region: RegionOption = None,
    as_of: AsOfOption = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Everything known of one type: every tier and payment, the reason where there is no price."""
    format_ = chosen(fmt, as_json)
    points = _known(day_of("--as-of", as_of))
    names = {p.instance_type for p in points}
    if instance not in names:
        raise UsageError(f"No price of {instance!r} is known. {near(instance, sorted(names))}")
    _emit([p for p in _in_region(points, region, None) if p.instance_type == instance], format_)


@app.command("refresh")
def refresh(
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Ask this provider; repeatable.")
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option("--region", help="Ask for this region; repeatable or with commas.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="How AWS is asked: api (credentials), bulk (public files), auto."),
    ] = None,
    accept_fewer: Annotated[
        bool,
        typer.Option("--accept-fewer", help="Believe an answer that lacks most of the prices known before."),
    ] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask for today's prices and keep them. What cannot be had or believed keeps its last good price and says so."""
    from accelbench_assets.pricing.providers import PROVIDERS
    from accelbench_assets.pricing.refresh import take

    format_ = chosen(fmt, as_json)
    names = split_list("--provider", provider) or [n for n, one in PROVIDERS.items() if one.asks]
    for name in names:
        _check("--provider", name, set(PROVIDERS))
        if not PROVIDERS[name].asks:
            raise UsageError(f"--provider: {name} is not asked; its prices come with the package.")
    settings = STATE.settings.prices
    mode = source or (settings.aws if settings.aws != "off" else "auto")
    _check("--source", mode, {"api", "bulk", "auto"})
    asked = tuple(split_list("--region", region)) or settings.regions
    settings = settings.model_copy(update={"aws": mode, "regions": asked})
    lake = STATE.lake()
    lake.check_writable()
    STATE.note(f"Asking {', '.join(names)} for {len(asked)} region(s): this takes minutes.")
    report = take(
        lake,
        datetime.now(UTC).date(),
        settings,
        regions=(STATE.settings.region,),
        providers=names,
        again=True,
        accept_fewer=accept_fewer,
    )
    rows = [
        {
            "unit": one.unit,
            "rows": one.rows,
            "priced": one.priced,
            "state": "failed" if one.error else "partly" if one.lost or one.unread else "ok",
            "last_good": one.last_good,
            "says": one.error
            or "; ".join((*(f"not believed: {why}" for why in one.lost), *one.unread, *one.odd)),
        }
        for one in report.outcomes
    ]
    columns = (
        Column("unit", "asked"),
        Column("rows", "rows", "int", keep=3),
        Column("priced", "prices", "int"),
        Column("state", "state"),
        Column("last_good", "last good", "time", keep=2),
        Column("says", "says", wrap=True),
    )
    emit(rows, columns, format_, fields=("unit", "rows", "priced", "state", "last_good", "says"))
    for finding in findings(report):
        STATE.warn(finding)
    for jump in report.jumps:
        STATE.note(f"moved by more than 20 %: {jump}")
    if report.outcomes and all(one.error for one in report.outcomes):
        raise AccelBenchError("No source gave a usable answer; the last good prices stand.")
    STATE.note(f"Kept as {report.uri}. Published pages and the catalog follow with the next publication.")


@app.command("diff")
def diff(
    since: Annotated[
        str | None, typer.Option("--from", help="The earlier day; default: the last but one.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="The later day; default: the last.")] = None,
    region: RegionOption = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What changed between two snapshots: prices that moved, came or went and why, and what nobody answered for."""
    format_ = chosen(fmt, as_json)
    from accelbench_assets.pricing.store import days

    known = list(days(STATE.lake().storage))
    later = day_of("--to", until) or (known[-1] if known else None)
    earlier = day_of("--from", since) or max((day for day in known if later and day < later), default=None)
    if later is None or earlier is None:
        raise UsageError(
            "There are not two days of prices to compare.", hint="`accelbench prices list` shows one."
        )
    if earlier >= later:
        raise UsageError(f"--from {earlier} is not before --to {later}.")
    before, after = (_in_region(_known(day), region, None) for day in (earlier, later))
    rows = changes(before, after)
    columns = (
        Column("price", "price"),
        Column("was", "was USD/h"),
        Column("is", "is USD/h"),
        Column("change", "change"),
        Column("says", "why there is no price", wrap=True, keep=2),
    )
    emit(rows, columns, format_, fields=("price", "was", "is", "change", "says"), empty="Nothing changed.")
    for stale in kept(before, after):
        STATE.note(stale)


def _known(day: date | None) -> list[Point]:
    """The points of the last snapshot up to *day* (today); packaged ones, if the lake has none yet."""
    from accelbench_assets.pricing.points import Point
    from accelbench_assets.pricing.snapshot import day_points
    from accelbench_assets.pricing.store import latest

    wanted = day or datetime.now(UTC).date()
    rows = latest(STATE.lake().storage, wanted)
    if rows:
        return [Point.from_row(row) for row in rows]
    STATE.note("No snapshot of prices is in the lake yet: these are the packaged ones.")
    return day_points(wanted, regions=(STATE.settings.region,))


def _in_region(points: list[Point], region: str | None, provider: str | None) -> list[Point]:
    """Without a region the one of the settings for AWS, and every place of the others."""
    if region is not None:
        _check("--region", region, {p.region for p in points} | {"any"})
        return points if region == "any" else [p for p in points if p.region == region]
    here = STATE.settings.region
    return [p for p in points if p.region == here or not p.provider.startswith("aws")]


def _emit(points: list[Point], format_: Format) -> None:
    rows = [{**p.to_row(), "price": exact(p.effective_usd_per_hour)} for p in points]
    for row in rows:
        row["said"] = row["missing_reason"] or row["source"]
        row["p90"] = exact(row["usd_per_hour_p90"])
    spot = any(row["usd_per_hour_p90"] is not None for row in rows)
    columns = [column for column in COLUMNS if spot or column.name != "p90"]
    emit(rows, columns, format_, fields=FIELDS, empty="No price matches.")


def _check(flag: str, value: str, known: set[str]) -> None:
    if value not in known:
        raise UsageError(f"{flag}: {value!r} is not known. {near(value, sorted(known))}")
