"""Facts about models and instance types.

Belongs here: the assets that bring facts into the lake, the packaged ones or, when asked, those of EC2 and the hub.
Does not belong here: the facts (``partitions``' YAML), asking and merging (``instances``, ``models``).
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from accelbench_assets.defs.automation import FACT
from accelbench_assets.defs.metadata import OWNERS, table_metadata
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import AccelBenchError
from accelbench_assets.instances import facts as instance_facts
from accelbench_assets.instances.age import Age
from accelbench_assets.models import facts as model_facts
from accelbench_assets.models import live
from partitions.catalog import load_models

INSTANCES_AGREE, MODELS_AGREE = "agrees_with_ec2", "agrees_with_hub"


class InstancesConfig(dg.Config):
    """Whether EC2 is asked. By default it is not: the packaged facts need neither network nor credentials."""

    refresh: bool = Field(
        default=False, description="Ask EC2 and merge; needs AWS credentials, costs nothing."
    )
    regions: list[str] = Field(
        default_factory=list, description="Regions to ask; none: the setting facts.regions."
    )


class ModelsConfig(dg.Config):
    """Whether the model hub is asked. By default it is not."""

    refresh: bool = Field(default=False, description="Ask the hub for every model at its pinned commit.")
    only: list[str] = Field(default_factory=list, description="Models to ask for, by name here; none: all.")


def _digest(name: str) -> str:
    """Code version of a fact table: its packaged file."""
    return hashlib.sha256(resources.files("partitions").joinpath(name).read_bytes()).hexdigest()[:16]


def _store(
    accelbench: AccelBench,
    name: str,
    table: pa.Table,
    age: Age,
    said: Mapping[str, Any],
    check: dg.AssetCheckResult,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    uri = accelbench.lake().write_fact(name, datetime.now(UTC).date().isoformat(), table)
    about = {"packaged_as_of": age.as_of, "packaged_age_days": age.days, **said}
    return dg.MaterializeResult(metadata={**table_metadata(table, uri), **about}, check_results=[check])


def _agreement(name: str, asked: bool, told: list[str], failed: Mapping[str, str]) -> dg.AssetCheckResult:
    """Passed unless live and packaged facts contradict each other, or nothing could be asked that should have been."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=not told and not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join([*told, *failed.values()])[:1000] or ("they agree" if asked else "not asked"),
        metadata={"asked": asked, "contradictions": told, "failed": dict(failed)},
    )


@dg.asset(
    group_name="catalog",
    kinds={"parquet", "yaml"},
    owners=OWNERS,
    automation_condition=FACT,
    code_version=_digest("instances.yaml"),
    check_specs=[
        dg.AssetCheckSpec(
            name=INSTANCES_AGREE,
            asset="instance_types",
            description="What EC2 reports and what the package states are the same; each difference names both.",
        )
    ],
)
def instance_types(config: InstancesConfig, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What each accelerated instance type is: accelerators, memory, network, with source and confidence."""
    refreshed, failed = None, dict[str, str]()
    facts = accelbench.settings().facts
    if asks := config.refresh or facts.refresh_instances:
        try:
            refreshed = instance_facts.refresh(config.regions or facts.regions)
            failed = dict(refreshed.failed)
        except AccelBenchError as error:  # the packaged facts stand, and the check says why
            failed = {"ec2": str(error)}
    said: dict[str, Any] = {"asked": list(refreshed.asked) if refreshed else []}
    if refreshed is not None:
        said["ec2_contradicts_itself"] = list(refreshed.doubts)
        said["zones"] = {name: dict(one.zones) for name, one in refreshed.types.items() if one.zones}
    told = [str(one) for one in refreshed.contradictions] if refreshed else []
    return _store(
        accelbench,
        "instance_types",
        instance_facts.instance_types_table(refreshed),
        instance_facts.packaged_age(),
        said,
        _agreement(INSTANCES_AGREE, asks, told, failed),
    )


@dg.asset(
    group_name="catalog",
    kinds={"parquet", "yaml"},
    owners=OWNERS,
    automation_condition=FACT,
    code_version=_digest("models.yaml"),
    check_specs=[
        dg.AssetCheckSpec(
            name=MODELS_AGREE,
            asset="models",
            description="What the hub has at the pinned commits and what the package states are the same.",
        )
    ],
)
def models(config: ModelsConfig, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What each model of the catalog is: identity, revision, size, architecture facts, with source."""
    found = live.Refreshed({}, {}, ())
    settings = accelbench.settings()
    if asks := config.refresh or settings.facts.refresh_models:
        rows = [row for row in load_models().values() if not config.only or row.slug in config.only]
        found = live.refresh(rows, hub_url=settings.watch.hub_url)
    notes = {slug: list(one.notes) for slug, one in found.models.items() if one.notes}
    # A row without a commit cannot be asked for; that is known, and no fault of this round.
    failed = {slug: why for slug, why in found.failed.items() if load_models()[slug].commit is not None}
    return _store(
        accelbench,
        "models",
        model_facts.models_table(found.models),
        model_facts.packaged_age(),
        {"asked": list(found.models), "kept_packaged": dict(found.failed), "notes": notes},
        _agreement(MODELS_AGREE, asks, [str(one) for one in found.contradictions], failed),
    )


ASSETS: list[dg.AssetsDefinition] = [instance_types, models]
