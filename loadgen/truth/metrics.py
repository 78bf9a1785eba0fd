"""``/metrics`` in the names of the server's own, vLLM's or llama.cpp's.

Belongs here: totals over ended requests, histograms, the text format. Does not belong here: requests
(``jobs``), HTTP (``loop``). Times are seconds there; a TTFT counts from the arrival, as engines count it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from loadgen.truth.jobs import Job

# vLLM's own bounds, seconds.
_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_GAP_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_WHOLE_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


@dataclass(slots=True)
class Histogram:
    """Counts below each of ``bounds`` (seconds), one more for the rest, and the sum."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Live:
    """What is going on now; the token counts are of requests that have not ended."""

    running: int
    waiting: int
    prompt_tokens: int
    generated_tokens: int
    resident_tokens: int


@dataclass(slots=True)
class Totals:
    """Sums over ended requests; the histogram of gaps only with *detail*, since it looks at each of them."""

    detail: bool = False

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    sends: int = 0
    buffered_sends: int = 0
    longest: int = 0
    prompt_s: float = 0.0
    predicted_s: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)
    ttft: Histogram = field(default_factory=lambda: Histogram(_TTFT_S))
    gap: Histogram = field(default_factory=lambda: Histogram(_GAP_S))
    per_token: Histogram = field(default_factory=lambda: Histogram(_GAP_S))
    whole: Histogram = field(default_factory=lambda: Histogram(_WHOLE_S))
    queue: Histogram = field(default_factory=lambda: Histogram(_WHOLE_S))

    def observe(self, job: Job, times: list[int], counts: list[int]) -> None:
        """Add an ended request that sent *counts* tokens at *times*."""
        self.buffered_sends += job.buffered
        self.sends += len(job.stamps)
        if not times:
            return
        tokens = sum(counts)
        self.prompt_tokens += job.asked.input_tokens
        self.cached_tokens += job.cached_tokens
        self.generated_tokens += tokens
        self.longest = max(self.longest, job.asked.input_tokens + tokens)
        self.finished["abort" if job.ended != "sent" else job.answer.finish or "error"] += 1
        first, last = times[0], times[-1]
        self.prompt_s += (first - job.began_ns) / 1e9
        self.predicted_s += (last - first) / 1e9
        self.ttft.observe((first - job.arrived_ns) / 1e9)
        if self.detail:
            for before, after in pairwise(times):
                self.gap.observe((after - before) / 1e9)
        if tokens > 1:
            self.per_token.observe((last - first) / (tokens - 1) / 1e9)
        self.whole.observe((last - job.arrived_ns) / 1e9)
        self.queue.observe((job.began_ns - job.arrived_ns) / 1e9)


class Page:
    """Collects families in the Prometheus text format; *labels* stand on every sample."""

    def __init__(self, prefix: str, labels: dict[str, str]) -> None:
        self._prefix, self._labels = prefix, labels
        self._lines: list[str] = []

    def add(self, name: str, kind: str, value: float, **labels: str) -> None:
        """A family of one sample."""
        self._family(name, kind, [(name, labels, value)])

    def histogram(self, name: str, values: Histogram) -> None:
        """A family with its buckets, sum and count."""
        rows: list[tuple[str, dict[str, str], float]] = []
        below = 0
        bounds = [*map(str, values.bounds), "+Inf"]
        for bound, count in zip(bounds, values.counts, strict=True):
            below += count
            rows.append((f"{name}_bucket", {"le": bound}, below))
        rows += [(f"{name}_sum", {}, values.total), (f"{name}_count", {}, below)]
        self._family(name, "histogram", rows)

    def each(self, name: str, kind: str, label: str, values: Iterable[tuple[str, float]]) -> None:
        """A family with a sample for each value of *label*."""
        self._family(name, kind, [(name, {label: key}, value) for key, value in values])

    def text(self) -> str:
        """The page."""
        return "\n".join(self._lines) + "\n"

    def _family(self, name: str, kind: str, rows: Iterable[tuple[str, dict[str, str], float]]) -> None:
        self._lines.append(f"# TYPE {self._prefix}{name} {kind}")
        for row, labels, value in rows:
            pairs = ",".join(f'{key}="{text}"' for key, text in {**self._labels, **labels}.items())
            shown = f"{value:.9g}" if isinstance(value, float) else str(value)
            self._lines.append(f"{self._prefix}{row}{f'{{{pairs}}}' if pairs else ''} {shown}")


def own(totals: Totals, live: Live, extra: dict[str, float]) -> str:
    """Under this server's names; *extra* are gauges about the process."""
    page = Page("truth_", {})
    page.add("requests_total", "counter", totals.requests)
    page.add("prompt_tokens_total", "counter", totals.prompt_tokens + live.prompt_tokens)
    page.add("generated_tokens_total", "counter", totals.generated_tokens + live.generated_tokens)
    page.add("requests_running", "gauge", live.running)
    page.add("requests_waiting", "gauge", live.waiting)
    for name, value in extra.items():
        page.add(name, "gauge", value)
    return page.text()


def vllm(totals: Totals, live: Live, model: str, kv_tokens: int, prefix: tuple[int, int]) -> str:
    """Under vLLM's names; *prefix* are the words looked up in the prefix cache and found."""
    page = Page("vllm:", {"engine": "0", "model_name": model})
    page.add("num_requests_running", "gauge", live.running)
    page.add("num_requests_waiting", "gauge", live.waiting)
    page.add("kv_cache_usage_perc", "gauge", min(1.0, live.resident_tokens / kv_tokens))
    page.add("prefix_cache_queries_total", "counter", prefix[0])
    page.add("prefix_cache_hits_total", "counter", prefix[1])
    page.add("num_preemptions_total", "counter", 0)
    page.add("prompt_tokens_total", "counter", totals.prompt_tokens + live.prompt_tokens)
    page.add("generation_tokens_total", "counter", totals.generated_tokens + live.generated_tokens)
    reasons = ("stop", "length", "abort", "error")
    page.each(
        "request_success_total", "counter", "finished_reason", [(r, totals.finished[r]) for r in reasons]
    )
    page.histogram("time_to_first_token_seconds", totals.ttft)
    page.histogram("inter_token_latency_seconds", totals.gap)
    page.histogram("time_per_output_token_seconds", totals.gap)  # the former name of the same
    page.histogram("request_time_per_output_token_seconds", totals.per_token)
    page.histogram("e2e_request_latency_seconds", totals.whole)
    page.histogram("request_queue_time_seconds", totals.queue)
    return page.text()


def llamacpp(totals: Totals, live: Live) -> str:
    """Under llama.cpp's names, which count an answer's tokens once it has ended and no cached input."""
    page = Page("llamacpp:", {})
    prompt = totals.prompt_tokens - totals.cached_tokens
    page.add("prompt_tokens_total", "counter", prompt)
    page.add("prompt_seconds_total", "counter", totals.prompt_s)
    page.add("tokens_predicted_total", "counter", totals.generated_tokens)
    page.add("tokens_predicted_seconds_total", "counter", totals.predicted_s)
    page.add("n_decode_total", "counter", totals.sends)
    page.add("n_tokens_max", "counter", totals.longest)
    page.add("prompt_tokens_seconds", "gauge", prompt / totals.prompt_s if totals.prompt_s else 0.0)
    page.add(
        "predicted_tokens_seconds",
        "gauge",
        totals.generated_tokens / totals.predicted_s if totals.predicted_s else 0.0,
    )
    page.add("requests_processing", "gauge", live.running)
    page.add("requests_deferred", "gauge", live.waiting)
    return page.text()
