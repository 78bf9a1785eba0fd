"""Compatibility columns: our event log put through the formulas of other load generators, under their names.

Belongs here: one function a tool that says which of its metrics is what of the log, read in its source. Does
not belong here: our own metrics (``metrics``), the log and the percentile methods (``compat_log``), result
files written by those tools (``importers``).

The figures answer "what would tool X have printed for this run". They are for reading beside published
figures, never for ranking: populations, failures and even the words differ (``docs/methodology.md`` §1.2).
What a log of token chunks cannot show is said in ``note``: stamps of role-only and finish chunks, and the
connection time that some tools hold inside TTFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from accelbench_assets.bench.compat_log import LEVELS, EventLog, Ordered, Stats, nearest_above_ns, weighted
from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.metrics import Row

GENAI_BENCH_TRIM = 0.1
"""Share of requests trimmed at each end in the row that shows what ``--warmup-ratio`` and
``--cooldown-ratio`` do to genai-bench's throughput."""

_Figure = tuple[str, str, Stats, str]  # metric, unit, figures, note


def compat_rows(frame: Frame) -> list[Row]:
    """One row for every metric of every tool, empty when no answer completed.

    Columns: step_index, tool, tool_version (the one whose source the formula was read in), metric (the tool's
    own name), unit, n, mean, p50, p90, p95, p99 (null for rates and where a tool has none), note. All
    requests of the step count, warm-up and tail included, as they do in a tool that is started once.
    """
    log = EventLog(frame)
    if not log.sent_ns.size:
        return []
    return [
        {
            "step_index": frame.window.step_index,
            "tool": tool,
            "tool_version": version,
            "metric": metric,
            "unit": unit,
            **{name: stats.get(name) for name in ("n", "mean", *LEVELS)},
            "note": note or None,
        }
        for (tool, version), figures in TOOLS.items()
        for metric, unit, stats, note in figures(log)
    ]


def _rate(count: float, seconds: float, n: int) -> Stats:
    return {"n": n, "mean": float(count) / seconds if seconds > 0 else None}


def _vllm_bench(log: EventLog) -> Iterator[_Figure]:
    """``calculate_metrics`` of vLLM's ``benchmarks/serve.py``, times in seconds."""
    n, wall = log.sent_ns.size, log.wall_s
    short = "answers of one token are left out; goodput takes them as 0"
    yield "ttft", "ms", log.first.stats(1000), "the tool also stamps a role-only first event"
    yield "tpot", "ms", log.tpot.stats(1000), short
    yield "itl", "ms", log.gaps.stats_ms(), "gaps between chunks; the tool adds role and finish chunks"
    yield "e2el", "ms", log.last.stats(1000), "up to the last token chunk"
    yield "request_throughput", "req/s", _rate(n, wall, n), "whole run"
    yield "output_throughput", "tokens/s", _rate(log.tokens.sum(), wall, n), "whole run, completed answers"
    total = log.tokens.sum() + log.input_tokens.sum()
    yield "total_token_throughput", "tokens/s", _rate(total, wall, n), "whole run, completed answers"


def _sglang(log: EventLog) -> Iterator[_Figure]:
    """``calculate_metrics`` of SGLang's ``benchmark/serving.py``, which is vLLM's without the role event."""
    n, wall = log.sent_ns.size, log.wall_s
    spread = "gaps between chunks; its native backend spreads them over tokens"
    yield "ttft", "ms", log.first.stats(1000), ""
    yield "tpot", "ms", log.tpot.stats(1000), "answers of one token are left out"
    yield "itl", "ms", log.gaps.stats_ms(), spread
    yield "e2e_latency", "ms", log.last.stats(1000), "up to the last token chunk"
    yield "request_throughput", "req/s", _rate(n, wall, n), "whole run"
    yield "output_throughput", "tokens/s", _rate(log.tokens.sum(), wall, n), "whole run, completed answers"


def _guidellm(log: EventLog) -> Iterator[_Figure]:
    """``GenerativeRequestStats`` and ``GenerativeMetrics.compile``: per-request means, weighted by tokens."""
    first, last = log.first_us / 1e6, log.last_us / 1e6
    several = log.tokens > 1
    decode = log.tokens[several] - 1
    itl = 1000 * (last - first)[several] / decode
    tpot = 1000 * last / log.tokens
    yield "time_to_first_token_ms", "ms", weighted(1000 * log.first.values), ""
    yield "time_per_output_token_ms", "ms", weighted(tpot, log.tokens), "includes TTFT; weighted by tokens"
    yield "inter_token_latency_ms", "ms", weighted(itl, decode), "mean of a request; weighted by tokens"
    yield "request_latency", "s", weighted(log.end.values), "up to the end of the stream"


def _aiperf(log: EventLog) -> Iterator[_Figure]:
    """``metrics/types`` of aiperf, with the tokens of the first chunk as under ``--per-chunk-usage``."""
    several = log.tokens > 1
    after = np.where(log.tokens > log.first_tokens, log.tokens - log.first_tokens, log.tokens - 1)
    itl = Ordered(((log.last_us - log.first_us) * 1000)[several] / after[several])  # ns
    n, span = log.sent_ns.size, log.answer_s
    whole = "first send to last token; the bounds of the tool's phase are a little wider"
    yield "time_to_first_token", "ms", log.first.stats(1000), ""
    yield "inter_token_latency", "ms", itl.stats(1e-6), "mean of a request, after its first chunk"
    yield "inter_chunk_latency", "ms", log.gaps.stats_ms(), "exact; the tool's percentiles are a t-digest's"
    yield "request_latency", "ms", log.last.stats(1000), "up to the last token chunk"
    yield "output_token_throughput_per_user", "tokens/s/user", itl.reciprocals(1e9), "1 / ITL"
    yield "output_token_throughput", "tokens/s", _rate(log.tokens.sum(), span, n), whole
    yield "request_throughput", "req/s", _rate(n, span, n), whole


