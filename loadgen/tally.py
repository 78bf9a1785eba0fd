"""One step's figures for the capacity search, from the batches as they are decoded.

Belongs here: answers completed in the window, attainment, error and achieved shares, whether the backlog grew (M24).
Does not belong here: what follows from them (``capacity``), published figures with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.capacity import Point, point
from loadgen.plan import Step
from loadgen.samples import SampleBatch
from loadgen.steady import kendall
from loadgen.steps import StepResult

_CLAUSES = ("ttft_ms", "tpot_ms", "e2e_ms")
_UNSTABLE_P = 0.01


class Tally:
    """Add every batch of a step, then ask for its :meth:`point`. Bounds in nanoseconds since 1970."""

    def __init__(self, step: Step, slo: Mapping[str, Any]) -> None:
        self._step, self._slo = step, slo
        self._limits = [(name, float(slo[name])) for name in _CLAUSES if slo.get(name) is not None]
        self._ended: list[int] = []  # when each answer's last token came
        self._due = self._good = self._failed = self._sent = self._planned_cancels = 0

    def add(self, batch: SampleBatch) -> None:
        """Count a batch's rows."""
        columns = batch.columns
        for row, status in enumerate(columns["status"]):
            sent, took = columns["sent_at"][row], columns["e2e_from_send_ms"][row]
            if status == "ok" and sent is not None and took is not None:
                self._ended.append(sent + int(took * 1e6))
            if columns["phase"][row] != "measure":
                continue
            if status == "cancelled" and columns["planned_cancel_ms"][row] is not None:
                self._planned_cancels += 1  # neither good nor bad: the workload wanted it
                continue
            self._due += 1
            self._sent += sent is not None
            self._failed += status not in ("ok", "cancelled")
            self._good += status == "ok" and all(
                (value := columns[name][row]) is not None and value <= limit for name, limit in self._limits
            )

    def point(self, result: StepResult, wall_offset_ns: int) -> Point:
        """The measured point; all requests due in the window count, also those that were cut or never sent."""
        begin = result.starts_ns["measure"] + wall_offset_ns
        end = result.measure_end_ns + wall_offset_ns
        due = max(self._due, result.scheduled_in_window - self._planned_cancels)
        seconds = max(1e-9, (end - begin) / 1e9)
        return point(
            self._step,
            self._slo,
            requests_per_s=sum(begin <= at < end for at in self._ended) / seconds,
            attainment=self._good / due if due else 0.0,
            error_rate=(self._failed + due - self._due) / due if due else 1.0,
            achieved=self._sent / due if due else 0.0,
            stable=is_stable(result.backlog, result.in_flight_at_start, result.in_flight_at_end, due),
        )


def is_stable(backlog: Sequence[float], at_start: int | None, at_end: int | None, arrivals: int) -> bool:
    """``False`` when the backlog grew by more than 3 sqrt(arrivals) and its batch means have a rising trend (M24)."""
    if at_start is None or at_end is None or at_end - at_start <= 3 * math.sqrt(arrivals):
        return True
    tau, p = kendall(backlog)
    return not (tau > 0 and p < _UNSTABLE_P)
