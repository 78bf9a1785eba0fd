"""Raw samples and per-run percentiles: two assets a family, made by one factory.

Belongs here: the factory, its partitions, pools and checks of raw data.
Does not belong here: how a run goes (``bench.run``) or what a percentile is (``bench.quantiles``).

Pools are per asset definition, not per partition, so each accelerator family has assets of its own. No retry policy:
with the in-process executor a retry swallows the signal that should end the run, and would start the server anew.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import dagster as dg

from accelbench_assets.bench.charts import latency_distribution_png, throughput_png
from accelbench_assets.bench.ending import OUTCOMES
from accelbench_assets.bench.run import RunFailed, run_benchmark
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.defs.automation import PER_RUN
from accelbench_assets.defs.events import sink
from accelbench_assets.defs.metadata import OWNERS, picture, table_metadata
from accelbench_assets.defs.requests import BenchmarkConfig, Origin, build_request, find_cell
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import AccelBenchError
from partitions.cell import families

RECOMPUTE_BATCH = 200
ARTEFACT_TAGS = {"engine_image": "accelbench/image", "model_commit": "accelbench/model_commit"}
"""Run tags by which a sensor says which image or weights its release is."""


def asset_suffix(family: str) -> str:
    """*family* as it stands in asset and pool names."""
    return family.replace("-", "_")


def cells_partitions(family: str) -> dg.DynamicPartitionsDefinition:
    """The growing set of cell keys of one family."""
    return dg.DynamicPartitionsDefinition(name=f"cells_{asset_suffix(family)}")


def raw_samples_asset(family: str) -> dg.AssetsDefinition:
    """``raw_samples_<family>``: serve the cell's model, drive load, commit one row a request."""
    name = f"raw_samples_{asset_suffix(family)}"

    @dg.asset(
        name=name,
        partitions_def=cells_partitions(family),
        pool=f"accelerator_{asset_suffix(family)}",
        group_name="benchmark",
        kinds={"parquet", "python"},
        owners=OWNERS,
        tags={"family": family},
        description=f"One row a request, as the load generator saw it, for every cell of family {family}.",
        check_specs=[
            dg.AssetCheckSpec(
                name="validity",
                asset=name,
                blocking=True,
                description="No validity rule voids the run; warnings are listed with their numbers.",
            )
        ],
    )
    def raw_samples(
        context: dg.AssetExecutionContext, config: BenchmarkConfig, accelbench: AccelBench
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        lake = accelbench.lake()
        cell = find_cell(lake, context.partition_key)
        try:
            request = build_request(cell, config, accelbench.settings(), lake, origin_of(context))
            launcher = accelbench.launcher(family)
            with accelbench.budget(launcher) as budget:
                record = run_benchmark(request, launcher, lake, sink(context.log), budget)
        except RunFailed as error:
            if error.record["status"] in OUTCOMES:
                return outcome(error.record)
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except AccelBenchError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        samples = lake.samples(record["run_id"])
        warned = {rule: v["text"] for rule, v in record["validity"].items() if v["verdict"] == "warn"}
        check = dg.AssetCheckResult(
            check_name="validity",
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={rule: dg.MetadataValue.text(text) for rule, text in warned.items()},
        )
        return dg.MaterializeResult(
            metadata={
                **table_metadata(
                    samples.drop_columns(["chunk_offset_us", "chunk_tokens"]),
                    lake.uri("raw_samples"),
                    preview=True,
                ),
                "run_id": record["run_id"],
                "origin": record["origin"],
                "evidence_level": record["evidence_level"],
                "warnings": dg.MetadataValue.json(warned),
                "latency": picture(latency_distribution_png(samples, record), "Latency distribution"),
            },
            check_results=[check],
        )

    return raw_samples


def origin_of(context: dg.AssetExecutionContext) -> Origin:
    """Where the run comes from: a tag says which sensor asked; it was asked for when its Dagster run was made."""
    tags, stored = context.run.tags, context.instance.get_run_record_by_id(context.run.run_id)
    return Origin(
        dagster_run_id=context.run.run_id,
        requested_at=None if stored is None else stored.create_timestamp.astimezone(UTC),
        triggered_by=tags.get("triggered_by") or ("backfill" if "dagster/backfill" in tags else "user"),
        trigger_ref=tags.get("trigger_ref"),
        artefacts={name: tags[tag] for name, tag in ARTEFACT_TAGS.items() if tag in tags},
    )


def outcome(record: Mapping[str, Any]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """An attempt without samples that answers its question (it does not fit, there is no capacity): the grid's gap
    explains itself, and what follows is brought up to date.
    """
    facts = {name: record[name] for name in ("run_id", "status", "failure_code", "failure_text", "origin")}
    passed = dg.AssetCheckResult(
        check_name="validity", passed=True, severity=dg.AssetCheckSeverity.WARN, metadata=facts
    )
    return dg.MaterializeResult(metadata={**facts, "outcome": record["status"]}, check_results=[passed])


def run_percentiles_asset(family: str) -> dg.AssetsDefinition:
    """``run_percentiles_<family>``: steps, percentiles and SLO results of every run that has none yet."""

    @dg.asset(
        name=f"run_percentiles_{asset_suffix(family)}",
        deps=[f"raw_samples_{asset_suffix(family)}"],
        partitions_def=cells_partitions(family),
        # One run start-up a cell would cost a day for 5,000 cells when a formula changes.
        backfill_policy=dg.BackfillPolicy.multi_run(RECOMPUTE_BATCH),
        automation_condition=PER_RUN,
        group_name="metrics",
        kinds={"parquet", "python"},
        owners=OWNERS,
        tags={"family": family},
        description="Per run and step: throughput, percentiles with their gates, SLO attainment.",
    )
    def run_percentiles(context: dg.AssetExecutionContext, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
        lake = accelbench.lake()
        metadata: dict[str, dg.MetadataValue] = {}
        summarised = 0
        for key in context.partition_keys:
            cell = find_cell(lake, key)
            records = lake.run_records(cell_id=cell.cell_id, status="succeeded")
            todo = [r for r in records if not lake.has_run_table("run_percentiles", r)] or records
            for record in todo:
                summary = summarise_run(lake, record["run_id"])
                summarised += 1
            if records:
                metadata = {
                    **table_metadata(summary.percentiles, lake.uri("run_percentiles")),
                    "throughput": picture(
                        throughput_png(summary.steps, record, summary.percentiles),
                        "Throughput against concurrency",
                    ),
                }
        context.log.info("summarised %d runs of %d cells", summarised, len(context.partition_keys))
        return dg.MaterializeResult(metadata={**metadata, "runs_summarised": summarised})

    return run_percentiles


def benchmark_assets() -> list[dg.AssetsDefinition]:
    """Both assets of every family, in stable order."""
    return [make(family) for family in families() for make in (raw_samples_asset, run_percentiles_asset)]