def _genai_perf(log: EventLog) -> Iterator[_Figure]:
    """``LLMProfileDataParser``: integer nanoseconds, N - 1 whatever the first chunk held."""
    several = (log.tokens > 1) & (log.chunks > 1)
    itl = Ordered(np.rint(((log.last_us - log.first_us) * 1000)[several] / (log.tokens[several] - 1)))
    n, span, sent = log.sent_ns.size, log.answer_s, int(log.sent.sum())
    yield "time_to_first_token", "ms", log.first.stats(1000), ""
    yield "inter_token_latency", "ms", itl.stats(1e-6), "mean of a request, rounded to ns"
    yield "request_latency", "ms", log.last.stats(1000), "up to the last token chunk"
    yield "output_token_throughput_per_user", "tokens/s/user", itl.reciprocals(1e9), "1 / ITL"
    yield "output_token_throughput", "tokens/s", _rate(log.tokens.sum(), span, n), "first send to last token"
    yield "request_throughput", "req/s", _rate(sent, span, sent), "counts failed requests too"


def _genai_bench(log: EventLog) -> Iterator[_Figure]:
    """``RequestMetricsCollector`` and ``AggregatedMetricsCollector``."""
    decode = log.end_us / 1e6 - log.first_us / 1e6
    usable = (log.tokens > 1) & (decode >= 0.001)
    tpot = Ordered(decode[usable] / (log.tokens[usable] - 1))
    n, wall = log.sent_ns.size, log.wall_s
    yield "ttft", "ms", log.first.stats(1000), "the tool opens a connection inside it"
    yield "tpot", "ms", tpot.stats(1000), "left out where decoding took less than 1 ms"
    yield "e2e_latency", "ms", log.end.stats(1000), "up to the end of the stream"
    yield "output_inference_speed", "tokens/s", tpot.reciprocals(), "1 / TPOT"
    yield "requests_per_second", "req/s", _rate(n, wall, n), "whole run"
    throughput = "mean_output_throughput_tokens_per_s"
    yield throughput, "tokens/s", _rate(log.tokens.sum(), wall, n), "whole run"
    tokens, kept = log.trimmed_tokens(GENAI_BENCH_TRIM)
    note = f"{GENAI_BENCH_TRIM:.0%} of the requests trimmed at each end, divided by the untrimmed duration"
    yield f"{throughput}_trimmed", "tokens/s", _rate(tokens, wall, kept), note


def _inference_perf(log: EventLog) -> Iterator[_Figure]:
    """``compute_request_latency_metrics`` and ``summarize_requests``, with the server's token counts."""
    timed = log.streamed > 1
    several = timed & (log.tokens > 1)
    first, tpot = log.first, log.tpot
    if not timed.all():
        first = Ordered(log.first_us[timed] / 1e6)
        decode = (log.last_us / 1e6 - log.first_us / 1e6)[several]
        tpot = Ordered(decode / (log.tokens[several] - 1))
    zeros = int((log.streamed - log.chunks).sum())
    n, wall = log.sent_ns.size, log.wall_s
    ntpot = Ordered(log.end_us / 1e6 / log.tokens)
    itl_note = "the tokens of a chunk share its stamp: gaps of 0 inside, the full gap at its edge"
    yield "time_to_first_token", "ms", first.stats(1000), "answers of one token are left out"
    yield "time_per_output_token", "ms", tpot.stats(1000), ""
    yield "inter_token_latency", "ms", log.gaps.stats_ms(zeros), itl_note
    yield "normalized_time_per_output_token", "ms", ntpot.stats(1000), "includes TTFT"
    yield "request_latency", "ms", log.end.stats(1000), "up to the end of the stream"
    yield "output_tokens_per_sec", "tokens/s", _rate(log.tokens.sum(), wall, n), "whole run"
    yield "requests_per_sec", "req/s", _rate(n, wall, n), "whole run"


def _mlperf(log: EventLog) -> Iterator[_Figure]:
    """MLPerf LoadGen's token latencies: integer nanoseconds from the scheduled arrival."""
    first, last = log.first_us * 1000 + log.lag_ns, log.last_us * 1000 + log.lag_ns
    several = log.tokens > 1
    tpot = (last - first)[several] // (log.tokens[several] - 1)
    yield "first_token_latency", "ms", nearest_above_ns(first), "from the scheduled arrival"
    yield "time_per_output_token", "ms", nearest_above_ns(tpot), "answers of one token are left out"


TOOLS: dict[tuple[str, str], Callable[[EventLog], Iterator[_Figure]]] = {
    ("vllm bench serve", "0.32.0"): _vllm_bench,
    ("sglang bench_serving", "0.5.23"): _sglang,
    ("guidellm", "0.8.1"): _guidellm,
    ("aiperf", "0.13.0"): _aiperf,
    ("genai-perf", "0.0.16"): _genai_perf,
    ("genai-bench", "0.0.5"): _genai_bench,
    ("inference-perf", "0.7.0"): _inference_perf,
    ("mlperf loadgen", "2026-08"): _mlperf,
}
"""Tool and the version whose source was read -> its metrics of a log."""
