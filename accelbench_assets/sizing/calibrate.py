"""What measured runs make of the priors: a posterior per engine, accelerator and precision.

Belongs here: observations and their update of MFU, MBU, host time and the kept share. Does not belong here: reading
runs (``measured``), the priors (``priors``).

Only ``measured`` runs on a catalogued accelerator count, one observation a step. A prefill time is linear in ``1/MFU``
and a step time in ``1/MBU`` and the host time, so each update is Bayesian linear regression in closed form: the prior
is a normal around the middle whose 90 % interval is the prior's range, an observation's error 10 %. Steps of different
bytes tell bandwidth from host time; steps alike leave what they cannot tell apart at the prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from accelbench_assets.sizing.priors import Priors, Range, priors_of
from accelbench_assets.sizing.roofline import Efficiency, Replica, links_s, mixed_prefill_s, prefill_s, step_s
from partitions.rows import AcceleratorRow

Z90 = 1.6448536269514722
NOISE = 0.10
"""Relative error of one step's figure against the formula; the methodology wants 25 % at p90 after calibration."""
MIDDLE_LOAD = 1.5  # above this concurrency a step says something of the share that is kept

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Observation:
    """One step of a measured run: means over its window; ``None`` = not known. Seconds, tokens, requests per second."""

    run_id: str
    engine: str
    accelerator: str
    one: Replica
    concurrency: float
    isl: float
    osl: float
    ttft_s: float | None
    tpot_s: float | None
    requests_per_s: float | None

    @property
    def key(self) -> Key:
        """(engine, accelerator, precision)."""
        return self.engine, self.accelerator, self.one.weights.precision


@dataclass(frozen=True, slots=True)
class Calibration:
    """Posteriors by (engine, accelerator, precision); everything else keeps its prior."""

    posteriors: Mapping[Key, Priors] = field(default_factory=lambda: MappingProxyType({}))

    def priors(self, chip: AcceleratorRow, engine: str, precision: str) -> Priors:
        """What is believed of *engine* on *chip* at *precision*."""
        return self.posteriors.get((engine, chip.id, precision)) or priors_of(chip.kind)


NOTHING_MEASURED = Calibration()


def calibrate(observations: Iterable[Observation], kinds: Mapping[str, str]) -> Calibration:
    """The posteriors of *observations*; *kinds* maps accelerators to ``gpu`` or ``neuron``. Order does not matter."""
    found: dict[Key, list[Observation]] = {}
    for one in sorted(observations, key=lambda o: (o.key, o.run_id, o.concurrency, o.isl, o.osl)):
        found.setdefault(one.key, []).append(one)
    return Calibration(
        MappingProxyType({key: posterior(priors_of(kinds[key[1]]), seen) for key, seen in found.items()})
    )


def posterior(prior: Priors, seen: Sequence[Observation]) -> Priors:
    """*prior* after *seen*; a quantity that nothing speaks of keeps its range and its count of 0 runs."""
    alone = [one for one in seen if one.concurrency <= MIDDLE_LOAD]
    mbu, host = _mbu_and_host(prior, [one for one in alone if one.tpot_s])
    now = replace(prior, mbu=mbu, host_s=host)
    now = replace(now, mfu=_mfu(now, [one for one in alone if one.ttft_s]))
    kept = _kept(now, [one for one in seen if one.requests_per_s and one.concurrency > MIDDLE_LOAD])
    runs = len({one.run_id for one in seen})
    return replace(now, kept=kept, source=f"{runs} measured run{'s' if runs > 1 else ''} over {prior.source}")


def _runs(seen: Sequence[Observation]) -> int:
    return len({one.run_id for one in seen})


def _normal(low: float, high: float) -> tuple[float, float]:
    """(mean, standard deviation) whose 90 % interval is *low* to *high*."""
    return (low + high) / 2, (high - low) / (2 * Z90)


