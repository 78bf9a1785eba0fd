"""Schedules ask for what they say, and their jobs really run."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from accelbench_assets.definitions import all_assets
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.defs.schedules import JOBS, SCHEDULES
from accelbench_assets.lake.lake import Lake
from accelbench_assets.settings import load_settings

DEFS = dg.Definitions(
    assets=all_assets(),
    jobs=JOBS,
    schedules=SCHEDULES,
    resources={"accelbench": AccelBench()},
    executor=dg.in_process_executor,
)
REPOSITORY = DEFS.get_repository_def()
MOMENT = datetime.now(UTC).replace(hour=5, minute=0, second=0, microsecond=0)
TODAY = MOMENT.date().isoformat()


def tick(name: str, moment: datetime) -> list[dg.RunRequest]:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=moment, repository_def=REPOSITORY
        )
        return list(REPOSITORY.get_schedule_def(name).evaluate_tick(context).run_requests or [])


def test_both_run_from_the_start_once_a_week_and_once_a_day() -> None:
    found = {schedule.name: schedule for schedule in REPOSITORY.schedule_defs}
    assert {name: s.cron_schedule for name, s in found.items()} == {
        "weekly_catalog_schedule": "0 4 * * 1",
        "daily_prices_schedule": "0 5 * * *",
    }
    assert all(s.default_status == dg.DefaultScheduleStatus.RUNNING for s in found.values())
    assert all(schedule.execution_timezone == "UTC" for schedule in found.values())


def test_no_schedule_reaches_an_accelerator() -> None:
    for schedule in REPOSITORY.schedule_defs:
        keys = REPOSITORY.get_job(schedule.job_name).asset_layer.executable_asset_keys
        assert keys
        assert not [key for key in keys if key.to_user_string().startswith("raw_samples")]


def test_prices_are_those_of_the_day_itself_and_the_run_writes_them(home: Path) -> None:
    (request,) = tick("daily_prices_schedule", MOMENT)
    assert request.partition_key == TODAY
    with dg.DagsterInstance.ephemeral() as instance:
        job = REPOSITORY.get_job("daily_prices")
        assert job.execute_in_process(instance=instance, partition_key=request.partition_key).success
    days = Lake.open(load_settings().lake_url).storage.list("facts/price_points")
    assert [name for name in days if TODAY in name]


def test_the_catalog_job_brings_both_fact_tables_into_the_lake(home: Path) -> None:
    (request,) = tick("weekly_catalog_schedule", MOMENT)
    assert request.partition_key is None
    with dg.DagsterInstance.ephemeral() as instance:
        assert REPOSITORY.get_job("weekly_catalog").execute_in_process(instance=instance).success
    lake = Lake.open(load_settings().lake_url)
    assert lake.read_table("models").num_rows > 5
    assert lake.read_table("instance_types").num_rows > 20
