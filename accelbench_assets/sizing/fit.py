"""Which ways of serving a model fit an instance, and what each is expected to do.

Belongs here: one way (precision, ranks) on one accelerator with its memory and estimate; the best way on an instance;
why there is none. Does not belong here: prices and ranking (``recommend``), remedies (``remedies``).

Order of trying: precisions from the checkpoint's own downwards, each over all counts of ranks; among those that serve
the objective the instance's highest rate wins, then fewer ranks. So more replicas are taken before more ranks unless
the objective needs the ranks, and precision is only given up where nothing else serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.sizing import kv, loading, neuron
from accelbench_assets.sizing.ask import ANY, AUTO, Ask
from accelbench_assets.sizing.calibrate import NOTHING_MEASURED, Calibration
from accelbench_assets.sizing.divisibility import tensor_parallel, undividable, warnings
from accelbench_assets.sizing.engine_memory import Batching, Pool, batching, pool
from accelbench_assets.sizing.estimate import LINKS_NOT_COUNTED, Estimate, estimate, within
from accelbench_assets.sizing.priors import Priors
from accelbench_assets.sizing.roofline import replica
from accelbench_assets.sizing.weights import BITS, LOWER, Weights, native, weights_of
from partitions.rows import GIB, AcceleratorRow, InstanceRow

ENGINE = "vllm"


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a way does not serve. ``code``: ``not_served``, ``undividable``, ``memory``, ``slo``, ``no_rate``."""

    code: str
    text: str
    tp: int
    precision: str
    pool: Pool | None = None
    best: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One replica on *tp* ranks. ``by_memory`` requests fit its cache, ``most`` may run at once."""

    weights: Weights
    tp: int
    pool: Pool
    limits: Batching
    by_memory: int
    most: int
    priors: Priors
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Option:
    """The best way on an instance and as many replicas of it as there are ranks for."""

    instance: InstanceRow
    way: Way
    replicas: int
    warnings: tuple[str, ...]

    @property
    def requests_per_s(self) -> float:
        """Middle estimate of the whole instance."""
        rate = self.way.estimate.requests_per_s
        return self.replicas * rate.middle if rate else 0.0

    @property
    def devices_used(self) -> int:
        """Accelerators that hold a replica, of ``instance.accelerator_count``."""
        return -(-self.replicas * self.way.tp // self.instance.accelerator.tp_ranks)


@dataclass(frozen=True, slots=True)
class Tried:
    """An instance's best option, or none, and every way that was refused on the way to it."""

    instance: InstanceRow
    option: Option | None
    misfits: tuple[Misfit, ...]

    @property
    def reason(self) -> Misfit:
        """The misfit that came nearest to serving: an objective missed before memory, the most ranks first."""
        order = {"slo": 0, "no_rate": 1, "memory": 2, "undividable": 3, "not_served": 4}
        return min(self.misfits, key=lambda one: (order[one.code], -BITS[one.precision], -one.tp))


