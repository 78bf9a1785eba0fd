"""What to change where an instance does not serve: the nearest two remedies, with their numbers.

Belongs here: the order of nearness (this instance first, then its family, then the cheapest elsewhere) and the texts.
Does not belong here: why something does not serve (``fit``), ranking (``recommend``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from accelbench_assets.sizing import kv, neuron
from accelbench_assets.sizing.ask import ANY, AUTO, HEADROOM, HOURS_PER_MONTH, Ask
from accelbench_assets.sizing.engine_memory import batching
from accelbench_assets.sizing.fit import Misfit, Option, Sizer, Tried
from accelbench_assets.sizing.money import Cost, Prices, over_budget
from accelbench_assets.sizing.weights import BITS, LOWER, native
from partitions.rows import GIB

HOW_MANY = 2
Others = Sequence[tuple[Option, Cost]]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change after which it would serve. ``kind``: ``max_model_len``, ``quantization``, ``kv_cache_dtype``, ``slo``,
    ``instance``, ``rps``, ``engine_version``, ``budget``; ``text`` has its numbers."""

    kind: str
    text: str


def after_misfit(sizer: Sizer, tried: Tried, others: Others) -> tuple[Remedy, ...]:
    """The nearest two remedies for an instance without an option; fewer only where nothing else serves at all."""
    return tuple(islice(_of_misfit(sizer, tried, others), HOW_MANY))


def after_budget(ask: Ask, option: Option, others: Others, prices: Prices) -> tuple[Remedy, ...]:
    """For an option that costs too much: the rate the budget carries here, and what serves within it."""
    found = []
    hour = prices(option.instance.instance_type).usd_per_hour
    if hour is not None and ask.rps is not None and ask.max_usd_per_month is not None:
        affordable = int(ask.max_usd_per_month // (HOURS_PER_MONTH * float(hour)))
        if affordable:
            rate = HEADROOM * affordable * option.requests_per_s
            found.append(Remedy("rps", f"{rate:.3g} requests/s: what {affordable} of them carry"))
    found += list(islice(_cheapest(ask, option.instance.instance_type, others), HOW_MANY))
    if dear := next((c for _, c in others if c.usd_per_month is not None), None):
        found.append(
            Remedy("budget", f"USD {dear.usd_per_month:,.0f} a month: what the cheapest that serves costs")
        )
    found += _carried(ask, others)
    return tuple(found[:HOW_MANY])


def _carried(ask: Ask, others: Others) -> list[Remedy]:
    """The highest rate that the limit carries on any instance."""
    best: tuple[float, int, str] | None = None
    for option, cost in others:
        if cost.usd_per_hour is None or ask.max_usd_per_month is None:
            continue
        count = int(ask.max_usd_per_month // (HOURS_PER_MONTH * float(cost.usd_per_hour)))
        rate = HEADROOM * count * option.requests_per_s
        if count and (best is None or rate > best[0]):
            best = rate, count, option.instance.instance_type
    if best is None:
        return []
    return [Remedy("rps", f"{best[0]:.3g} requests/s: what {best[1]} x {best[2]} carry within the limit")]


def _of_misfit(sizer: Sizer, tried: Tried, others: Others) -> Iterator[Remedy]:
    ask, instance = sizer.ask, tried.instance
    memory = [one for one in tried.misfits if one.code == "memory"]
    if tried.reason.code == "not_served":
        version = neuron.VERSIONS.get(instance.accelerator.id)
        if version and Sizer(replace(ask, engine_version=version), sizer.calibration).on(instance).option:
            yield Remedy(
                "engine_version", f"engine version {version}, which serves {instance.accelerator.id}"
            )
    if memory:
        yield from _shorter(ask, memory, tried)
    chip = instance.accelerator
    fp8 = chip.kind == "gpu" and chip.fp8_tflops is not None
    for changed, kind, name in _changes(ask, fp8):
        option = Sizer(changed, sizer.calibration).on(instance).option
        if option is not None:
            yield Remedy(kind, f"{name}: {_numbers(option)}")
    if best := _relaxed(ask, tried):
        yield best
    yield from _elsewhere(ask, tried, others)


def _shorter(ask: Ask, memory: Sequence[Misfit], tried: Tried) -> Iterator[Remedy]:
    """A shorter max_model_len on as many ranks as there are, if it still holds one request of the ask."""
    limits = batching(tried.instance.accelerator)
    for one in sorted(memory, key=lambda m: (-BITS[m.precision], -m.tp)):
        if one.pool is None or not one.pool.blocks:
            continue
        length = kv.longest(ask.model, one.pool.blocks, in_flight=limits.in_flight)
        if ask.isl + ask.osl <= length < ask.context:
            tokens = f"{length:,} instead of {ask.context:,} tokens"
            yield Remedy("max_model_len", f"max_model_len {tokens} (tp {one.tp}, {one.precision})")
            return


def _changes(ask: Ask, fp8: bool) -> Iterator[tuple[Ask, str, str]]:
    if ask.quantization not in (AUTO, ANY):
        below = BITS[ask.quantization] if ask.quantization in BITS else BITS[native(ask.model)]
        for name in LOWER:
            if BITS[name] < min(below, BITS[native(ask.model)]):
                yield replace(ask, quantization=name), "quantization", name
    if fp8 and ask.kv_cache_dtype in ("auto", "bf16", "fp16"):
        yield replace(ask, kv_cache_dtype="fp8"), "kv_cache_dtype", "a KV cache in fp8"


def _relaxed(ask: Ask, tried: Tried) -> Remedy | None:
    """The objective that the fastest way here would meet with one request."""
    missed = [one for one in tried.misfits if one.code == "slo" and one.best is not None]
    if not missed:
        return None
    one = min(missed, key=lambda m: (m.best.tpot_ms.middle if m.best else 0.0, m.tp))
    assert one.best is not None
    parts = []
    if ask.ttft_ms is not None and one.best.ttft_ms is not None:
        parts.append(f"ttft={max(ask.ttft_ms, one.best.ttft_ms.middle):.0f}")
    if ask.tpot_ms is not None:
        parts.append(f"tpot={max(ask.tpot_ms, one.best.tpot_ms.middle):.1f}")
    return Remedy(
        "slo",
        f"an objective of {','.join(parts)} (ms), for one request at a time (tp {one.tp}, {one.precision})",
    )


def _elsewhere(ask: Ask, tried: Tried, others: Others) -> Iterator[Remedy]:
    """The cheapest of the same family, then the cheapest there are."""
    mine = tried.instance
    family = [pair for pair in others if pair[0].instance.family == mine.family]
    seen = {mine.instance_type}
    for option, cost in [*family[:1], *others]:
        if option.instance.instance_type not in seen:
            seen.add(option.instance.instance_type)
            yield Remedy("instance", f"{option.instance.instance_type}: {_numbers(option)}, {_money(cost)}")


def _cheapest(ask: Ask, but: str, others: Others) -> Iterator[Remedy]:
    for option, cost in others:
        if option.instance.instance_type != but and over_budget(cost, ask) is None:
            yield Remedy("instance", f"{option.instance.instance_type}: {_numbers(option)}, {_money(cost)}")


def _numbers(option: Option) -> str:
    way = option.way
    return (
        f"tp {way.tp}, {way.weights.precision}, {way.pool.weight_bytes / GIB:.1f} GiB of weights a rank, "
        f"{way.pool.tokens:,} KV tokens"
    )


def _money(cost: Cost) -> str:
    if cost.usd_per_hour is None:
        return f"no price ({cost.missing_reason})"
    return f"USD {cost.usd_per_hour:.2f} an hour"
