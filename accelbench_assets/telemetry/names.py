"""What each engine calls its metrics, and the one name each has in our tables.

Belongs here: canonical names, the engines' own names of all their generations, and what their counters mean. Does not
belong here: parsing text (``prometheus``), accelerators (``accelerators``). A new engine is one entry of ``ENGINES``.

Own names are listed newest first; the first that a page has counts, because releases between two generations show both.
``a+b`` is the sum of two metrics. Sources: ``vllm/v1/metrics/loggers.py`` (0.32) and the V0 ``vllm/engine/metrics.py``;
SGLang's ``metrics/collector.py`` and its page on production metrics; llama.cpp's ``/metrics`` of the ``xllamacpp``
wheel (2026.10) and of builds of 2024, which still had ``kv_cache_usage_ratio``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GAUGES = ("requests_running", "requests_waiting", "kv_cache_use_ratio")
COUNTERS = (
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "finished_prompt_tokens_total",
    "finished_generation_tokens_total",
    "requests_total",
    "ttft_seconds_sum",
    "ttft_seconds_count",
    "itl_seconds_sum",
    "itl_seconds_count",
    "spec_drafts_total",
    "spec_accepted_tokens_total",
)
CANONICAL = frozenset((*GAUGES, *COUNTERS))
"""Tokens and requests are counts, ``kv_cache_use_ratio`` is 0 to 1, the rest are seconds. ``finished_*`` count only
requests that the engine completed, ``requests_total`` carries the label ``finished_reason`` where there is one."""

RANK_LABELS = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Ranks of one scheduler repeat its figures: one of them counts."""


@dataclass(frozen=True, slots=True)
class EngineNames:
    """One engine's metrics. ``families`` maps canonical names to own names, newest first.

    ``exact``: its counters were seen to equal the tokens and requests of its answers. ``counts_as_it_goes``: its token
    counters include what a request that never finished had got so far. ``digits``: how many it prints of a number
    (llama.cpp writes 1234567 as 1.23457e+06), ``None`` for all.
    """

    title: str
    prefix: str
    families: Mapping[str, tuple[str, ...]]
    exact: bool
    counts_as_it_goes: bool
    digits: int | None = None

    def rounding(self, value: float) -> float:
        """How far a printed *value* may lie from the true one."""
        if self.digits is None or abs(value) < 10**self.digits:
            return 0.0
        return 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) + 1 - self.digits)


ENGINES = (
    EngineNames(
        title="vLLM",
        prefix="vllm:",
        families={
            "requests_running": ("vllm:num_requests_running",),
            "requests_waiting": ("vllm:num_requests_waiting",),
            "kv_cache_use_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            "prefix_cache_queries_total": (
                "vllm:prefix_cache_queries_total",
                "vllm:gpu_prefix_cache_queries_total",
            ),
            "prefix_cache_hits_total": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
            "preemptions_total": ("vllm:num_preemptions_total",),
            "prompt_tokens_total": ("vllm:prompt_tokens_total",),
            "generation_tokens_total": ("vllm:generation_tokens_total",),
            "finished_prompt_tokens_total": ("vllm:request_prompt_tokens_sum",),
            "finished_generation_tokens_total": ("vllm:request_generation_tokens_sum",),
            "requests_total": ("vllm:request_success_total",),
            "ttft_seconds_sum": ("vllm:time_to_first_token_seconds_sum",),
            "ttft_seconds_count": ("vllm:time_to_first_token_seconds_count",),
            "itl_seconds_sum": (
                "vllm:inter_token_latency_seconds_sum",
                "vllm:time_per_output_token_seconds_sum",
            ),
            "itl_seconds_count": (
                "vllm:inter_token_latency_seconds_count",
                "vllm:time_per_output_token_seconds_count",
            ),
            "spec_drafts_total": ("vllm:spec_decode_num_drafts_total",),
            "spec_accepted_tokens_total": ("vllm:spec_decode_num_accepted_tokens_total",),
        },
        exact=True,
        counts_as_it_goes=True,
    ),
    EngineNames(
        title="llama.cpp",
        prefix="llamacpp:",
        families={
            "requests_running": ("llamacpp:requests_processing",),
            "requests_waiting": ("llamacpp:requests_deferred",),
            "kv_cache_use_ratio": ("llamacpp:kv_cache_usage_ratio",),
            "prefix_cache_queries_total": (
                "llamacpp:prompt_tokens_total+llamacpp:prompt_tokens_cached_total",
            ),
            "prefix_cache_hits_total": ("llamacpp:prompt_tokens_cached_total",),
            "prompt_tokens_total": ("llamacpp:prompt_tokens_total",),
            "generation_tokens_total": ("llamacpp:tokens_predicted_total",),
            "spec_drafts_total": ("llamacpp:spec_decode_num_drafts_total",),
            "spec_accepted_tokens_total": ("llamacpp:spec_decode_num_accepted_tokens_total",),
        },
        exact=True,
        counts_as_it_goes=False,
        digits=6,
    ),
    EngineNames(
        title="SGLang",
        prefix="sglang:",
        families={
            "requests_running": ("sglang:num_running_reqs",),
            "requests_waiting": ("sglang:num_queue_reqs",),
            "kv_cache_use_ratio": ("sglang:token_usage",),
            "prefix_cache_queries_total": ("sglang:prompt_tokens_total",),
            "prefix_cache_hits_total": ("sglang:cached_tokens_total",),
            "preemptions_total": ("sglang:num_retracted_requests_total",),
            "prompt_tokens_total": ("sglang:prompt_tokens_total",),
            "generation_tokens_total": ("sglang:generation_tokens_total",),
            "requests_total": ("sglang:num_requests_total",),
            "ttft_seconds_sum": ("sglang:time_to_first_token_seconds_sum",),
            "ttft_seconds_count": ("sglang:time_to_first_token_seconds_count",),
            "itl_seconds_sum": ("sglang:inter_token_latency_seconds_sum",),
            "itl_seconds_count": ("sglang:inter_token_latency_seconds_count",),
        },
        exact=False,
        counts_as_it_goes=False,
    ),
)


def engine_of(names: Iterable[str]) -> EngineNames | None:
    """The engine whose prefix any of the metric *names* carries; ``None`` for a page of something else."""
    seen = set(names)
    return next((e for e in ENGINES if any(name.startswith(e.prefix) for name in seen)), None)


def chosen(engine: EngineNames, present: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For every canonical name the own metrics to add up, of the first generation that is wholly *present*."""
    names = set(present)
    found: dict[str, tuple[str, ...]] = {}
    for canonical, generations in engine.families.items():
        for generation in generations:
            parts = tuple(generation.split("+"))
            if names.issuperset(parts):
                found[canonical] = parts
                break
    return found


def own_names() -> frozenset[str]:
    """Every own name of every engine: what is worth reading from a page."""
    return frozenset(
        part
        for engine in ENGINES
        for generations in engine.families.values()
        for generation in generations
        for part in generation.split("+")
    )
