"""From a committed run to its derived tables: ``run_steps``, ``run_percentiles``, ``slo_results``.

Belongs here: putting the rows of ``metrics`` and ``slo`` together for one run and writing them; the same
evaluation that ``run`` judges before the commit. Does not belong here: formulas, anything over several runs
(``sql/marts``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from accelbench_assets.bench.frame import Frame, frames, step_windows
from accelbench_assets.bench.metrics import Row, percentile_rows, step_row
from accelbench_assets.bench.slo import slo_row
from accelbench_assets.bench.validity import overall
from accelbench_assets.errors import LakeError
from accelbench_assets.lake.tables import SCHEMAS

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

LEVELS_WITHOUT_INTERVAL = ("demo", "smoke")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The three derived tables of one run, with the lake's schemas."""

    run_id: str
    steps: pa.Table
    percentiles: pa.Table
    slo: pa.Table


def evaluate(
    samples: pa.Table, shards: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> tuple[list[Frame], list[Row]]:
    """Frames and ``run_steps`` rows of a run that need not be committed; the input of ``validity.judge``."""
    found = frames(samples, step_windows(shards))
    return found, [step_row(frame, accelerators=record.get("accelerators_used")) for frame in found]


def summarise(
    samples: pa.Table, shards: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> RunSummary:
    """The derived tables of *samples*, nothing written."""
    intervals = record["evidence_level"] not in LEVELS_WITHOUT_INTERVAL
    slos = {step["step_index"]: step.get("slo") for step in record.get("ladder") or ()}
    run_frames, steps = evaluate(samples, shards, record)
    verdict = overall(record.get("validity") or {})
    percentiles: list[Row] = []
    objectives: list[Row] = []
    for frame in run_frames:
        rows = percentile_rows(frame, intervals=intervals, window_median=record["evidence_level"] == "demo")
        percentiles += rows
        if (slo := slos.get(frame.window.step_index)) and (row := slo_row(frame, slo, rows)):
            objectives.append(row)
    return RunSummary(
        record["run_id"],
        _table("run_steps", record, ({**row, "verdict": verdict} for row in steps)),
        _table("run_percentiles", record, percentiles),
        _table("slo_results", record, objectives),
    )


def summarise_run(lake: Lake, run_id: str) -> RunSummary:
    """Compute and write the derived tables of a succeeded run; doing it again replaces them by the same.

    Raises ``LakeError`` when there is no such run or it did not succeed.
    """
    record = lake.run_record(run_id)
    if record is None or record["status"] != "succeeded":
        raise LakeError(f"Run {run_id} has no succeeded record; only such runs are summarised.")
    summary = summarise(lake.samples(run_id), lake.shards(run_id), record)
    lake.write_run_table("run_steps", record, summary.steps)
    lake.write_run_table("slo_results", record, summary.slo)
    lake.write_run_table(
        "run_percentiles", record, summary.percentiles
    )  # last: its presence means all are there
    return summary


def _table(name: str, record: Mapping[str, Any], rows: Iterable[Row]) -> pa.Table:
    identity = {"run_id": record["run_id"], "cell_id": record["cell_id"]}
    return pa.Table.from_pylist([{**row, **identity} for row in rows], schema=SCHEMAS[name])