def _mfu(prior: Priors, seen: Sequence[Observation]) -> Range:
    """From first tokens without company: what is left of TTFT beyond links and one step is prefill."""
    rows, values = [], []
    for one in seen:
        ideal = prefill_s(one.one, one.isl)
        step = step_s(one.one, 1, one.isl, _middle(prior))
        left = (one.ttft_s or 0.0) - step - links_s(one.one, one.isl)
        if ideal and left > 0:
            rows.append([ideal])
            values.append(left)
    if not rows:
        return prior.mfu
    mean, spread = _normal(1 / prior.mfu.high, 1 / prior.mfu.low)
    (inverse,), (error,) = _regress(rows, values, [mean], [spread])
    return _inverted(inverse, error, _runs(seen))


def _mbu_and_host(prior: Priors, seen: Sequence[Observation]) -> tuple[Range, Range]:
    rows, values = [], []
    for one in seen:
        left = (one.tpot_s or 0.0) - links_s(one.one, 1)
        if left > 0:
            rows.append([step_s(one.one, 1, one.isl + one.osl / 2), 1.0])
            values.append(left)
    if not rows:
        return prior.mbu, prior.host_s
    mean, spread = _normal(1 / prior.mbu.high, 1 / prior.mbu.low)
    host_mean, host_spread = _normal(prior.host_s.low, prior.host_s.high)
    found, errors = _regress(rows, values, [mean, host_mean], [spread, host_spread])
    runs = _runs(seen)
    least = prior.host_s.low / 4
    host = max(found[1], least)
    low = max(found[1] - Z90 * errors[1], least)
    return (
        _inverted(found[0], errors[0], runs),
        Range(min(low, host), host, max(host, found[1] + Z90 * errors[1]), runs),
    )


def _kept(now: Priors, seen: Sequence[Observation]) -> Range:
    """Measured over computed rates under load, as a normal of logarithms; never more than 1."""
    ratios = []
    for one in seen:
        prefill = mixed_prefill_s(one.one, one.isl, _middle(now))
        if prefill is None or not one.requests_per_s:
            continue
        step = step_s(one.one, one.concurrency, one.isl + one.osl / 2, _middle(now))
        ratios.append(math.log(min(1.0, one.requests_per_s * (prefill + one.osl * step / one.concurrency))))
    if not ratios:
        return now.kept
    mean, spread = _normal(math.log(now.kept.low), math.log(now.kept.high))
    precision = 1 / spread**2 + len(ratios) / NOISE**2
    middle = (mean / spread**2 + sum(ratios) / NOISE**2) / precision
    # The next run scatters as the last ones did: the interval is of a run, not of the mean.
    width = Z90 * math.sqrt(1 / precision + NOISE**2)
    high = min(1.0, math.exp(middle + width))
    return Range(math.exp(middle - width), min(math.exp(middle), high), high, _runs(seen))


def _middle(priors: Priors) -> Efficiency:
    return Efficiency(priors.mfu.middle, priors.mbu.middle, priors.host_s.middle, links=True)


def _inverted(inverse: float, error: float, runs: int) -> Range:
    """An efficiency from its inverse and that one's error; within (0, 1]."""
    wide = Z90 * math.sqrt(error**2 + (NOISE * inverse) ** 2)
    slow, fast = inverse + wide, max(1.0, inverse - wide)
    middle = max(1.0, inverse)
    return Range(1 / slow, 1 / middle, 1 / min(fast, middle), runs)


def _regress(
    rows: Sequence[Sequence[float]], values: Sequence[float], means: Sequence[float], spreads: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Posterior means and standard deviations of ``values = rows @ theta`` under independent normal priors."""
    import numpy as np  # only where something was measured: it costs a tenth of a second

    x, y = np.array(rows), np.array(values)
    weight = 1 / (NOISE * y) ** 2
    mean, spread = np.array(means), np.array(spreads)
    precision = np.diag(1 / spread**2) + (x.T * weight) @ x
    covariance = np.linalg.inv(precision)
    found = covariance @ (mean / spread**2 + (x.T * weight) @ y)
    return [float(v) for v in found], [float(v) for v in np.sqrt(np.diag(covariance))]
