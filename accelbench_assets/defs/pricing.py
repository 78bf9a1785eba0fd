"""Price snapshots.

Belongs here: the daily asset, its job and its freshness.
Does not belong here: prices and formulas (``pricing``).
"""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
from pydantic import Field

from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.launch.host import local_instance
from accelbench_assets.pricing.snapshot import price_points

FIRST_DAY = "2026-11-01"
days = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)


class PricingConfig(dg.Config):
    """Prices the user declares, beside what is known."""

    declared_usd_per_hour: dict[str, float] = Field(
        default_factory=dict, description="Instance type to USD per hour, as declared by the user."
    )


@dg.asset(
    partitions_def=days,
    group_name="pricing",
    kinds={"parquet"},
    owners=OWNERS,
    # One snapshot a day is the promise; a day and a half old is late.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36)),
    check_specs=[
        dg.AssetCheckSpec(
            name="price_or_reason",
            asset="pricing_snapshots",
            blocking=True,
            description="Every price point has either a positive price or the reason it has none.",
        )
    ],
)
def pricing_snapshots(
    context: dg.AssetExecutionContext, config: PricingConfig, accelbench: AccelBench
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Price points of one day: packaged on-demand facts and declared prices, each dated and sourced, or a reason."""
    settings, lake = accelbench.settings(), accelbench.lake()
    here = local_instance()
    declared = dict(config.declared_usd_per_hour)
    if settings.usd_per_hour is not None:
        declared.setdefault(here, settings.usd_per_hour)
    unpriced = {here} | {
        r["instance_type"] for r in lake.run_records() if "-" in r["instance_type"].split(".")[0]
    }
    table = price_points(
        date.fromisoformat(context.partition_key),
        declared=tuple(declared.items()),
        also=tuple(sorted(unpriced)),
    )
    bad = sum(
        (row["usd_per_hour"] is None) == (row["missing_reason"] is None) or (row["usd_per_hour"] or 1) <= 0
        for row in table.select(["usd_per_hour", "missing_reason"]).to_pylist()
    )
    uri = lake.write_fact("price_points", context.partition_key, table)
    return dg.MaterializeResult(
        metadata=table_metadata(table, uri),
        check_results=[
            dg.AssetCheckResult(check_name="price_or_reason", passed=bad == 0, metadata={"bad_rows": bad})
        ],
    )


pricing_job = dg.define_asset_job("daily_prices", selection=[pricing_snapshots])


def today() -> str:
    """Partition key of the current UTC day."""
    return datetime.now(UTC).date().isoformat()


ASSETS: list[dg.AssetsDefinition] = [pricing_snapshots]
