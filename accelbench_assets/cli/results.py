"""The results of runs as read back from the lake.

Belongs here: reading one run's record, steps, percentiles, SLO decisions and cost through the same SQL views
that everything else uses, and the JSON document made of them.
Does not belong here: computing any figure (``bench``, ``sql/marts``), which price counts (``costing``), how it is shown
(``ladder``, ``runs``, ``compare``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import LakeError, UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accelbench_assets.lake.lake import Lake

QUANTILES = ("p50", "p90", "p95", "p99", "p999")


@dataclass(slots=True)
class RunResults:
    """One run: ``steps`` by step_index, each with ``percentiles`` (metric -> row); ``cost`` by step, at one offer."""

    record: Mapping[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    slo: list[dict[str, Any]] = field(default_factory=list)
    cost: list[dict[str, Any]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The JSON document of ``run``, ``demo`` and ``show``: run, steps, slo, cost."""
        return {"run": dict(self.record), "steps": self.steps, "slo": self.slo, "cost": self.cost}


def rows(
    connection: DuckDBPyConnection, sql: str, parameters: list[Any] | dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of a query as dicts, in order."""
    cursor = connection.execute(sql, parameters or [])
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def find_record(lake: Lake, run: str) -> dict[str, Any]:
    """The record of a run by id or unambiguous prefix; ``UsageError`` names what was given and what there
    is.
    """
    try:
        record = lake.run_record(run)
    except LakeError:
        ids = [str(known["run_id"]) for known in lake.run_records()]
        matching = [one for one in ids if one.startswith(run) or one.endswith(run)]
        if len(matching) < 2:
            raise
        shown = ", ".join(matching[:8]) + (f" and {len(matching) - 8} more" if len(matching) > 8 else "")
        raise UsageError(
            f"{run!r} matches {len(matching)} runs: {shown}.", hint="Give more of the id."
        ) from None
    if record is None:
        raise UsageError(f"No run {run!r} in the lake {lake.url}.", hint="`accelbench runs` lists them.")
    return record


def read_results(lake: Lake, record: Mapping[str, Any]) -> RunResults:
    """Everything derived from one succeeded run; no steps for a run that did not succeed."""
    results = RunResults(record)
    if record.get("status") != "succeeded":
        return results
    from accelbench_assets.cli.costing import offers_here, read_cost
    from accelbench_assets.sqlkit.duck import connect

    run_id = [record["run_id"]]
    wanted = ("run_steps", "run_percentiles", "slo_results", "cost_per_token")
    with connect(lake, only=wanted, rules=offers_here()) as db:
        results.steps = rows(db, "select * from run_steps where run_id = ? order by step_index", run_id)
        by_step: dict[int, dict[str, Any]] = {step["step_index"]: {} for step in results.steps}
        for row in rows(
            db, "select * from run_percentiles where run_id = ? order by step_index, metric", run_id
        ):
            by_step.setdefault(row["step_index"], {})[row["metric"]] = row
        for step in results.steps:
            step["percentiles"] = by_step[step["step_index"]]
        results.slo = rows(
            db, "select * from slo_results where run_id = ? order by step_index, slo_id", run_id
        )
        cost = rows(db, "select * from cost_per_token where run_id = ? order by step_index", run_id)
    results.cost = read_cost(lake, cost, str(record["run_id"]))
    return results


def quantile_cell(row: Mapping[str, Any] | None, quantile: str, *, compact: bool = False) -> str:
    """A quantile as the gates allow it: a figure, ``~`` a wide one, ``> timeout``, or how many requests it
    needs.
    """
    from accelbench_assets.cli.output import number

    if not row:
        return "-"
    gate = row.get(f"{quantile}_gate")
    if gate == "beyond_timeout":
        return ">timeout"
    if gate == "needs_n":
        needed = row.get(f"{quantile}_needs_n")
        if needed is None:
            return "needs more"
        return f"n>={int(needed)}" if compact else f"needs >= {int(needed)} requests"
    if gate == "derived":  # the tokens of a chunk were inferred from their characters
        return "derived" if compact else "not published (derived)"
    value = row.get(quantile)
    if value is None:
        return "-"
    return f"~{number(value)}" if gate == "wide" else number(value)


def flat_steps(results: RunResults) -> tuple[list[dict[str, Any]], list[str]]:
    """Steps as flat rows (``ttft_p50``, ``ttft_p50_gate``, …) and their column names, for CSV."""
    flat = []
    for step in results.steps:
        row = {key: value for key, value in step.items() if key != "percentiles"}
        for metric, percentiles in step["percentiles"].items():
            for q in QUANTILES:
                row[f"{metric}_{q}"] = percentiles.get(q)
                row[f"{metric}_{q}_gate"] = percentiles.get(f"{q}_gate")
        flat.append(row)
    fields = list(dict.fromkeys(key for row in flat for key in row)) or ["run_id", "step_index"]
    return flat, fields


def reap_dead(lake: Lake) -> list[dict[str, Any]]:
    """Close attempts of this host whose orchestrator died, and say so in one line. Never fails a listing."""
    from accelbench_assets.launch.host import host_fingerprint
    from accelbench_assets.launch.locks import is_alive

    reaped = lake.reap(host_fingerprint(), is_alive)
    if reaped:
        ids = ", ".join(str(r.get("run_id", "?"))[:13] for r in reaped[:3])
        more = f" and {len(reaped) - 3} more" if len(reaped) > 3 else ""
        STATE.note(f"Closed {len(reaped)} run(s) whose process had died: {ids}{more} (status infra_lost).")
    return reaped
