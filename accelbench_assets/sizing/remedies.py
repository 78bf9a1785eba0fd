"""What to change where an instance does not serve: the nearest two remedies, with their numbers.

Belongs here: the order of nearness (this instance first, then its family, then the cheapest elsewhere) and the texts.
Does not belong here: why something does not serve (``fit``), ranking (``recommend``).

A remedy is printed only after it was tried: the question is asked anew with the very numbers of the text, the rest of
it unchanged, and must be answered within the monthly limit at the request rate. So numbers are rounded to where they
still serve: rates down, money and times up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from itertools import islice
from typing import Any

from accelbench_assets.sizing import kv, neuron
from accelbench_assets.sizing.ask import ANY, AUTO, HEADROOM, HOURS_PER_MONTH, Ask
from accelbench_assets.sizing.engine_memory import batching
from accelbench_assets.sizing.fit import Misfit, Option, Sizer, Tried
from accelbench_assets.sizing.money import Cost, Prices, cost_of, over_budget
from accelbench_assets.sizing.weights import BITS, LOWER, native, scheme
from partitions.rows import GIB, InstanceRow

HOW_MANY = 2
RATE_DIGITS = 3
Others = Sequence[tuple[Option, Cost]]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change after which it would serve. ``kind``: ``max_model_len``, ``quantization``, ``kv_cache_dtype``, ``slo``,
    ``instance``, ``rps``, ``engine_version``, ``budget``; ``text`` has its numbers. Kind ``none`` stands at the end of
    fewer than two: no other change was found that serves."""

    kind: str
    text: str


