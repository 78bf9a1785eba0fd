"""``accelbench query``: rows of the catalog.

Belongs here: filters, order and columns of the catalog listing.
Does not belong here: how the catalog is made (``sql/marts``), free queries (``sql``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    LimitOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.progress import load_label
from accelbench_assets.cli.results import quantile_cell, rows
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

ORIGINS = ("measured", "simulated", "estimated", "external")
EVIDENCE = ("demo", "smoke", "standard", "publication")
COLUMNS = (
    Column("model", "model"),
    Column("instance_type", "instance", keep=2),
    Column("engine", "engine", keep=11),
    Column("engine_version", "version", keep=14),
    Column("quantization", "quant", keep=13),
    Column("workload_id", "workload", keep=8),
    Column("load", "load"),
    Column("ttft_p50", "TTFT p50", "ms"),
    Column("ttft_p99", "TTFT p99", "ms", keep=4),
    Column("itl_p50", "ITL p50", "ms", keep=3),
    Column("e2e_p50", "E2E p50", "ms", keep=5),
    Column("output_tokens_per_s", "out tok/s", "rate"),
    Column("requests_per_s", "req/s", "rate", keep=10),
    Column("usd_per_1m_output_full_hour", "$/1M out", "usd", keep=6),
    Column("tier", "tier", keep=12),
    Column("verdict", "valid", keep=7),
    Column("evidence_level", "evidence", keep=1),
    Column("origin", "origin"),
    Column("run", "run"),
)
SQL = """
with cost as (
  select run_id, step_index, region as price_region, tier, payment_option, price_declared,
    instance_hourly_usd, usd_per_request, usd_per_1m_input_full_hour, usd_per_1m_output_full_hour,
    usd_per_1m_total, usd_per_1m_goodput_output, price_as_of,
    case when tier is null and missing_reason = concat('no price is known for ', instance_type)
      then concat('no ', $tier, ' price in ', $region, ' is known for ', instance_type)
      else missing_reason
    end as missing_reason
  from cost_per_token
  qualify row_number() over (
    partition by run_id, step_index
    order by instance_hourly_usd is null, tier = 'declared' desc, region = $region desc nulls last,
      usd_per_1m_output_full_hour, price_point_id
  ) = 1
)
select b.*, cost.* exclude (run_id, step_index)
from benchmark_results as b
left join cost on cost.run_id = b.run_id and cost.step_index = b.step_index
where ($every or b.is_current)
  and ($origin = 'any' or b.origin = $origin)
  and ($evidence is null or b.evidence_level = $evidence)
  and ($model is null or b.model = $model or b.model_id ilike '%' || $model || '%')
  and ($instance is null or b.instance_type = $instance or b.family = $instance)
  and ($engine is null or b.engine = $engine)
  and ($workload is null or b.workload_id = $workload or split_part(b.workload_id, '@', 1) = $workload)
