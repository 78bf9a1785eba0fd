"""The code location: assembles what ``defs`` defines. No implementation lives here."""

from collections.abc import Mapping

import dagster as dg

from accelbench_assets.defs import (
    automation,
    catalog,
    checks,
    estimates,
    notifications,
    pricing,
    publish,
    schedules,
    sensors,
    teardown,
)
from accelbench_assets.defs.benchmarks import benchmark_assets
from accelbench_assets.defs.marts import mart_assets
from accelbench_assets.defs.resources import AccelBench


def all_assets() -> list[dg.AssetsDefinition]:
    """Every asset of the graph, in stable order."""
    return [
        *catalog.ASSETS,
        *pricing.ASSETS,
        *benchmark_assets(),
        *mart_assets(),
        *estimates.ASSETS,
        *publish.ASSETS,
    ]


def build_defs(*, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """A fresh ``Definitions``; *resources* override the real ones (tests)."""
    return dg.Definitions(
        assets=all_assets(),
        asset_checks=checks.CHECKS,
        jobs=schedules.JOBS,
        schedules=schedules.SCHEDULES,
        sensors=[
            automation.automation_sensor,
            *sensors.SENSORS,
            *teardown.SENSORS,
            *notifications.SENSORS,
        ],
        resources={"accelbench": AccelBench(), **(resources or {})},
        # One step a run: a process for each step would only cost start-up time and a signal to forward.
        executor=dg.in_process_executor,
    )


defs = build_defs()
