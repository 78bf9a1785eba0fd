"""The arithmetic of one option, line by line, with every number that went into it.

Belongs here: words and figures of ``weights``, ``kv``, ``engine_memory``, ``estimate`` and the cost. Does not belong
here: computing any of them anew in another way.
"""

from __future__ import annotations

import math

from accelbench_assets.sizing import kv
from accelbench_assets.sizing.ask import HEADROOM, HOURS_PER_MONTH, Ask
from accelbench_assets.sizing.estimate import Interval
from accelbench_assets.sizing.fit import Option, Way
from accelbench_assets.sizing.money import Cost
from accelbench_assets.sizing.priors import Range
from accelbench_assets.sizing.recommend import Ranked
from accelbench_assets.sizing.roofline import multiplies_fp8, prefill_flop
from accelbench_assets.sizing.weights import CHECKPOINT
from partitions.rows import GIB, AcceleratorRow


def lines(one: Ranked, ask: Ask) -> list[str]:
    """The arithmetic of *one*, top to bottom: weights, memory, KV cache, times, cost."""
    option = one.option
    return [
        *_weights(ask, option.way),
        *_memory(option, ask),
        *_cache(option.way, ask),
        *_times(option, ask),
        *_money(option, one.cost, ask),
        *option.warnings,
    ]


def _gib(value: float) -> str:
    return f"{value / GIB:.2f} GiB"


def _weights(ask: Ask, way: Way) -> list[str]:
    model, weights = ask.model, way.weights
    found = [
        f"model: {model.slug}, {model.parameters:,} parameters, {weights.precision} ({weights.how}): "
        f"{weights.total_bytes:,} B = {_gib(weights.total_bytes)}"
    ]
    if model.speculative_bytes and weights.how == CHECKPOINT:
        found.append(
            f"not loaded: {model.speculative_bytes:,} B of layers that predict further tokens; no speculative decoding "
            "is assumed"
        )
    if weights.experts:
        found.append(
            f"experts: all {weights.experts} are resident; a token uses {weights.experts_per_token}, "
            f"{weights.read_parameters / 1e9:.2f}e9 parameters"
        )
    shared = f" over tp {way.tp}" if way.tp > 1 else ""
    found.append(f"weights a rank: {_gib(way.pool.weight_bytes)}{shared}")
    return found


def _memory(option: Option, ask: Ask) -> list[str]:
    chip, pool = option.instance.accelerator, option.way.pool
    unit = "core" if chip.kind == "neuron" else "device"
    other = pool.non_kv
    return [
        f"memory: a {unit} has {pool.device_bytes / 1024**2:,.0f} MiB; vLLM asks for ceil(x {ask.utilization:g}) = "
        f"{_gib(pool.requested_bytes)}",
        f"engine: {_gib(other.middle)} beside weights and cache ({_gib(other.low)} to {_gib(other.high)}; a bound, "
        "not verified on any accelerator)",
        f"KV pool: {_gib(pool.requested_bytes)} - {_gib(pool.weight_bytes)} - {_gib(other.middle)} = "
        f"{_gib(pool.pool_bytes)} a rank",
    ]


def _cache(way: Way, ask: Ask) -> list[str]:
    model, pool = ask.model, way.pool
    groups = kv.groups(model)
    layer = kv.layer_bytes_per_rank(model, way.tp, ask.kv_cache_dtype)
    what = f"{model.attention_kind.upper()}, {layer:,} B a layer and rank"
    kinds = ""
    if len(groups) > 1:
        local = model.layers - model.full_layers
        kinds = f"; {model.full_layers} layers grow, {local} keep {model.sliding_window} tokens"
    each = kv.blocks_per_sequence(model, ask.resident)
    fewest, most = (pool.blocks_beside(engine) for engine in (pool.non_kv.high, pool.non_kv.low))
    size = pool.block_tokens
    return [
        f"KV cache: {what}{kinds}; {kv.bytes_per_token(model, way.tp, ask.kv_cache_dtype):,} B a token over "
        f"{way.tp} rank{'s' if way.tp > 1 else ''}",
        f"blocks: a block of {size} tokens is {groups[0].layers} layers x {layer:,} x {size} = {pool.block_bytes:,} B; "
        f"{max(0, pool.pool_bytes):,} // {pool.block_bytes:,} = {pool.blocks:,} blocks "
        f"({fewest:,} to {most:,} over the engine's bounds)",
        f"context: max_model_len {pool.max_model_len:,} takes {pool.blocks_per_request:,} blocks; KV cache size "
        f"{pool.tokens:,} tokens, {pool.max_concurrency:.2f} requests of that length; the longest one request could be "
        f"is {kv.longest(model, pool.blocks, in_flight=way.limits.in_flight):,}",
        f"concurrency: {ask.resident:,} tokens are held on average ({ask.isl:,} in + {ask.osl:,}/2 out) = {each} "
        f"blocks; memory holds {way.by_memory:,}, the scheduler {way.limits.sequences:,}: at most {way.most:,}",
    ]


