"""What is done by the clock: the weekly refresh of catalog facts, the daily prices.

Belongs here: schedules and the jobs they start.
Does not belong here: the assets (``catalog``, ``pricing``), benchmarks: those cost money and are started by people or
by a capped sensor.

Both run from the start. They read packaged facts and write a few small files into the lake, so there is nothing to
protect; a snapshot that is not taken is a day without a price.
"""

from datetime import UTC

import dagster as dg

from accelbench_assets.defs.catalog import instance_types, models
from accelbench_assets.defs.pricing import pricing_job

catalog_job = dg.define_asset_job(
    "weekly_catalog",
    selection=[instance_types, models],
    description="Facts of models and instance types, brought into the lake anew.",
)
weekly_catalog = dg.ScheduleDefinition(
    name="weekly_catalog_schedule",
    job=catalog_job,
    cron_schedule="0 4 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Mondays at 04:00 UTC.",
)


@dg.schedule(
    name="daily_prices_schedule",
    job=pricing_job,
    cron_schedule="0 5 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every day at 05:00 UTC: the price points of that day.",
)
def daily_prices(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """The partition of the day the tick belongs to, once however often the tick is made up for."""
    day = context.scheduled_execution_time.astimezone(UTC).date().isoformat()
    return dg.RunRequest(run_key=day, partition_key=day)


JOBS = [catalog_job, pricing_job]
SCHEDULES = [weekly_catalog, daily_prices]