"""
ORDER = "order by b.model, b.instance_type, b.engine, b.run_id desc, b.step_index"


def query(
    model: Annotated[
        str | None, typer.Option("--model", help="Only this model (slug or part of the id).")
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this instance type or family.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Only this engine.")] = None,
    workload: Annotated[
        str | None, typer.Option("--workload", help="Only this workload, with or without @version.")
    ] = None,
    evidence: Annotated[
        str | None, typer.Option("--evidence", help=f"Only this level: {', '.join(EVIDENCE)}.")
    ] = None,
    origin: Annotated[
        str, typer.Option("--origin", help="measured, simulated, estimated, external, or any.")
    ] = "measured",
    tier: Annotated[str, typer.Option("--tier", help="Price tier of the cost columns.")] = "on_demand",
    region: Annotated[str | None, typer.Option("--region", help="Region of the cost columns.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="COLUMN", help="Any column, such as ttft_p50.")
    ] = None,
    descending: Annotated[bool, typer.Option("--desc", help="Largest first.")] = False,
    all_runs: Annotated[
        bool, typer.Option("--all-runs", help="Every run, not only the current one of each cell.")
    ] = False,
    limit: LimitOption = 50,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Search the catalog: one row for each step of the current run of each cell, measured ones only by
    default.

    JSON and CSV have every column of benchmark_results and the cost columns of the tier and region asked for.
    """
    format_ = chosen(fmt, as_json)
    for flag, value, known in (("--origin", origin, (*ORIGINS, "any")), ("--evidence", evidence, EVIDENCE)):
        if value is not None and value not in known:
            raise UsageError(f"{flag}: {value!r} is not one of {', '.join(known)}.")
    parameters = {
        "model": model,
        "instance": instance,
        "engine": engine,
        "workload": workload,
        "evidence": evidence,
        "origin": origin,
        "every": all_runs,
        "tier": tier,
        "region": region or STATE.settings.region,
    }
    from accelbench_assets.cli.costing import offers_here
    from accelbench_assets.sqlkit.duck import connect

    if tier != "on_demand" or region is not None:
        with connect(STATE.lake(), only=("latest_prices",)) as db:
            check_price_filters(db, tier, region)
    rules = offers_here(tier, region)
    with connect(STATE.lake(), only=("benchmark_results", "cost_per_token"), rules=rules) as db:
        names = [str(c[0]) for c in db.execute(f"{SQL} limit 0", parameters).description or []]
        found = rows(db, f"{SQL} {order_by(sort, descending, names)} limit {limit}", parameters)
        others = _others(db, origin) if not found and format_ is Format.table else 0
    empty = "Nothing matches."
    if others:
        empty += f" There are {others} rows of other origins: --origin any shows them."
    if format_ is Format.table:
        found = [presented(row) for row in found]
    emit(found, COLUMNS, format_, fields=names, empty=empty)
    if format_ is Format.table and any(row["gated"] for row in found):
        STATE.note(
            "n>=X: too few requests for this quantile, so no figure is given; ~: rests on few or correlated requests."
        )


def check_price_filters(db: Any, tier: str, region: str | None) -> None:
    """Refuse a tier or region that no price has; the defaults are right before there is any price."""
    points = db.execute("select distinct tier, region from latest_prices").fetchall()
    tiers = sorted({"on_demand", *(str(t) for t, _ in points)})
    regions = sorted({STATE.settings.region, *(str(r) for _, r in points if r is not None)})
    for flag, value, known in (("--tier", tier, tiers), ("--region", region, regions)):
        if value is not None and value not in known:
            raise UsageError(f"{flag}: no price has {value!r}; there are: {', '.join(known)}.")


def order_by(sort: str | None, descending: bool, names: list[str]) -> str:
    """The order clause; ``ttft_p50`` stands for ``ttft_p50_ms``. Raises ``UsageError`` with near names."""
    if sort is None:
        return ORDER
    name = next((n for n in (sort, f"{sort}_ms") if n in names), None)
    if name is None:
        raise UsageError(f"--sort: there is no column {sort!r}. {near(sort, names)}")
    return f'order by "{name}" {"desc" if descending else "asc"} nulls last, b.run_id, b.step_index'


def _others(db: Any, origin: str) -> int:
    if origin == "any":
        return 0
    counted = db.execute("select count(*) from benchmark_results where origin <> ?", [origin]).fetchone()
    return int(counted[0]) if counted else 0


def gated(row: Mapping[str, Any], metric: str, quantile: str) -> dict[str, Any]:
    """One quantile of a catalog row in the form of a row of ``run_percentiles``."""
    name = f"{metric}_{quantile}"
    return {
        quantile: row.get(f"{name}_ms"),
        f"{quantile}_gate": row.get(f"{name}_gate"),
        f"{quantile}_needs_n": row.get(f"{name}_needs_n"),
    }


def presented(row: Mapping[str, Any]) -> dict[str, Any]:
    """A catalog row with the cells that a table shows instead of bare numbers."""
    shown = dict(row)
    gates = set()
    for metric, quantile in (("ttft", "p50"), ("ttft", "p99"), ("itl", "p50"), ("e2e", "p50")):
        cell = gated(row, metric, quantile)
        shown[f"{metric}_{quantile}"] = quantile_cell(cell, quantile, compact=True)
        gates.add(cell[f"{quantile}_gate"])
    shown["gated"] = bool(gates & {"needs_n", "wide"})
    shown["load"] = load_label(str(row["load_kind"]), float(row["load_value"]))
    shown["run"] = str(row["run_id"])[:13]
    if row.get("instance_hourly_usd") is None:
        shown["tier"] = None
    return shown
