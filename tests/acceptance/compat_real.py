"""Puts an event log through another load generator's own code; run by the Python that has it installed.

``python compat_real.py TOOL`` reads ``{"log": [...], "wall_s": …}`` from standard input and writes metric ->
figures as the last line of standard output. It imports nothing of this project: the tool's environment need
not have it. Arguments are built as the tool's client would have built them from the same stamps.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

Log = list[dict[str, Any]]
Found = dict[str, dict[str, Any]]
LEVELS = (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99))


def completed(log: Log) -> Log:
    return [one for one in log if one["ok"] and one["chunks"]]


def vllm(log: Log, wall_s: float) -> Found:
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
    from vllm.benchmarks.serve import calculate_metrics

    outputs = []
    for one in log:
        stamps = one["chunks"]
        good = one["ok"] and bool(stamps)
        outputs.append(
            RequestFuncOutput(
                success=good,
                latency=stamps[-1] / 1e6 if good else 0.0,
                ttft=stamps[0] / 1e6 if good else 0.0,
                itl=[(b - a) / 1e6 for a, b in pairwise(stamps)] if good else [],
                output_tokens=one["tokens"],
                prompt_len=one["input_tokens"],
                start_time=one["sent"] / 1e6,
            )
        )
    metrics, _ = calculate_metrics([], outputs, wall_s, None, [50, 90, 95, 99], {})
    found: Found = {
        name: {"mean": getattr(metrics, f"mean_{name}_ms")}
        | {f"p{level}": value for level, value in getattr(metrics, f"percentiles_{name}_ms")}
        for name in ("ttft", "tpot", "itl", "e2el")
    }
    for name in ("request_throughput", "output_throughput", "total_token_throughput"):
        found[name] = {"mean": getattr(metrics, name)}
    return found


def guidellm(log: Log, wall_s: float) -> Found:
    from guidellm.schemas import GenerativeRequestStats, RequestInfo, RequestTimings, UsageMetrics
    from guidellm.schemas.base.statistics import DistributionSummary

    requests = []
    for one in completed(log):
        times = [at / 1e6 for at in one["chunks"]]
        timings = RequestTimings(
            resolve_start=0.0,
            request_start=0.0,
            first_token_iteration=times[0],
            last_token_iteration=times[-1],
            request_end=one["end"] / 1e6,
            resolve_end=one["end"] / 1e6,
            token_iterations=len(times),
        )
        requests.append(
            GenerativeRequestStats(
                request_id="r",
                info=RequestInfo(request_id="r", status="completed", timings=timings),
                input_metrics=UsageMetrics(text_tokens=one["input_tokens"]),
                output_metrics=UsageMetrics(text_tokens=one["tokens"]),
            )
        )
    # values and weights as in GenerativeMetrics.compile
    chosen: dict[str, list[Any]] = {
        "time_to_first_token_ms": [one.time_to_first_token_ms or 0.0 for one in requests],
        "time_per_output_token_ms": [
            (one.time_per_output_token_ms or 0.0, one.output_tokens or 0.0) for one in requests
        ],
        "inter_token_latency_ms": [
            (one.inter_token_latency_ms or 0.0, (one.output_tokens or 1.0) - 1.0) for one in requests
        ],
        "request_latency": [one.request_latency or 0.0 for one in requests],
    }
    found: Found = {}
    for name, values in chosen.items():
        summary = DistributionSummary.from_values(values)
        levels = {level: getattr(summary.percentiles, level) for level, _ in LEVELS}
        found[name] = {"n": summary.count, "mean": summary.mean, **levels}
    return found


def aiperf(log: Log, wall_s: float) -> Found:
    import numpy as np
    from aiperf.common.exceptions import NoMetricValue
    from aiperf.metrics.metric_dicts import MetricRecordDict, metric_result_from_array
    from aiperf.metrics.types.inter_chunk_latency_metric import InterChunkLatencyMetric
    from aiperf.metrics.types.inter_token_latency_metric import InterTokenLatencyMetric
    from aiperf.metrics.types.output_sequence_length_metric import OutputSequenceLengthMetric
    from aiperf.metrics.types.output_token_throughput_metrics import OutputTokenThroughputPerUserMetric
    from aiperf.metrics.types.request_latency_metric import RequestLatencyMetric
    from aiperf.metrics.types.ttft_metric import TTFTMetric

    metrics = (
        TTFTMetric, RequestLatencyMetric, InterTokenLatencyMetric, OutputTokenThroughputPerUserMetric,
        InterChunkLatencyMetric,
    )  # fmt: skip
    values: dict[str, list[float]] = {metric.tag: [] for metric in metrics}
    for one in completed(log):
        record = SimpleNamespace(
            start_perf_ns=0,
            request=SimpleNamespace(start_perf_ns=0),
            content_responses=[SimpleNamespace(perf_ns=at * 1000) for at in one["chunks"]],
            token_counts=SimpleNamespace(first_content_chunk_tokens=one["sizes"][0]),
        )
        known = MetricRecordDict()
        known[OutputSequenceLengthMetric.tag] = one["tokens"]
        for metric in metrics:
            try:
                value = metric()._parse_record(record, known)
            except NoMetricValue:
                continue
            known[metric.tag] = value
            values[metric.tag] += value if isinstance(value, list) else [value]
    found: Found = {}
    for tag, all_of_it in values.items():
        scale = 1.0 if "throughput" in tag else 1e-6  # ns are shown as ms
        array = np.array(all_of_it, dtype=np.float64) * scale
        result = metric_result_from_array(tag, tag, "ms", array, float(array.sum()))
        levels = {level: getattr(result, level) for level, _ in LEVELS}
        found[tag] = {"n": len(all_of_it), "mean": result.avg, **levels}
    return found


def inference_perf(log: Log, wall_s: float) -> Found:
    from inference_perf.apis import RequestLifecycleMetric, StreamedResponseMetrics
    from inference_perf.apis.base import ErrorResponseInfo, InferenceInfo
    from inference_perf.payloads import RequestMetrics, Text
    from inference_perf.reportgen.base import summarize_requests

    requests = []
    for one in log:
        # The tool subtracts clock stamps; a start of 0 for every request keeps the microseconds exact.
        times = [at / 1e6 for at, size in zip(one["chunks"], one["sizes"]) for _ in range(size)]  # noqa: B905
        good = one["ok"] and bool(times)
        response = StreamedResponseMetrics(
            output_tokens=one["tokens"],
            server_usage={"completion_tokens": one["tokens"]},
            output_token_times=times,
        )
        text = RequestMetrics(text=Text(input_tokens=one["input_tokens"]))
        requests.append(
            RequestLifecycleMetric(
                scheduled_time=0.0,
                start_time=0.0,
                end_time=one["end"] / 1e6,
                request_data="",
                info=InferenceInfo(request_metrics=text, response_metrics=response),
                error=None if good else ErrorResponseInfo(error_type="x", error_msg="x"),
            )
        )
    latency = summarize_requests(requests, [50, 90, 95, 99]).successes["latency"]
    found: Found = {}
    for name, summary in latency.items():
        levels = {level: 1000 * summary["median" if p == 50 else f"p{p}"] for level, p in LEVELS}
        found[name] = {"mean": 1000 * summary["mean"], **levels}
    return found


def genai_bench(log: Log, wall_s: float) -> Found:
    from genai_bench.metrics.aggregated_metrics_collector import AggregatedMetricsCollector
    from genai_bench.metrics.metrics import RequestLevelMetrics
    from genai_bench.metrics.request_metrics_collector import RequestMetricsCollector
    from genai_bench.protocol import UserChatResponse

    def collected(trim: float | None) -> Any:
        collector = AggregatedMetricsCollector()
        for one in sorted(log, key=lambda one: one["sent"] + one["end"]):
            if not (one["ok"] and one["chunks"]):
                collector.add_single_request_metrics(RequestLevelMetrics(error_code=500, error_message="x"))
                continue
            single = RequestMetricsCollector()
            single.calculate_metrics(
                UserChatResponse(
                    status_code=200,
                    start_time=0.0,
                    time_at_first_token=one["chunks"][0] / 1e6,
                    end_time=one["end"] / 1e6,
                    num_prefill_tokens=one["input_tokens"],
                    tokens_received=one["tokens"],
                )
            )
            collector.add_single_request_metrics(single.metrics)
        collector.aggregate_metrics_data(0.0, wall_s, trim, trim)
        return collector.aggregated_metrics

    whole = collected(None)
    found: Found = {}
    for name, scale in (("ttft", 1000), ("tpot", 1000), ("e2e_latency", 1000), ("output_inference_speed", 1)):
        summary = getattr(whole.stats, name)
        levels = {level: scale * getattr(summary, level) for level, _ in LEVELS}
        found[name] = {"mean": scale * summary.mean, **levels}
    found["requests_per_second"] = {"mean": whole.requests_per_second}
    rate = "mean_output_throughput_tokens_per_s"
    found[rate] = {"mean": getattr(whole, rate)}
    found[f"{rate}_trimmed"] = {"mean": getattr(collected(0.1), rate)}
    return found


def genai_perf(log: Log, wall_s: float) -> Found:
    from collections import defaultdict

    from genai_perf.metrics import Statistics
    from genai_perf.profile_data_parser.llm_profile_data_parser import LLMProfileDataParser

    class Parser(LLMProfileDataParser):
        """The tool's reduction, fed with known token counts instead of a tokenizer's."""

        def __init__(self) -> None:
            self._session_metrics = defaultdict(lambda: defaultdict(list))
            self._goodput_constraints = {}

        def _preprocess_response(self, res_timestamps: Any, res_outputs: Any) -> None:
            return None

        def _get_input_token_count(self, req_inputs: Any) -> int:
            return int(req_inputs["n"])

        def _get_output_token_counts(self, res_outputs: Any) -> tuple[list[int], int]:
            return [1] * len(res_outputs), int(res_outputs[0]["n"])

    requests = []
    for one in log:
        start = one["sent"] * 1000
        stamps = [start + at * 1000 for at in one["chunks"]] if one["ok"] else []
        requests.append(
            {
                "timestamp": start,
                "request_inputs": {"n": one["input_tokens"]},
                "response_timestamps": stamps,
                "response_outputs": [{"n": one["tokens"]}] * len(stamps),
            }
        )
    statistics = Statistics(Parser()._parse_requests(requests))
    statistics.scale_data()
    figures = statistics.stats_dict
    found: Found = {}
    for name in (
        "time_to_first_token", "inter_token_latency", "request_latency", "output_token_throughput_per_user",
    ):  # fmt: skip
        found[name] = {"mean": figures[name]["avg"], **{level: figures[name][level] for level, _ in LEVELS}}
    for name in ("output_token_throughput", "request_throughput"):
        found[name] = {"mean": figures[name]["avg"]}
    return found


TOOLS = {
    "vllm bench serve": vllm,
    "guidellm": guidellm,
    "aiperf": aiperf,
    "inference-perf": inference_perf,
    "genai-bench": genai_bench,
    "genai-perf": genai_perf,
}

if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(json.dumps(TOOLS[sys.argv[1]](request["log"], request["wall_s"])))
