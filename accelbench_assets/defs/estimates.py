"""Estimates of the cells nobody has run.

Belongs here: the asset that keeps ``cell_estimates`` up to date. Does not belong here: the arithmetic and what it reads
(``sizing``).
"""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from accelbench_assets.defs.automation import DOWNSTREAM
from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.sizing.grid import look, store


@dg.asset(
    # The marts are how it reads prices and what measured runs teach the arithmetic.
    deps=["instance_types", "models", "pricing_snapshots", "latest_prices", "benchmark_results"],
    group_name="catalog",
    kinds={"parquet"},
    owners=OWNERS,
    automation_condition=DOWNSTREAM,
)
def cell_estimates(accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What is known of each cell without running it: it does not fit, is not sold, or an estimate."""
    lake, at = accelbench.lake(), datetime.now(UTC)
    grid = look(lake, accelbench.settings().region, at)
    uri = store(lake, grid, at)
    said: dict[str, Any] = {"cells": grid.cells, "states": dict(grid.states)}
    return dg.MaterializeResult(metadata={**table_metadata(grid.fresh, uri), **said})


ASSETS: list[dg.AssetsDefinition] = [cell_estimates]
