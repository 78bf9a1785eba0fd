"""The columns of ``run_steps`` that come from side channels, and what the hardware did in the window.

Belongs here: queue, KV cache, preemptions, prefix cache, utilisation, memory, power, energy, throttling of one window.
Does not belong here: series arithmetic (``series``), verdicts (``rules``).

Conventions: a column without readings in W is null; sums are over replicas and engines of one server, power and energy
over devices, utilisation is the mean of the devices' means, memory the largest device's peak. Energy is the devices'
own counters where they have them, else power by trapezoids; it is of the accelerators only, never of the instance, and
``energy_valid`` when readings no further apart than 2.5 s cover 95 % of W on every device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelbench_assets.telemetry.accelerators import ACCELERATOR_NAMES, POWER_CAP_BIT, THROTTLE_BITS
from accelbench_assets.telemetry.names import CANONICAL
from accelbench_assets.telemetry.series import Series, Window, at_each_moment, series_by_name

MIN_COVERAGE = 0.95
GIB = 2.0**30
_KINDS = ("dcgm:", "nvidia-smi:", "neuron:")  # where two watch the same devices, the first counts

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the accelerators went through in W. ``throttle_s``: seconds of the device throttled longest, not
    counting its plain power cap."""

    throttle_s: float | None
    throttle_reasons: tuple[str, ...]
    xid_errors: tuple[int, ...]
    ecc_uncorrected: int | None


class SideChannels:
    """The rows of one run, grouped once, to be reduced step by step."""

    def __init__(self, engine_rows: Rows, accelerator_rows: Rows = ()) -> None:
        self._engine = series_by_name(engine_rows, CANONICAL)
        devices = series_by_name(accelerator_rows, ACCELERATOR_NAMES)
        sources = {one.source for of_name in devices.values() for one in of_name}
        kind = next((k for k in _KINDS if any(source.startswith(k) for source in sources)), "")
        self._devices = {
            name: [one for one in of_name if one.source.startswith(kind)] for name, of_name in devices.items()
        }

    def step_columns(
        self, window_start_ns: int, window_end_ns: int, *, output_tokens: float | None = None
    ) -> dict[str, Any]:
        """Side-channel columns of the step with that window; *output_tokens* are those useful in W."""
        window = Window(window_start_ns, window_end_ns)
        preemptions = _increase(self._engine.get("preemptions_total", ()), window)
        waiting = [
            one.inside(window).mean()
            for one in self._engine.get("requests_waiting", ())
            if one.inside(window).size
        ]
        kv = at_each_moment(self._engine.get("kv_cache_use_ratio", ()), window)
        util = [
            one.inside(window).mean() for one in self._devices.get("util_pct", ()) if one.inside(window).size
        ]
        used = [
            one.inside(window).max()
            for one in self._devices.get("memory_used_bytes", ())
            if one.inside(window).size
        ]
        energy_j, valid, power_w = self._energy(window)
        return {
            "queue_mean": float(sum(waiting)) if waiting else None,
            "kv_cache_use_p50": float(np.median([values.mean() for values in kv])) if kv else None,
            "kv_cache_use_max": float(max(values.max() for values in kv)) if kv else None,
            "preemptions": None if preemptions is None else round(preemptions),
            "prefix_cache_hit_share": self._hit_share(window),
            "accelerator_util_mean_pct": float(np.mean(util)) if util else None,
            "accelerator_memory_peak_gib": float(max(used)) / GIB if used else None,
            "power_mean_w": power_w,
            "energy_j": energy_j,
            "joules_per_output_token": energy_j / output_tokens
            if energy_j is not None and output_tokens
            else None,
            "energy_valid": valid,
        }

    def hardware(self, window_start_ns: int, window_end_ns: int) -> Hardware:
        """Throttling and errors in the window (M28)."""
        window = Window(window_start_ns, window_end_ns)
        throttled: list[float] = []
        bits = 0
        for one in self._devices.get("throttle_reasons", ()):
            masks = one.values.astype(np.int64) & sum(THROTTLE_BITS)
            seconds, _ = one.covered(window)
            if seconds.any():
                throttled.append(float(seconds[masks[:-1] & ~POWER_CAP_BIT != 0].sum()))
                bits |= int(np.bitwise_or.reduce(masks[:-1][seconds > 0]))
        ecc = _increase(self._devices.get("ecc_uncorrected_total", ()), window)
        return Hardware(
            throttle_s=max(throttled) if throttled else None,
            throttle_reasons=tuple(name for bit, name in THROTTLE_BITS.items() if bits & bit),
            xid_errors=tuple(
                sorted({x for one in self._devices.get("xid_errors", ()) for x in _new_xids(one, window)})
            ),
            ecc_uncorrected=None if ecc is None else round(ecc),
        )

    def _hit_share(self, window: Window) -> float | None:
        queries = _increase(self._engine.get("prefix_cache_queries_total", ()), window)
        hits = _increase(self._engine.get("prefix_cache_hits_total", ()), window)
        return min(1.0, hits / queries) if queries and hits is not None else None

    def _energy(self, window: Window) -> tuple[float | None, bool | None, float | None]:
        """``(energy_j, energy_valid, power_mean_w)`` of all devices together."""
        counters = {(o.source, o.device): o for o in self._devices.get("energy_j_total", ())}
        gauges = {(o.source, o.device): o for o in self._devices.get("power_w", ())}
        energy = 0.0
        coverage: list[float] = []
        for device in sorted({*counters, *gauges}):
            watts = _mean_power(counters.get(device), window, counter=True)
            watts = watts or _mean_power(gauges.get(device), window, counter=False) or (0.0, 0.0)
            energy += watts[0] * window.seconds
            coverage.append(watts[1])
        if not coverage or not any(coverage):
            return None, None, None
        return energy, min(coverage) >= MIN_COVERAGE, energy / window.seconds


def step_columns(
    engine_rows: Rows,
    accelerator_rows: Rows,
    window_start_ns: int,
    window_end_ns: int,
    *,
    output_tokens: float | None = None,
) -> dict[str, Any]:
    """Side-channel columns of one step; see :class:`SideChannels`, which serves several steps of one run."""
    channels = SideChannels(engine_rows, accelerator_rows)
    return channels.step_columns(window_start_ns, window_end_ns, output_tokens=output_tokens)


def _increase(series: Sequence[Series], window: Window) -> float | None:
    """The growth of counters together; ``None`` when none could be compared."""
    grown = [found for one in series if (found := one.increase(window)) is not None]
    return sum(grown) if grown else None


def _mean_power(one: Series | None, window: Window, *, counter: bool) -> tuple[float, float] | None:
    """Mean watts of a counter of joules or a gauge of watts over what is covered of W, and the share of W that is.

    ``None`` when nothing is. A stretch over which a counter fell (a reset) covers nothing.
    """
    if one is None:
        return None
    seconds, share = one.covered(window)
    steps = np.diff(one.values)
    joules = steps if counter else (one.values[:-1] + steps / 2) * np.diff(one.at_ns) / 1e9
    sound = (joules >= 0) & (seconds > 0)
    covered = float(seconds[sound].sum())
    if covered <= 0:
        return None
    return float((joules * share)[sound].sum()) / covered, covered / window.seconds


def _new_xids(one: Series, window: Window) -> set[int]:
    """XIDs that appeared in W. The metric keeps the last one, so one that stood there before is no news."""
    before = one.values[one.at_ns < window.start_ns]
    seen = {int(before[-1])} if before.size else set()
    return {int(value) for value in one.inside(window)} - seen - {0}