def figure(value: float, digits: int = 3) -> str:
    """*value* with *digits* significant digits and no exponent: 0.0412, 7.35, 2,713."""
    if not value:
        return "0"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _span(found: Interval | Range | None, unit: str = "", scale: float = 1.0) -> str:
    if found is None:
        return "not known"
    low, middle, high = (figure(v * scale) for v in (found.low, found.middle, found.high))
    return f"{middle}{unit} ({low} to {high})"


def _flops(chip: AcceleratorRow, option: Option) -> str:
    fast = multiplies_fp8(option.way.weights, chip)
    rate = chip.fp8_tflops if fast else chip.bf16_tflops
    return f"{rate:g} TFLOPS {'FP8' if fast else '16-bit'}"


def _times(option: Option, ask: Ask) -> list[str]:
    way, chip = option.way, option.instance.accelerator
    found, priors = way.estimate, way.priors
    devices = way.tp / chip.tp_ranks
    flop = prefill_flop(ask.model, way.weights, ask.isl)
    context = ask.isl + ask.osl / 2
    read = way.weights.read_bytes(found.concurrency)
    cache = found.concurrency * kv.bytes_read(ask.model, context, way.tp, ask.kv_cache_dtype)
    basis = f"{priors.runs} measured runs" if priors.runs else "priors, nothing measured"
    limits = [f"{n}<={v:g} ms" for n, v in (("TTFT", ask.ttft_ms), ("TPOT", ask.tpot_ms)) if v is not None]
    return [
        f"efficiency ({basis}): MFU {_span(priors.mfu)}, MBU {_span(priors.mbu)}, host "
        f"{_span(priors.host_s, ' ms', 1e3)}, kept by a run {_span(priors.kept)}; {priors.source}",
        f"prefill: {figure(flop / 1e12)} TFLOP for {ask.isl:,} tokens on {devices:g} x {_flops(chip, option)}",
        f"step at concurrency {found.concurrency}: reads {figure(read / 1e9)} GB of weights and "
        f"{figure(cache / 1e9)} GB of cache at {devices:g} x {chip.memory_bandwidth_gb_s:g} GB/s"
        + ("" if found.links_counted else "; all-reduces are not counted (no published link rate)"),
        f"objective: {', '.join(limits) or 'none'}; the largest concurrency within it is {found.concurrency}",
        f"TTFT {_span(found.ttft_ms, ' ms')}, time per output token {_span(found.tpot_ms, ' ms')}",
        f"a replica: {_span(found.requests_per_s)} requests/s, {_span(found.output_tok_s)} output tokens/s; "
        f"no engine can exceed {figure(found.ceiling_output_tok_s, 4)} at this concurrency",
        f"the instance: {option.replicas} replica{'s' if option.replicas > 1 else ''} on {option.devices_used} of "
        f"{option.instance.accelerator_count} accelerators: {figure(option.requests_per_s)} requests/s",
    ]


def _money(option: Option, cost: Cost, ask: Ask) -> list[str]:
    found = []
    if ask.rps is not None:
        found.append(
            f"replicas: {ask.rps:g} requests/s over {HEADROOM:g} x {figure(option.requests_per_s / option.replicas)} "
            f"each = {cost.replicas}; {cost.instances} instance{'s' if cost.instances > 1 else ''}"
        )
    if cost.usd_per_hour is None:
        return [*found, f"cost: none, for there is no price: {cost.missing_reason}"]
    return [
        *found,
        f"cost: USD {cost.usd_per_hour:.4f} an hour ({cost.price_terms}; {cost.price_as_of}); "
        f"USD {figure(cost.usd_per_request or 0)} a request, {figure(cost.usd_per_1m_output or 0)} per 10^6 output "
        f"tokens (the whole hour), {HOURS_PER_MONTH} h x {cost.instances} = {cost.usd_per_month:,.0f} a month",
    ]
