"""What the ground-truth server tells of itself while it serves: its prefix cache, and metrics under engines' names."""

from __future__ import annotations

import threading
import time

import pytest

from tests.loadgen.conftest import HANG_S
from tests.loadgen.truth_client import FAST, Start, call, chat, samples, streamed


def test_the_prefix_cache_reports_what_it_really_held(truth: Start) -> None:
    server = truth(*FAST, "--prefix-cache", "100000:4")

    def cached(*words: str) -> int:
        body = {"model": "m", "prompt": " ".join(words), "max_tokens": 4, "ignore_eos": True}
        usage = call(server, "/v1/completions", body).json["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    shared = [f"s{index}" for index in range(16)]
    assert cached(*shared, "a", "b", "c") == 0
    assert cached(*shared, "d", "e", "f") == 16
    assert cached("x", *shared) == 0
    # the answer "time year hand part" to the first prompt is known too: a dialogue goes on from it
    assert cached(*shared, "a", "b", "c", "time", "year", "hand", "part", "more") == 20
    assert chat(truth(*FAST), max_tokens=1).json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_metrics_under_vllms_names(truth: Start) -> None:
    server = truth("--ttft", "50", "--gap", "10", "--metrics-style", "vllm", "--prefix-cache", "1000:4")
    streamed(server, name="a", max_tokens=11, ignore_eos=True)
    streamed(server, name="b", max_tokens=11, ignore_eos=True)
    page = call(server, "/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    found = samples(page.body.decode())
    assert found["vllm:prompt_tokens_total"] == 16
    assert found["vllm:generation_tokens_total"] == 22
    assert (found["vllm:prefix_cache_queries_total"], found["vllm:prefix_cache_hits_total"]) == (8, 0)
    assert (found["vllm:num_requests_running"], found["vllm:num_requests_waiting"]) == (0, 0)
    assert found["vllm:num_preemptions_total"] == found["vllm:kv_cache_usage_perc"] == 0
    assert found['vllm:request_success_total{finished_reason="length"}'] == 2
    log = server.log()
    ttft = sum(log[name]["sends_ns"][0] - log[name]["kernel_received_ns"] for name in "ab") / 1e9
    gaps = sum(log[name]["sends_ns"][-1] - log[name]["sends_ns"][0] for name in "ab") / 1e9
    assert found["vllm:time_to_first_token_seconds_sum"] == pytest.approx(ttft, rel=1e-6)
    assert found["vllm:time_to_first_token_seconds_count"] == 2
    assert found['vllm:time_to_first_token_seconds_bucket{le="0.04"}'] == 0
    assert found['vllm:time_to_first_token_seconds_bucket{le="+Inf"}'] == 2
    for name in ("inter_token_latency_seconds", "time_per_output_token_seconds"):
        assert found[f"vllm:{name}_sum"] == pytest.approx(gaps, rel=1e-6)
        assert found[f"vllm:{name}_count"] == 20
    assert found["vllm:request_time_per_output_token_seconds_count"] == 2


def test_metrics_while_requests_run_and_wait(truth: Start) -> None:
    server = truth(
        "--ttft", "0", "--gap", "20", "--slots", "1", "--metrics-style", "vllm", "--kv-tokens", "100"
    )
    threads = [
        threading.Thread(target=streamed, args=(server,), kwargs={"name": name, "max_tokens": 60, "ignore_eos": True})
        for name in "ab"
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    end = time.monotonic() + HANG_S
    seen: dict[str, float] = {}
    while time.monotonic() < end:
        seen = samples(call(server, "/metrics").body.decode())
        if seen["vllm:num_requests_waiting"] == 1 and seen["vllm:generation_tokens_total"] >= 5:
            break
    assert seen["vllm:num_requests_running"] == 1
    assert 5 <= seen["vllm:generation_tokens_total"] < 60
    assert seen["vllm:prompt_tokens_total"] == 8
    assert seen["vllm:kv_cache_usage_perc"] == pytest.approx((8 + seen["vllm:generation_tokens_total"]) / 100)
    for thread in threads:
        thread.join(HANG_S)
    done = samples(call(server, "/metrics").body.decode())
    assert (done["vllm:generation_tokens_total"], done["vllm:prompt_tokens_total"]) == (120, 16)


def test_metrics_under_llamacpps_and_own_names(truth: Start) -> None:
    server = truth("--ttft", "20", "--gap", "5", "--metrics-style", "llamacpp")
    chat(server, max_tokens=11, ignore_eos=True)
    streamed(server, max_tokens=11, ignore_eos=True)
    found = samples(call(server, "/metrics").body.decode())
    assert found["llamacpp:prompt_tokens_total"] == 16
    assert found["llamacpp:tokens_predicted_total"] == 22
    assert (found["llamacpp:requests_processing"], found["llamacpp:requests_deferred"]) == (0, 0)
    assert found["llamacpp:prompt_seconds_total"] >= 0.02 + 0.02 + 0.05
    server = truth(*FAST)
    chat(server, max_tokens=3)
    found = samples(call(server, "/metrics").body.decode())
    assert (found["truth_requests_total"], found["truth_generated_tokens_total"]) == (1, 3)
    assert found["truth_cpu_s"] > 0
