"""The trials of a cell taken together, and two cells compared trial by trial. Rules S2, S6, S7, M33.

Belongs here: which runs are trials of a cell, reading them, pooled rows and comparisons step by step. Does not belong
here: the estimators (``pooling``, ``rates``) and tests (``regression``), how results are shown (``cli``).

A run is one trial: one start of the server. Every succeeded run of a cell counts, none is chosen for its result; runs
that were superseded, and those of a lower evidence level than the best there is, are left out and said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench.frame import frames, load_label, step_windows
from accelbench_assets.bench.pooling import pooled
from accelbench_assets.bench.quantiles import QUANTILES, describe
from accelbench_assets.bench.rates import Rate, across_trials, completions_by_batch
from accelbench_assets.bench.regression import PRIMARY, compare
from accelbench_assets.bench.summary import LEVELS_WITHOUT_INTERVAL
from accelbench_assets.errors import LakeError
from accelbench_assets.lake.tables import EVIDENCE_LEVELS

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

LATENCIES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
_FAILURES_COUNT = ("ttft", "e2e")

Row = dict[str, Any]
Load = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Trials:
    """The runs of one cell that count, oldest first, and how many others were left out and why."""

    cell_id: str
    cell_key: str
    evidence_level: str
    origin: str
    run_ids: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def trials_of(lake: Lake, cell_id: str) -> Trials:
    """The trials of a cell. Raises ``LakeError`` when no run of it succeeded."""
    records = lake.run_records(cell_id=cell_id)
    done = [record for record in records if record["status"] == "succeeded"]
    if not done:
        raise LakeError(f"No run of cell {cell_id} succeeded, so it has no trials.")
    gone = {row["run_id"] for row in lake.read_table("supersessions").to_pylist()}
    current = [record for record in done if record["run_id"] not in gone]
    if not current:
        raise LakeError(f"Every run of cell {cell_id} was superseded or withdrawn.")
    best = max(current, key=lambda r: (r["origin"] == "measured", EVIDENCE_LEVELS.index(r["evidence_level"])))
    kept = [
        r for r in current if (r["origin"], r["evidence_level"]) == (best["origin"], best["evidence_level"])
    ]
    left = {
        "not succeeded": len(records) - len(done),
        "superseded": len(done) - len(current),
        "of a lower evidence level or another origin": len(current) - len(kept),
    }
    return Trials(
        cell_id,
        str(best["cell_key"]),
        str(best["evidence_level"]),
        str(best["origin"]),
        tuple(sorted(str(r["run_id"]) for r in kept)),
        {why: count for why, count in left.items() if count},
    )


def pooled_rows(lake: Lake, trials: Trials) -> list[Row]:
    """One row for every load and figure: the pooled value with its interval, and the value of every trial.

    Latencies: ``metric`` ttft, tpot or e2e with ``quantile`` p50 to p999 and the gate; rates: ``quantile`` null. Times
    in ms, rates a second. Raises ``LakeError`` when samples cannot be read.
    """
    if trials.origin == "external":
        raise LakeError(
            f"Cell {trials.cell_id} was imported: there are no samples to pool; see `accelbench show`."
        )
    values: dict[Load, dict[str, list[Any]]] = {}
    rates: dict[Load, dict[str, list[Any]]] = {}
    for run_id in trials.run_ids:
        for frame in frames(lake.sample_dataset(run_id), step_windows(lake.shards(run_id))):
            load = (frame.window.load_kind, frame.window.load_value)
            of_load = values.setdefault(load, {})
            for metric, column in LATENCIES.items():
                of_load.setdefault(metric, []).append(_latencies(frame, metric, column))
            seconds = frame.window.seconds
            useful = frame.survey.tokens_by_batch[1]
            completed = completions_by_batch(frame)
            of_rates = rates.setdefault(load, {})
            for name, counts in (("output_tokens_per_s", useful), ("requests_per_s", completed)):
                of_rates.setdefault(name, []).append(counts * counts.size / seconds)
    rows: list[Row] = []
    # S2: one short trial cannot know the spread between trials.
    intervals = len(trials.run_ids) > 1 or trials.evidence_level not in LEVELS_WITHOUT_INTERVAL
    for load, of_load in values.items():
        for metric, series in of_load.items():
            rows += _latency_rows(load, metric, series, intervals=intervals)
        for name, batches in rates[load].items():
            rate = across_trials(batches)
            if not intervals:
                rate = replace(rate, low=None, high=None)
            rows.append(_rate_row(load, name, rate, [float(b.mean()) for b in batches]))
    return rows


def _latencies(frame: Any, metric: str, column: str) -> Any:
    import numpy as np

    found = frame.numbers(column)
    done = frame.arrived & frame.ok
    if done.any() and np.isnan(found[done]).all():
        return found[:0]  # not streamed: there is no first token to time
    if metric in _FAILURES_COUNT:
        return np.where(frame.ok & ~np.isnan(found), found, np.inf)[frame.judged]
    chosen = found[done]
    return chosen[~np.isnan(chosen)]


def _latency_rows(load: Load, metric: str, series: Sequence[Any], *, intervals: bool) -> list[Row]:
    if (found := pooled(series, intervals=intervals)) is None:
        return []
    rows = []
    each = [describe(one, intervals=False) for one in series]
    for name, estimate in found.quantiles.items():
        rows.append(
            {
                **_load(load),
                "metric": metric,
                "quantile": name,
                "unit": "ms",
                "n": found.n,
                "n_eff": found.n_eff,
                "value": estimate.value,
                "ci_low": estimate.ci_low,
                "ci_high": estimate.ci_high,
                "gate": estimate.gate,
                "needs_n": estimate.needs_n,
                "between_trials": estimate.between_trials,
                # Each behind its own gate: what a trial may not say alone it does not say here either.
                "trial_values": [one.quantiles[name].value if one is not None else None for one in each],
            }
        )
    return rows


def _rate_row(load: Load, name: str, rate: Rate, means: list[float]) -> Row:
    return {
        **_load(load),
        "metric": name,
        "quantile": None,
        "unit": "tokens/s" if name.startswith("output") else "requests/s",
        "n": rate.batches,
        "n_eff": None,
        "value": rate.mean,
        "ci_low": rate.low,
        "ci_high": rate.high,
        "gate": None,
        "needs_n": None,
        "between_trials": False,
        "trial_values": means,
    }


def _load(load: Load) -> Row:
    return {"load_kind": load[0], "load_value": load[1], "load": load_label(*load)}


def compare_cells(lake: Lake, a: Trials, b: Trials) -> list[Row]:
    """Cell B against cell A (before) at every load both have: the fields of ``regression.Comparison`` and the load.

    A quantile that some trial does not publish leaves its metric with insufficient data.
    """
    before, after = _trial_values(lake, a), _trial_values(lake, b)
    rows = []
    for load in before:
        if load in after:
            rows += [{**_load(load), **asdict(found)} for found in compare(before[load], after[load])]
    return rows


def _trial_values(lake: Lake, trials: Trials) -> dict[Load, dict[str, list[float]]]:
    """Values of the primary metrics by load, one a trial; NaN where a trial does not publish it."""
    found: dict[Load, dict[str, list[float]]] = {}
    for run_id in trials.run_ids:
        record = lake.run_record(run_id) or {}
        quantiles = {
            (row["step_index"], row["metric"]): row
            for row in lake.run_table("run_percentiles", record).to_pylist()
        }
        for step in lake.run_table("run_steps", record).to_pylist():
            of_load = found.setdefault((step["load_kind"], step["load_value"]), {})
            for name in PRIMARY:
                metric, _, quantile = name.rpartition("_")
                row = quantiles.get((step["step_index"], metric))
                value = row[quantile] if row is not None and quantile in QUANTILES else step.get(name)
                of_load.setdefault(name, []).append(math.nan if value is None else float(value))
    return found
