"""What every importer returns: one benchmark of a result file, and figures under their honest names.

Belongs here: the values, and the two ways a figure is kept. Does not belong here: any tool's format, the
lake's rows (``store``).

A figure is always kept as the tool printed it, under ``<kind>.<the tool's name>``. It is kept under one of
our names as well only if it is the same quantity: same start, same end, same divisor
(``docs/methodology.md`` §1.2). Percentile method and population may differ then, and the row says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

from accelbench_assets.importers.document import Fields, ImportRefused

LEVELS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}


@dataclass(frozen=True, slots=True)
class Figure:
    """A distribution as a tool printed it. ``levels`` holds those of p50, p90, p95, p99, p999 it gives."""

    metric: str
    unit: str
    n: int | None
    levels: Mapping[str, float]
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = "linear"

    def scaled(self, factor: float, unit: str) -> Figure:
        """The same in another unit."""

        def times(value: float | None) -> float | None:
            return None if value is None else value * factor

        levels = {name: value * factor for name, value in self.levels.items()}
        return replace(
            self, unit=unit, levels=levels, mean=times(self.mean), std=times(self.std), low=times(self.low),
            high=times(self.high),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """The load a benchmark was made with: ``closed`` (value = requests in flight) or ``open`` (req/s)."""

    kind: str
    value: float
    arrival: str = "none"


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """One benchmark of a file. ``None`` is what the file does not say.

    ``rates`` has run_steps' names: requests_per_s, input_tokens_per_s, output_tokens_per_s, … over the whole
    run of *duration_s* seconds. ``own`` maps one of our metrics to the figure that is the same quantity;
    ``verbatim`` are the figures as printed. ``reasons`` say, by the tool's name, why a figure is not one of
    ours, or what a reader of it must know.
    """

    kind: str
    tool: str
    tool_version: str | None
    model: str | None
    load: Load | None
    ok: int
    errors: int | None
    duration_s: float
    started_at: datetime | None = None
    endpoint: str | None = None
    rates: Mapping[str, float | None] = field(default_factory=dict)
    input_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    own: Mapping[str, Figure] = field(default_factory=dict)
    verbatim: tuple[Figure, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


WHOLE_RUN = "rates are over the whole run, ramp-up and drain included, not over a steady window"
SUCCESSES = "percentiles are of completed requests only; failures are not counted as infinite"


def closed_too(own: Mapping[str, Figure], load: Load | None) -> dict[str, Figure]:
    """*own*, with figures from the send repeated from the arrival in a closed loop, where the two are one."""
    found = dict(own)
    if load is not None and load.kind == "closed":
        for from_send, from_arrival in (("ttft_from_send", "ttft"), ("e2e_from_send", "e2e")):
            if from_send in found:
                found[from_arrival] = found[from_send]
    return found


def ordered(figure: Figure, fields: Fields) -> Figure:
    """*figure* if its levels do not fall and lie between its extremes; ``ImportRefused`` otherwise."""
    known = [value for name in LEVELS if (value := figure.levels.get(name)) is not None]
    line = [v for v in (figure.low, *known, figure.high) if v is not None]
    slack = 1e-9 * max((abs(v) for v in line), default=0.0)
    if any(b < a - slack for a, b in pairwise(line)):
        raise ImportRefused(
            f"{fields.file}: the percentiles of {fields.place or figure.metric} fall where they should rise.",
            hint="Import the file as the tool wrote it; a changed or broken one is not taken.",
        )
    return figure


def plain_figure(
    metric: str, unit: str, fields: Fields, names: Mapping[str, str], *, method: str = "linear",
    n: int | None = None,
) -> Figure:  # fmt: skip
    """The distribution in *fields*; *names* maps p50 … p999, mean, std, min and max to the tool's keys."""

    def of(name: str) -> float | None:
        return fields.maybe(names[name]) if name in names else None

    levels = {name: value for name in LEVELS if (value := of(name)) is not None}
    return ordered(
        Figure(metric, unit, n, levels, of("mean"), of("std"), of("min"), of("max"), method), fields
    )
