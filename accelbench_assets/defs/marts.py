"""Marts: one asset for each file in ``sql/marts``.

Belongs here: the factory, and which asset feeds which SQL table.
Does not belong here: SQL (``sql/``), running it (``sqlkit``).
"""

import dagster as dg

from accelbench_assets.defs.automation import DOWNSTREAM
from accelbench_assets.defs.benchmarks import asset_suffix
from accelbench_assets.defs.events import sink
from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.sqlkit.files import SqlFile, sql_files
from accelbench_assets.sqlkit.marts import build_mart
from partitions.cell import families

# Tables of the lake by the asset that writes them.
_PER_RUN = {"runs", "run_steps", "run_percentiles", "slo_results", "raw_samples", "engine_metrics", "cells"}
_FACTS = {"price_points": "pricing_snapshots", "instance_types": "instance_types", "models": "models"}


def upstream_assets(sql: SqlFile) -> list[str]:
    """Names of the assets that *sql* reads, in stable order."""
    found: set[str] = set()
    for table in sql.depends_on:
        if table in _PER_RUN:
            found |= {f"run_percentiles_{asset_suffix(family)}" for family in families()}
        else:
            found.add(_FACTS.get(table, table))
    return sorted(found)


def mart_asset(sql: SqlFile) -> dg.AssetsDefinition:
    """The asset of one mart."""

    @dg.asset(
        name=sql.name,
        deps=upstream_assets(sql),
        group_name="marts",
        kinds={"duckdb", "parquet", "sql"},
        owners=OWNERS,
        automation_condition=DOWNSTREAM,
        # Of the parsed statement: a comment does not make the table stale.
        code_version=sql.sha256[:16],
        description=sql.description,
    )
    def mart(context: dg.AssetExecutionContext, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
        sink(context.log)("phase", f"building {sql.name}", {})
        lake = accelbench.lake()
        table = build_mart(lake, sql.name)
        return dg.MaterializeResult(metadata=table_metadata(table, lake.uri("marts", sql.name)))

    return mart


def mart_assets() -> list[dg.AssetsDefinition]:
    """One asset a file, in stable order."""
    return [mart_asset(sql) for sql in sql_files("marts")]
