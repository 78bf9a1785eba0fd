"""Price snapshots.

Belongs here: the daily asset, its checks, its job and its freshness.
Does not belong here: prices and formulas (``pricing``).
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from pydantic import Field

from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.launch.host import local_instance
from accelbench_assets.pricing.refresh import Report, take

FIRST_DAY = "2026-11-01"
SHOWN = 20
days = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)


class PricingConfig(dg.Config):
    """Prices the user declares, beside what is known, and whether sources may be asked."""

    declared_usd_per_hour: dict[str, float] = Field(
        default_factory=dict, description="Instance type to USD per hour, as declared by the user."
    )
    ask: bool = Field(
        default=True,
        description="Ask the sources that settings allow (prices.aws) for what is due; false: only what is known.",
    )


def _spec(name: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name=name, asset="pricing_snapshots", blocking=blocking, description=description)


@dg.asset(
    partitions_def=days,
    group_name="pricing",
    kinds={"parquet"},
    owners=OWNERS,
    # One snapshot a day is the promise; a day and a half old is late.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36)),
    check_specs=[
        _spec(
            "price_or_reason",
            "Every price point has either a positive price or the reason it has none.",
            blocking=True,
        ),
        _spec(
            "possible_prices",
            "No source gave an impossible price or one far from the same machine's elsewhere, and no two prices "
            "contradict each other.",
        ),
        _spec("price_jumps", "No price moved by more than 20 % since the day before."),
        _spec("prices_vanished", "No price of the day before is gone."),
        _spec(
            "sources_answered",
            "Every source that was asked answered, with most of the known prices; else its last good ones stand.",
        ),
    ],
)
def pricing_snapshots(
    context: dg.AssetExecutionContext, config: PricingConfig, accelbench: AccelBench
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Price points of one day: packaged, asked, carried on and declared ones, each dated and sourced, or a reason."""
    settings, lake = accelbench.settings(), accelbench.lake()
    here = local_instance()
    declared = dict(config.declared_usd_per_hour)
    if settings.usd_per_hour is not None:
        declared.setdefault(here, settings.usd_per_hour)
    unpriced = {here} | {
        r["instance_type"] for r in lake.run_records() if "-" in r["instance_type"].split(".")[0]
    }
    report = take(
        lake,
        date.fromisoformat(context.partition_key),
        settings.prices,
        declared=tuple(declared.items()),
        also=tuple(sorted(unpriced)),
        regions=(settings.region,),
        providers=None if config.ask else (),
    )
    for outcome in report.failed:
        context.log.warning(outcome.sentence)
    return dg.MaterializeResult(
        metadata={
            **table_metadata(report.table, report.uri),
            "asked": [outcome.sentence for outcome in report.outcomes],
            "not_due": report.fresh,
        },
        check_results=_checks(report),
    )


def _checks(report: Report) -> list[dg.AssetCheckResult]:
    prices, reasons = (
        report.table.column(name).to_pylist() for name in ("effective_usd_per_hour", "missing_reason")
    )
    bad = sum(
        reason is None if price is None else reason is not None or price <= 0
        for price, reason in zip(prices, reasons, strict=True)
    )

    def told(name: str, findings: Sequence[str], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
        shown: list[str] = list(findings[:SHOWN])
        return dg.AssetCheckResult(
            check_name=name,
            passed=not findings,
            severity=severity,
            metadata={"found": len(findings), "first": shown},
        )

    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    return [
        dg.AssetCheckResult(check_name="price_or_reason", passed=bad == 0, metadata={"bad_rows": bad}),
        told("possible_prices", [*report.impossible, *report.implausible, *report.at_odds], error),
        told("price_jumps", report.jumps, warn),
        told("prices_vanished", report.vanished, warn),
        told("sources_answered", [outcome.sentence for outcome in report.failed], warn),
    ]


pricing_job = dg.define_asset_job("daily_prices", selection=[pricing_snapshots])


def today() -> str:
    """Partition key of the current UTC day."""
    return datetime.now(UTC).date().isoformat()


ASSETS: list[dg.AssetsDefinition] = [pricing_snapshots]
