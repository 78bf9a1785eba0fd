"""Labels of saturation: overloaded, unstable, admission-limited. Rules M13, M24 and M25.

Belongs here: what the rows of all steps of a run say about where the server is full. Does not belong here: the rows
(``metrics``), the backlog of one step (``steadiness``), the search for the knee (``loadgen``).

Admission (M25): a server that lets K requests run at a time and queues the rest keeps its ITL while TTFT grows by 1/X
for every further user (closed loop: mean stay = C/X). That looks like slow prefill and is a queue. K shows as the mean
decode concurrency, output tokens/s x ITL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

OVERLOADED, UNSTABLE, ADMISSION_LIMITED = "overloaded", "unstable", "admission-limited"
ITL_CHANGE = 0.10
_SLOPE = (0.7, 1.3)  # of TTFT over C, in units of 1/X

Row = Mapping[str, Any]


def implied_slots(step_rows: Sequence[Row], percentile_rows: Sequence[Row]) -> list[float | None]:
    """Mean decode concurrency of each step, ``output_tokens_per_s_served`` x mean ITL; ``None`` without ITL."""
    itl = _means(percentile_rows, "itl")
    return [
        step["output_tokens_per_s_served"] * itl[step["step_index"]] / 1000.0
        if step["step_index"] in itl
        else None
        for step in step_rows
    ]


def saturation_labels(step_rows: Sequence[Row], percentile_rows: Sequence[Row]) -> list[str | None]:
    """The label of each of *step_rows* (one run), which keep the label they have (overloaded, unstable).

    ``admission-limited`` goes to closed steps at the top of the ladder: the largest run of neighbours over which mean
    ITL changes by less than 10 % while mean TTFT grows by 0.7 to 1.3 times 1/X per user, where more users are there
    than decode at a time. The lowest step of that run is the knee and keeps no label.
    """
    labels: list[str | None] = [step["saturation_label"] for step in step_rows]
    ttft, itl = _means(percentile_rows, "ttft"), _means(percentile_rows, "itl")
    slots = implied_slots(step_rows, percentile_rows)
    ladder = [
        index
        for index, step in enumerate(step_rows)
        if step["load_kind"] == "closed" and step["step_index"] in itl and step["step_index"] in ttft
    ]
    ladder.sort(key=lambda index: step_rows[index]["load_value"], reverse=True)
    seen: list[float] = []
    for upper, lower in pairwise(ladder):
        high, low = step_rows[upper], step_rows[lower]
        users, rate = high["load_value"] - low["load_value"], high["requests_per_s"]
        seen += [itl[high["step_index"]], itl[low["step_index"]]]
        growth_s = (ttft[high["step_index"]] - ttft[low["step_index"]]) / 1000.0
        queued = users > 0 and _SLOPE[0] <= growth_s * rate / users <= _SLOPE[1]
        flat = max(seen) < (1.0 + ITL_CHANGE) * min(seen)
        if not queued or not flat or (slots[upper] or 0.0) >= high["load_value"]:
            break
        labels[upper] = labels[upper] or ADMISSION_LIMITED
    return labels


def _means(percentile_rows: Sequence[Row], metric: str) -> dict[int, float]:
    """Mean of *metric* by step, in ms, where there is one."""
    return {
        row["step_index"]: row["mean"] for row in percentile_rows if row["metric"] == metric and row["mean"]
    }
