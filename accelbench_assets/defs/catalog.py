"""Facts about models and instance types.

Belongs here: the assets that bring packaged facts into the lake.
Does not belong here: the facts (``partitions``' YAML, ``instances``, ``models``).
"""

import hashlib
from datetime import UTC, datetime
from importlib import resources

import dagster as dg
import pyarrow as pa

from accelbench_assets.defs.automation import FACT
from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.instances.facts import instance_types_table
from accelbench_assets.models.facts import models_table


def _digest(name: str) -> str:
    """Code version of a fact table: its packaged file."""
    return hashlib.sha256(resources.files("partitions").joinpath(name).read_bytes()).hexdigest()[:16]


def _store(accelbench: AccelBench, name: str, table: pa.Table) -> dg.MaterializeResult:  # type: ignore[type-arg]
    uri = accelbench.lake().write_fact(name, datetime.now(UTC).date().isoformat(), table)
    return dg.MaterializeResult(metadata=table_metadata(table, uri))


@dg.asset(
    group_name="catalog",
    kinds={"parquet", "yaml"},
    owners=OWNERS,
    automation_condition=FACT,
    code_version=_digest("instances.yaml"),
)
def instance_types(accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What each accelerated instance type is: accelerators, memory, network, with source and confidence."""
    return _store(accelbench, "instance_types", instance_types_table())


@dg.asset(
    group_name="catalog",
    kinds={"parquet", "yaml"},
    owners=OWNERS,
    automation_condition=FACT,
    code_version=_digest("models.yaml"),
)
def models(accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What each model of the catalog is: identity, revision, size, architecture facts, with source."""
    return _store(accelbench, "models", models_table())


ASSETS: list[dg.AssetsDefinition] = [instance_types, models]
