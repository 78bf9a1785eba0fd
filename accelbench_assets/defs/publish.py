"""The published catalog and the report site: what other people read.

Belongs here: the two assets at the end of the graph.
Does not belong here: COPY and verification (``sqlkit.publish``), rendering (``reports``).
"""

from datetime import UTC, datetime

import dagster as dg

from accelbench_assets.defs.automation import DOWNSTREAM
from accelbench_assets.defs.events import sink
from accelbench_assets.defs.metadata import OWNERS
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import AccelBenchError
from accelbench_assets.reports.site import build_site
from accelbench_assets.sqlkit.files import sql_files
from accelbench_assets.sqlkit.publish import catalog_dsn, publish

MARTS = [sql.name for sql in sql_files("marts")]


@dg.asset(
    deps=[*MARTS, "instance_types", "models", "pricing_snapshots"],
    group_name="publish",
    kinds={"postgres"},
    owners=OWNERS,
    automation_condition=DOWNSTREAM,
    check_specs=[
        dg.AssetCheckSpec(
            name="read_back",
            asset="published_catalog",
            description="Counts and checksums of every table, read back before the commit, equal what was sent.",
        )
    ],
)
def published_catalog(context: dg.AssetExecutionContext, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Succeeded runs, their figures, prices and views in PostgreSQL: one transaction, verified before it commits."""
    sink(context.log)("phase", "publishing to PostgreSQL", {})
    try:
        with catalog_dsn(accelbench.settings()) as dsn:
            report = publish(accelbench.lake(), dsn)
    except AccelBenchError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={"rows": dg.MetadataValue.json(dict(report.rows))},
        check_results=[dg.AssetCheckResult(check_name="read_back", passed=report.verified)],
    )


@dg.asset(deps=MARTS, group_name="publish", kinds={"html"}, owners=OWNERS, automation_condition=DOWNSTREAM)
def report_site(context: dg.AssetExecutionContext, accelbench: AccelBench) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Static pages that open from a folder, without a server or a network."""
    sink(context.log)("phase", "rendering the report site", {})
    out = accelbench.settings().site_dir
    try:
        site = build_site(accelbench.lake(), out, now=datetime.now(UTC))
    except AccelBenchError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": site.rows,
            "pages": list(map(str, site.pages)),
            "bytes": site.bytes,
            "index": dg.MetadataValue.path(str(out / "index.html")),
        }
    )


ASSETS: list[dg.AssetsDefinition] = [published_catalog, report_site]