@dataclass(slots=True)
class Sizer:
    """Answers for one ``Ask``; ways are remembered by accelerator, for instances share them."""

    ask: Ask
    calibration: Calibration = NOTHING_MEASURED
    _ways: dict[tuple[str, str, int], Way | Misfit] = field(default_factory=dict)

    def precisions(self, chip: AcceleratorRow) -> tuple[str, ...]:
        """Precisions to try on *chip*, in order: the checkpoint's, then lower ones."""
        own, wanted = native(self.ask.model), self.ask.quantization
        if wanted not in (AUTO, ANY):
            return (weights_of(self.ask.model, wanted).precision,)
        if chip.kind == "neuron":
            return (own,)
        # Whole bits: scales apart, fp8 is no lower than a checkpoint of block fp8, nor int4 than mxfp4.
        return (own, *(name for name in LOWER if round(BITS[name]) < round(BITS[own])))

    def on(self, instance: InstanceRow) -> Tried:
        """The best option on *instance*."""
        misfits: list[Misfit] = []
        found: list[Option] = []
        for precision in self.precisions(instance.accelerator):
            for way in self._tries(instance, precision):
                if isinstance(way, Misfit):
                    misfits.append(way)
                else:
                    notes = warnings(self.ask.model, instance, way.weights, way.tp)
                    if not way.estimate.links_counted:
                        notes += (LINKS_NOT_COUNTED,)
                    if not way.pool.holds_one_beside(way.pool.non_kv.high):
                        notes += (
                            f"It does not start if the engine takes {way.pool.non_kv.high / GIB:.2f} GiB beside "
                            "weights and cache, which is within its bounds.",
                        )
                    found.append(Option(instance, way, instance.tp_ranks // way.tp, notes))
            if found and self.ask.quantization != ANY:
                break
        best = max(
            found, key=lambda o: (o.requests_per_s, -o.way.tp, BITS[o.way.weights.precision]), default=None
        )
        return Tried(instance, best, tuple(misfits))

    def _tries(self, instance: InstanceRow, precision: str) -> Iterator[Way | Misfit]:
        weights = weights_of(self.ask.model, precision)
        chip = instance.accelerator
        if chip.kind == "neuron":
            try:
                reason = neuron.not_served(chip, self.ask.engine_version or neuron.VERSIONS[chip.id])
            except LaunchError as error:
                raise UsageError(f"engine_version: {error.message}", hint=error.hint) from None
            if reason:
                yield Misfit("not_served", reason, 1, precision)
                return
        elif reason := loading.not_multiplied(weights.precision, chip):
            yield Misfit("not_served", reason, 1, precision)
            return
        for tp in tensor_parallel(instance):
            if reason := undividable(self.ask.model, instance, weights, tp, self.ask.context):
                yield Misfit("undividable", f"tp {tp}: {reason}", tp, precision)
                continue
            key = (chip.id, precision, tp)
            if key not in self._ways:
                self._ways[key] = self._way(chip, weights, tp)
            yield self._ways[key]

    def _way(self, chip: AcceleratorRow, weights: Weights, tp: int) -> Way | Misfit:
        ask, limits = self.ask, batching(chip)
        held = pool(
            ask.model,
            chip,
            weights,
            tp=tp,
            max_model_len=ask.context,
            kv_dtype=ask.kv_cache_dtype,
            utilization=ask.utilization,
            limits=limits,
        )
        if not held.holds_one:
            text = memory_text(held, tp, weights, held.non_kv.middle)
            return Misfit("memory", text, tp, weights.precision, held)
        each = kv.blocks_per_sequence(ask.model, ask.resident, in_flight=0)
        by_memory = held.blocks // each
        most = max(1, min(by_memory, limits.sequences))
        one = replica(ask.model, weights, chip, tp, ask.kv_cache_dtype)
        if one is None or one.flops is None:
            text = f"{chip.id} has no published 16-bit rate, so prefill and throughput cannot be estimated"
            return Misfit("no_rate", text, tp, weights.precision, held)
        priors = self.calibration.priors(chip, ENGINE, weights.precision)
        batch = within(one, priors, most, ask.isl, ask.osl, ttft_ms=ask.ttft_ms, tpot_ms=ask.tpot_ms)
        if not batch:
            alone = estimate(one, priors, 1, ask.isl, ask.osl)
            return Misfit("slo", slo_text(alone, ask, tp, weights), tp, weights.precision, held, alone)
        return Way(
            weights=weights,
            tp=tp,
            pool=held,
            limits=limits,
            by_memory=by_memory,
            most=most,
            priors=priors,
            estimate=estimate(one, priors, batch, ask.isl, ask.osl),
        )


def memory_text(held: Pool, tp: int, weights: Weights, engine_bytes: int) -> str:
    """What a rank needs and has, in one sentence; *engine_bytes* beside weights and cache."""
    need = held.weight_bytes + engine_bytes + held.blocks_per_request * held.block_bytes
    return (
        f"tp {tp}, {weights.precision}: a rank needs {need / GIB:.2f} GiB (weights {held.weight_bytes / GIB:.2f}, "
        f"engine {engine_bytes / GIB:.2f}, one request of {held.max_model_len:,} tokens "
        f"{held.blocks_per_request * held.block_bytes / GIB:.2f}) and may use {held.requested_bytes / GIB:.2f}"
    )


def slo_text(alone: Estimate, ask: Ask, tp: int, weights: Weights) -> str:
    """Which objective one request alone already misses."""
    parts = []
    if ask.ttft_ms is not None and alone.ttft_ms is not None and alone.ttft_ms.middle > ask.ttft_ms:
        parts.append(f"TTFT {alone.ttft_ms.middle:.0f} ms over {ask.ttft_ms:g}")
    if ask.tpot_ms is not None and alone.tpot_ms.middle > ask.tpot_ms:
        parts.append(f"time per output token {alone.tpot_ms.middle:.1f} ms over {ask.tpot_ms:g}")
    return f"tp {tp}, {weights.precision}: one request alone is estimated to miss the objective: {', '.join(parts)}"
