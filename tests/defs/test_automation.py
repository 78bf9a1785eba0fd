"""Conditions tick as their docstring says: in memory, no daemon."""

import functools
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from accelbench_assets.definitions import build_defs

MARTS = {"benchmark_results", "coverage"}
Tick = Callable[..., tuple[set[tuple[str, str | None]], Any]]


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs()


@pytest.fixture
def tick(defs: dg.Definitions, instance: dg.DagsterInstance) -> Tick:
    """One evaluation of the conditions of the named assets (all, if none is): what is asked for, and the cursor."""
    return functools.partial(_tick, defs, instance)


def _tick(
    defs: dg.Definitions, instance: dg.DagsterInstance, cursor: Any, *names: str
) -> tuple[set[tuple[str, str | None]], Any]:
    chosen = dg.AssetSelection.assets(*names) if names else dg.AssetSelection.all()
    result = dg.evaluate_automation_conditions(
        defs=defs, instance=instance, cursor=cursor, asset_selection=chosen
    )
    requested = set()
    for evaluation in result.results:
        subset = evaluation.true_subset
        for item in subset.expensively_compute_asset_partitions():
            requested.add((item.asset_key.to_user_string(), item.partition_key))
    return requested, result.cursor


def report(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))


def check(
    instance: dg.DagsterInstance, asset: str, partition: str | None, passed: bool, name: str = "validity"
) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset),
            check_name=name,
            passed=passed,
            metadata={},
            blocking=True,
            partition=partition,
        )
    )


def test_samples_are_never_requested(instance: dg.DagsterInstance, tick: Tick) -> None:
    instance.add_dynamic_partitions("cells_local", ["a", "b"])
    requested, cursor = tick(None)
    for name in ("instance_types", "models", "pricing_snapshots"):
        report(instance, name)
    later, _ = tick(cursor)
    assert not [name for name, _ in requested | later if name.startswith("raw_samples")]


def test_marts_follow_although_one_cell_never_ran(instance: dg.DagsterInstance, tick: Tick) -> None:
    instance.add_dynamic_partitions("cells_local", ["ran", "never-ran"])
    _, cursor = tick(None, *MARTS)
    for mart in (*MARTS, "cost_per_token", "price_performance", "published_catalog", "report_site"):
        report(instance, mart)
    requested, cursor = tick(cursor, *MARTS)
    assert not requested
    report(instance, "raw_samples_local", "ran")
    report(instance, "run_percentiles_local", "ran")
    requested, _ = tick(cursor, *MARTS)
    assert {name for name, _ in requested} >= MARTS


def test_percentiles_follow_their_own_partition(instance: dg.DagsterInstance, tick: Tick) -> None:
    instance.add_dynamic_partitions("cells_local", ["ran", "never-ran"])
    _, cursor = tick(None, "run_percentiles_local")
    report(instance, "raw_samples_local", "ran")
    check(instance, "raw_samples_local", "ran", passed=True)
    requested, _ = tick(cursor, "run_percentiles_local")
    assert ("run_percentiles_local", "ran") in requested
    assert ("run_percentiles_local", "never-ran") not in requested


@pytest.mark.parametrize("passed", [True, False])
def test_what_a_blocking_check_refused_is_not_published(
    instance: dg.DagsterInstance, tick: Tick, passed: bool
) -> None:
    asked = (*MARTS, "cost_per_token", "price_performance", "published_catalog", "report_site")
    marts = {
        "benchmark_results": "one_row_a_step",
        "cost_per_token": "cost_or_reason",
        "price_performance": "only_measured_ranks",
    }
    for asset in ("instance_types", "models", "coverage", "published_catalog", "report_site"):
        report(instance, asset)
    for mart, name in marts.items():
        report(instance, mart)
        check(instance, mart, None, passed=True, name=name)
    _, cursor = tick(None, *asked)
    _, cursor = tick(cursor, *asked)
    report(instance, "price_performance")
    check(instance, "price_performance", None, passed=passed, name="only_measured_ranks")
    requested, _ = tick(cursor, *asked)
    assert (("report_site", None) in requested) is passed
