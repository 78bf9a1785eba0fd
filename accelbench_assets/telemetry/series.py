"""Rows of ``engine_metrics`` and ``accelerator_metrics`` as series in time, and what a window of one holds.

Belongs here: grouping rows, means in a window, differences of counters, integrals. Does not belong here: which series
becomes which column (``reduce``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelbench_assets.telemetry.names import RANK_LABELS
from accelbench_assets.telemetry.prometheus import OWN_NAME

GAP_S = 2.5
"""Readings further apart than this say nothing about the time between them."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The steady window W ``[start_ns, end_ns)`` of a step, UTC nanoseconds."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length of W."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one source and label set: times in UTC nanoseconds, rising, and values."""

    source: str
    labels: Mapping[str, str]
    at_ns: Array
    values: Array

    @property
    def device(self) -> str:
        """The accelerator it is of; empty for an engine's."""
        return self.labels.get("device", "")

    def inside(self, window: Window) -> Array:
        """Values of the readings in W."""
        return np.asarray(self.values[(self.at_ns >= window.start_ns) & (self.at_ns < window.end_ns)])

    def increase(self, window: Window) -> float | None:
        """How much a counter grew over W, from the reading at or before its start (else the first in it) to the last.

        A counter that fell was reset and began again at zero. ``None`` with fewer than two readings to compare.
        """
        last = int(np.searchsorted(self.at_ns, window.end_ns, side="right")) - 1
        first = max(0, int(np.searchsorted(self.at_ns, window.start_ns, side="right")) - 1)
        if last <= first:
            return None
        steps = np.diff(self.values[first : last + 1])
        return float(np.where(steps >= 0, steps, self.values[first + 1 : last + 1]).sum())

    def covered(self, window: Window) -> tuple[Array, Array]:
        """``(seconds, share)`` of every stretch between two readings: what of it lies in W, and as a share of it.

        A stretch longer than ``GAP_S`` covers nothing.
        """
        starts, ends = self.at_ns[:-1], self.at_ns[1:]
        overlap = np.minimum(ends, window.end_ns) - np.maximum(starts, window.start_ns)
        length = (ends - starts).astype(np.float64)
        seconds = np.where(length <= GAP_S * 1e9, np.maximum(overlap, 0), 0) / 1e9
        return seconds, seconds * 1e9 / np.maximum(length, 1.0)


def series_by_name(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Series]]:
    """The series of the canonical *names* among *rows* (mappings of ``at``, ``source``, ``name``, ``labels``,
    ``value``).

    Other rows (whole pages before and after the load) are left out. Of the ranks of one scheduler the first counts.
    """
    wanted = frozenset(names)
    points: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in rows:
        if row["name"] in wanted and row["value"] is not None:
            points.setdefault((row["name"], row["source"], row["labels"] or "{}"), []).append(
                (_nanoseconds(row["at"]), float(row["value"]))
            )
    found: dict[str, dict[tuple[str, str], Series]] = {}
    for (name, source, text), values in sorted(points.items()):
        labels = json.loads(text)
        identity = {k: v for k, v in labels.items() if k not in (*RANK_LABELS, OWN_NAME)}
        values.sort()
        made = Series(
            source, labels, np.array([at for at, _ in values], np.int64), np.array([v for _, v in values])
        )
        found.setdefault(name, {}).setdefault((source, json.dumps(identity, sort_keys=True)), made)
    return {name: list(of_name.values()) for name, of_name in found.items()}


def at_each_moment(series: Sequence[Series], window: Window) -> list[Array]:
    """The values of all *series* at every moment in W at which any of them was read."""
    moments: dict[int, list[float]] = {}
    for one in series:
        for at, value in zip(one.at_ns.tolist(), one.values.tolist(), strict=True):
            if window.start_ns <= at < window.end_ns:
                moments.setdefault(at, []).append(value)
    return [np.array(values) for _, values in sorted(moments.items())]


def _nanoseconds(at: Any) -> int:
    """UTC nanoseconds of a datetime (or of nanoseconds), exactly: a float of seconds would lose some."""
    if isinstance(at, int):
        return at
    whole: datetime = at.replace(microsecond=0)
    return int(whole.timestamp()) * 1_000_000_000 + int(at.microsecond) * 1000