@dataclass(slots=True)
class Adviser:
    """Remedies for the instances that *sizer* has no way on, or none within the limit.

    *others* are all options there are for the same ask, cheapest first, whatever they cost.
    """

    sizer: Sizer
    others: Others
    prices: Prices
    _sizers: dict[tuple[tuple[str, Any], ...], Sizer] = field(default_factory=dict)

    def after_misfit(self, tried: Tried) -> tuple[Remedy, ...]:
        """The nearest two remedies for an instance without an option."""
        return _two(self._of_misfit(tried))

    def after_budget(self, option: Option) -> tuple[Remedy, ...]:
        """For an option that costs too much: the rate the limit carries here, what serves within it, its own cost."""
        return _two(self._of_budget(option))

    def _of_misfit(self, tried: Tried) -> Iterator[Remedy]:
        ask, instance = self.sizer.ask, tried.instance
        chip = instance.accelerator
        version = neuron.VERSIONS.get(chip.id) if tried.reason.code == "not_served" else None
        if version and self._served(instance, engine_version=version):
            yield Remedy("engine_version", f"engine version {version}, which serves {chip.id}")
        yield from self._shorter(tried)
        for changes, kind, name in _changes(ask, chip.kind == "gpu" and chip.fp8_tflops is not None):
            if option := self._served(instance, **changes):
                yield Remedy(kind, f"{name}: {_numbers(option)}")
        yield from self._relaxed(tried)
        yield from self._instances(instance)
        yield from self._limits(None)

    def _of_budget(self, option: Option) -> Iterator[Remedy]:
        if found := self._carried(option):
            yield Remedy("rps", f"{found[1]} requests/s: what {found[2]} of them carry")
        yield from self._instances(option.instance)
        yield from self._limits(option)

    # -- trying --------------------------------------------------------------------------------------------------

    def _served(self, instance: InstanceRow, **changes: Any) -> Option | None:
        """The option on *instance* after *changes* of the ask; None if there is none, or none within the limit."""
        key = tuple(sorted(changes.items()))
        if key not in self._sizers:
            self._sizers[key] = Sizer(replace(self.sizer.ask, **changes), self.sizer.calibration)
        sizer = self._sizers[key]
        option = sizer.on(instance).option
        if option is None or over_budget(self._cost(option, sizer.ask.rps), sizer.ask):
            return None
        return option

    def _cost(self, option: Option, rps: float | None) -> Cost:
        ask, price = self.sizer.ask, self.prices(option.instance.instance_type)
        return cost_of(price, option.requests_per_s, ask.isl, ask.osl, rps, option.replicas)

    # -- remedies on the instance itself -------------------------------------------------------------------------

    def _shorter(self, tried: Tried) -> Iterator[Remedy]:
        """The longest max_model_len that fits, the highest precision first, if it still holds one request."""
        ask, limits = self.sizer.ask, batching(tried.instance.accelerator)
        memory = [one for one in tried.misfits if one.code == "memory" and one.pool is not None]
        seen = set()
        for one in sorted(memory, key=lambda m: (-BITS[m.precision], -m.tp)):
            assert one.pool is not None
            length = kv.longest(ask.model, one.pool.blocks, in_flight=limits.in_flight)
            if length in seen or not ask.isl + ask.osl <= length < ask.context:
                continue
            seen.add(length)
            if option := self._served(tried.instance, max_model_len=length):
                tokens = f"{length:,} instead of {ask.context:,} tokens"
                yield Remedy("max_model_len", f"max_model_len {tokens} ({_way(option)})")
                return

    def _relaxed(self, tried: Tried) -> Iterator[Remedy]:
        """The nearest objective that a way here meets with one request at a time."""
        ask = self.sizer.ask
        missed = [one for one in tried.misfits if one.code == "slo" and one.best is not None]
        for one in sorted(missed, key=lambda m: (_excess(m, ask), m.tp)):
            assert one.best is not None
            limits: dict[str, float] = {}
            if ask.ttft_ms is not None and one.best.ttft_ms is not None:
                limits["ttft_ms"] = float(math.ceil(max(ask.ttft_ms, one.best.ttft_ms.middle)))
            if ask.tpot_ms is not None:
                limits["tpot_ms"] = math.ceil(max(ask.tpot_ms, one.best.tpot_ms.middle) * 10) / 10
            if option := self._served(tried.instance, **limits):
                text = ",".join(
                    f"{name.removesuffix('_ms')}={value:.{0 if name == 'ttft_ms' else 1}f}"
                    for name, value in limits.items()
                )
                many = option.way.estimate.concurrency
                at_once = "one request at a time" if many == 1 else f"{many} requests at once"
                yield Remedy("slo", f"an objective of {text} (ms), for {at_once} ({_way(option)})")
                return

    # -- remedies elsewhere, and of money ------------------------------------------------------------------------

    def _instances(self, mine: InstanceRow) -> Iterator[Remedy]:
        """Within the limit: the cheapest of the same family, then the cheapest there are."""
        ask = self.sizer.ask
        within = [pair for pair in self.others if over_budget(pair[1], ask) is None]
        family = [pair for pair in within if pair[0].instance.family == mine.family]
        seen = {mine.instance_type}
        for option, cost in [*family[:1], *within]:
            if option.instance.instance_type not in seen:
                seen.add(option.instance.instance_type)
                yield Remedy(
                    "instance", f"{option.instance.instance_type}: {_numbers(option)}, {_money(cost)}"
                )

    def _limits(self, own: Option | None) -> Iterator[Remedy]:
        """The limit that the cheapest needs where it rules out everything, the highest rate it carries anywhere, the
        limits that *own* and then others need."""
        ask, mine = self.sizer.ask, None if own is None else own.instance.instance_type
        if ask.max_usd_per_month is None:
            return
        dear = [
            (one.instance.instance_type, cost.usd_per_month)
            for one, cost in self.others
            if cost.usd_per_month is not None and cost.usd_per_month > ask.max_usd_per_month
        ]
        none_within = all(over_budget(cost, ask) for _, cost in self.others)
        told = dear[0][0] if dear and none_within and dear[0][0] != mine else None
        if told:
            yield Remedy(
                "budget", f"USD {_up(dear[0][1])} a month: what {told}, the cheapest that serves, costs"
            )
        carried = [(found, one) for one, _ in self.others if (found := self._carried(one))]
        best = max(carried, key=lambda pair: pair[0][0], default=None)
        if best is not None and best[1].instance.instance_type != mine:
            (_, text, count), one = best
            where = one.instance.instance_type
            yield Remedy("rps", f"{text} requests/s: what {count} x {where} carry within the limit")
        # The sort is stable: the instance itself first, then the cheapest.
        for name, usd in sorted(dear, key=lambda pair: pair[0] != mine):
            if name != told:
                yield Remedy("budget", f"USD {_up(usd)} a month: what {name} costs")

    def _carried(self, option: Option) -> tuple[float, str, int] | None:
        """(requests a second, the same in words, instances) that the limit carries on *option*, if less than asked."""
        ask = self.sizer.ask
        price = self.prices(option.instance.instance_type).usd_per_hour
        if price is None or ask.rps is None or ask.max_usd_per_month is None:
            return None
        count = int(ask.max_usd_per_month // (HOURS_PER_MONTH * float(price)))
        text = _down(HEADROOM * count * option.requests_per_s)
        rate = float(text)
        if not 0 < rate < ask.rps or over_budget(self._cost(option, rate), ask):
            return None
        return rate, text, count


def _two(found: Iterator[Remedy]) -> tuple[Remedy, ...]:
    two = tuple(islice(found, HOW_MANY))
    if len(two) == HOW_MANY:
        return two
    return (
        *two,
        Remedy("none", "nothing else was found that serves" if two else "nothing was found that serves"),
    )


def _changes(ask: Ask, fp8: bool) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Precisions below the one asked for (or as low and made while loading), and a smaller KV cache."""
    if ask.quantization not in (AUTO, ANY):
        wanted, own = scheme(ask.quantization), native(ask.model)
        for name in LOWER:
            if name != wanted and round(BITS[name]) <= BITS[wanted] and round(BITS[name]) < round(BITS[own]):
                yield {"quantization": name}, "quantization", name
    if fp8 and ask.kv_cache_dtype in ("auto", "bf16", "fp16"):
        yield {"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "a KV cache in fp8"


def _excess(one: Misfit, ask: Ask) -> float:
    """How far a single request misses the objective: the larger ratio of estimate and limit."""
    if one.best is None:
        return math.inf
    pairs = ((one.best.ttft_ms, ask.ttft_ms), (one.best.tpot_ms, ask.tpot_ms))
    return max((found.middle / limit for found, limit in pairs if found and limit), default=math.inf)


def _down(rate: float) -> str:
    """*rate* with three digits, never more than it is and without an exponent."""
    exact = Decimal(rate)
    if not exact:
        return "0"
    places = min(0, exact.adjusted() - (RATE_DIGITS - 1))
    return f"{exact.quantize(Decimal(1).scaleb(places), rounding=ROUND_FLOOR):f}"


def _up(usd: float) -> str:
    """Whole dollars that are not less than *usd*."""
    return f"{math.ceil(usd):,}"


def _way(option: Option) -> str:
    return f"tp {option.way.tp}, {option.way.weights.precision}"


def _numbers(option: Option) -> str:
    pool = option.way.pool
    return f"{_way(option)}, {pool.weight_bytes / GIB:.1f} GiB of weights a rank, {pool.tokens:,} KV tokens"


def _money(cost: Cost) -> str:
    if cost.usd_per_hour is None:
        return f"no price ({cost.missing_reason})"
    return f"USD {cost.usd_per_hour:.2f} an hour"
