"""From a committed run to its derived tables: ``run_steps``, ``run_percentiles``, ``slo_results``, ``run_compat``.

Belongs here: putting the rows of ``metrics``, ``steadiness``, ``saturation``, ``slo``, ``compat`` and the side channels
together for one run and writing them; the same evaluation that ``run`` judges before the commit. Does not belong here:
formulas, anything over several runs (``sql/marts``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from accelbench_assets.bench.compat import compat_rows
from accelbench_assets.bench.frame import Frame, frames, step_windows
from accelbench_assets.bench.metrics import Row, percentile_rows, step_row
from accelbench_assets.bench.rules.evidence import cold_steps
from accelbench_assets.bench.saturation import implied_slots, saturation_labels
from accelbench_assets.bench.slo import slo_row
from accelbench_assets.bench.steadiness import steadiness
from accelbench_assets.bench.validity import overall
from accelbench_assets.errors import LakeError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.telemetry.reduce import SideChannels

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

LEVELS_WITHOUT_INTERVAL = ("demo", "smoke")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The derived tables of one run, with the lake's schemas."""

    run_id: str
    steps: pa.Table
    percentiles: pa.Table
    slo: pa.Table
    compat: pa.Table


def evaluate(
    samples: pa.Table | ds.Dataset,
    shards: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    side: SideChannels | None = None,
) -> tuple[list[Frame], list[Row]]:
    """Frames and ``run_steps`` rows of a run that need not be committed; the input of ``validity.judge``.

    *side* holds what engine and accelerators said beside the load; without it its columns are null.
    """
    found = frames(samples, step_windows(shards))
    rows, cold = [_step(frame, record, side) for frame in found], cold_steps(shards)
    for row in rows:
        if row["step_index"] in cold:
            reason = f"The server was not warm after {cold[row['step_index']]:.0f} s of warm-up."
            row |= {"steady": False, "steady_reason": reason}
    return found, rows


def _step(frame: Frame, record: Mapping[str, Any], side: SideChannels | None) -> Row:
    row, window = step_row(frame, accelerators=record.get("accelerators_used")), frame.window
    if side is not None:
        tokens = row["output_tokens_per_s"] * window.seconds
        columns = side.step_columns(window.start_ns, window.end_ns, output_tokens=tokens)
        # What every answer says of its own prompt is better than a counter read once a second.
        row |= {name: value for name, value in columns.items() if row.get(name) is None}
        row["throttled_s"] = side.hardware(window.start_ns, window.end_ns).throttle_s
    thinks = any(step.get("sessions") for step in record.get("ladder") or ())
    found = steadiness(
        frame, preemptions=row.get("preemptions"), throttled_s=row.get("throttled_s"), thinks=thinks
    )
    return {**row, "steady": found.steady, "steady_reason": found.reason}


def summarise(
    samples: pa.Table | ds.Dataset,
    shards: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    side: SideChannels | None = None,
) -> RunSummary:
    """The derived tables of *samples*, nothing written."""
    intervals = record["evidence_level"] not in LEVELS_WITHOUT_INTERVAL
    slos = {step["step_index"]: step.get("slo") for step in record.get("ladder") or ()}
    run_frames, steps = evaluate(samples, shards, record, side)
    verdict = overall(record.get("validity") or {})
    percentiles: list[Row] = []
    objectives: list[Row] = []
    compat: list[Row] = []
    for frame in run_frames:
        rows = percentile_rows(frame, intervals=intervals, window_median=record["evidence_level"] == "demo")
        percentiles += rows
        compat += compat_rows(frame)
        if (slo := slos.get(frame.window.step_index)) and (row := slo_row(frame, slo, rows)):
            objectives.append(row)
    labels, slots = saturation_labels(steps, percentiles), implied_slots(steps, percentiles)
    for step, label, decoding in zip(steps, labels, slots, strict=True):
        step |= {"saturation_label": label, "decode_concurrency_mean": decoding, "verdict": verdict}
    return RunSummary(
        record["run_id"],
        _table("run_steps", record, steps),
        _table("run_percentiles", record, percentiles),
        _table("slo_results", record, objectives),
        _table("run_compat", record, compat),
    )


def summarise_run(lake: Lake, run_id: str) -> RunSummary:
    """Compute and write the derived tables of a succeeded run; doing it again replaces them by the same.

    Raises ``LakeError`` when there is no such run or it did not succeed.
    """
    record = lake.run_record(run_id)
    if record is None or record["status"] != "succeeded":
        raise LakeError(f"Run {run_id} has no succeeded record; only such runs are summarised.")
    if record["origin"] == "external":
        raise LakeError(
            f"Run {run_id} was imported: its figures are another tool's, and there are no samples."
        )
    side = SideChannels(
        *(lake.run_table(name, record).to_pylist() for name in ("engine_metrics", "accelerator_metrics"))
    )
    summary = summarise(lake.sample_dataset(run_id), lake.shards(run_id), record, side)
    lake.write_run_table("run_steps", record, summary.steps)
    lake.write_run_table("slo_results", record, summary.slo)
    lake.write_run_table("run_compat", record, summary.compat)
    # Last: its presence means all are there.
    lake.write_run_table("run_percentiles", record, summary.percentiles)
    return summary


def _table(name: str, record: Mapping[str, Any], rows: Iterable[Row]) -> pa.Table:
    identity = {"run_id": record["run_id"], "cell_id": record["cell_id"]}
    return pa.Table.from_pylist([{**row, **identity} for row in rows], schema=SCHEMAS[name])
