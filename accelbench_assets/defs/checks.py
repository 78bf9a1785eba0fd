"""Asset checks that belong to no single asset body.

Belongs here: one function a check, each a query over the lake that can fail.
Does not belong here: validity of a run (``bench.validity``), checks an asset returns itself.
"""

import dagster as dg

from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.sqlkit.duck import connect


def _bad_rows(accelbench: AccelBench, query: str) -> dg.AssetCheckResult:
    with connect(accelbench.lake()) as connection:
        found = connection.execute(f"select count(*) from ({query})").fetchone()  # noqa: S608 - constant text of this module
    bad = int(found[0]) if found else 0
    return dg.AssetCheckResult(passed=bad == 0, metadata={"bad_rows": bad})


@dg.asset_check(asset="benchmark_results", blocking=True)
def one_row_a_step(accelbench: AccelBench) -> dg.AssetCheckResult:
    """A run and step stands once, and only succeeded runs stand at all."""
    return _bad_rows(
        accelbench,
        "select run_id from benchmark_results group by run_id, step_index having count(*) > 1 "
        "union all select run_id from benchmark_results where run_id not in "
        "(select run_id from runs where status = 'succeeded')",
    )


@dg.asset_check(asset="cost_per_token", blocking=True)
def cost_or_reason(accelbench: AccelBench) -> dg.AssetCheckResult:
    """Every cost is positive or absent with its reason; a cost without a price cannot exist."""
    return _bad_rows(
        accelbench,
        "select run_id from cost_per_token where (usd_per_request is null and missing_reason is null) "
        "or usd_per_request <= 0 or (instance_hourly_usd is null and usd_per_request is not null)",
    )


@dg.asset_check(asset="price_performance", blocking=True)
def only_measured_ranks(accelbench: AccelBench) -> dg.AssetCheckResult:
    """Nothing simulated, estimated or external, and no short demonstration, holds a rank."""
    return _bad_rows(
        accelbench,
        "select run_id from price_performance where run_id not in (select run_id from runs "
        "where origin = 'measured' and evidence_level in ('standard', 'publication'))",
    )


CHECKS: list[dg.AssetChecksDefinition] = [one_row_a_step, cost_or_reason, only_measured_ranks]
