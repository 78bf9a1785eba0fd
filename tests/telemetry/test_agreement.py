"""The engine's counters against our samples: exact where it counts exactly, bounded where requests never finished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from accelbench_assets.bench.engine_counters import metric_rows, reconcile
from accelbench_assets.bench.frame import frames, step_windows
from accelbench_assets.telemetry.headers import describe_headers, reported_headers
from tests.unit.bench_samples import row, shard, table

NOW = datetime(2026, 11, 1, tzinfo=UTC)
REQUESTS = 40  # of 16 prompt and 3 output tokens, TTFT 50 ms, gaps of 10 ms


def answers(**other: Any) -> list[dict[str, Any]]:
    return [row(at_s=0.2 * i, seq=i, input_tokens_requested=16, **other) for i in range(REQUESTS)]


def cut(seq: int, chunks_ms: tuple[float, ...] = ()) -> dict[str, Any]:
    made = row(at_s=9, seq=seq, status="cancelled", chunks_ms=chunks_ms, phase="tail")
    return {
        **made,
        "input_tokens_requested": 16,
        "output_tokens_requested": 3,
        "token_count_source": "chunks",
    }


def vllm(
    prompt: float = 640,
    output: float = 120,
    requests: float = REQUESTS,
    *,
    aborted: float = 0,
    finished: tuple[float, float] | None = None,
    ttft: tuple[float, float] = (2.0, REQUESTS),
    itl: tuple[float, float] = (0.8, 2 * REQUESTS),
    model: str = "m",
) -> dict[str, float]:
    """Growth of vLLM's counters, by sample line."""
    label = f'model_name="{model}"'
    lines = {
        f"vllm:prompt_tokens_total{{{label}}}": prompt,
        f"vllm:generation_tokens_total{{{label}}}": output,
        f'vllm:request_success_total{{finished_reason="length",{label}}}': requests,
        f'vllm:request_success_total{{finished_reason="abort",{label}}}': aborted,
        f"vllm:time_to_first_token_seconds_sum{{{label}}}": ttft[0],
        f"vllm:time_to_first_token_seconds_count{{{label}}}": ttft[1],
        f"vllm:inter_token_latency_seconds_sum{{{label}}}": itl[0],
        f"vllm:inter_token_latency_seconds_count{{{label}}}": itl[1],
    }
    if finished is not None:
        lines[f"vllm:request_prompt_tokens_sum{{{label}}}"] = finished[0]
        lines[f"vllm:request_generation_tokens_sum{{{label}}}"] = finished[1]
    return lines


def llamacpp(prompt: float, output: float) -> dict[str, float]:
    return {"llamacpp:prompt_tokens_total": prompt, "llamacpp:tokens_predicted_total": output}


def sglang(prompt: float, output: float, requests: float) -> dict[str, float]:
    return {
        "sglang:prompt_tokens_total": prompt,
        "sglang:generation_tokens_total": output,
        "sglang:num_requests_total": requests,
    }


def page(lines: dict[str, float], offset: float = 0.0) -> str:
    return "".join(f"{name} {value + offset}\n" for name, value in lines.items())


def rules(
    growth: dict[str, float], samples: list[dict[str, Any]], **replicas: dict[str, float]
) -> dict[str, Any]:
    """Verdicts when the counters stood at 7 before and grew by *growth* (more replicas by name)."""
    grown = {"a:1": growth, **replicas}
    before = {name: page(dict.fromkeys(lines, 7.0)) for name, lines in grown.items()}
    after = {name: page(lines, 7.0) for name, lines in grown.items()}
    return reconcile(metric_rows("r", NOW, before), metric_rows("r", NOW, after), table(samples))


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {name: rule["verdict"] for name, rule in found.items()}


AGREED = dict.fromkeys(("engine_restart", "engine_counters", "engine_requests", "engine_latency"), "pass")


def test_vllm_that_agrees_says_so() -> None:
    found = rules(vllm(), answers())
    assert outcomes(found) == AGREED
    assert found["engine_counters"]["text"] == (
        "vLLM counted 640 prompt tokens and 120 output tokens, exactly as we did."
    )
    assert found["engine_requests"]["text"] == "vLLM counted 40 finished requests, exactly as we did."
    assert "TTFT 50.00 ms of 40 against 50.00 of 40, ITL 10.00 ms of 80" in found["engine_latency"]["text"]


@pytest.mark.parametrize(
    ("growth", "rule", "value"),
    [
        (vllm(prompt=641), "engine_counters", 1 / 640),
        (vllm(output=119), "engine_counters", 1 / 120),
        (vllm(output=121), "engine_counters", 1 / 120),
        (vllm(requests=41), "engine_requests", 1 / 40),
        (vllm(requests=39), "engine_requests", 1 / 40),
    ],
)
def test_one_token_or_request_too_many_or_too_few_warns(
    growth: dict[str, float], rule: str, value: float
) -> None:
    found = rules(growth, answers())
    assert outcomes(found) == {**AGREED, rule: "warn"}
    assert found[rule]["value"] == pytest.approx(value)
    assert found[rule]["limit"] == 0


def test_output_that_the_engine_never_made_voids() -> None:
    assert rules(vllm(output=91), answers())["engine_counters"]["verdict"] == "warn"
    assert rules(vllm(output=89), answers())["engine_counters"]["verdict"] == "void"
    assert rules(vllm(output=500), answers())["engine_counters"]["verdict"] == "warn"  # somebody else's


def test_replicas_add_up_and_one_read_only_once_is_named() -> None:
    half = vllm(320, 60, 20, ttft=(1.0, 20), itl=(0.4, 40))
    assert outcomes(rules(half, answers(), **{"b:1": half})) == AGREED
    before = metric_rows(
        "r", NOW, {"a:1": page(dict.fromkeys(half, 7.0)), "b:1": page(dict.fromkeys(half, 7.0))}
    )
    after = metric_rows("r", NOW, {"a:1": page(half, 7.0)})
    found = reconcile(before, after, table(answers()))
    assert found["engine_counters"]["verdict"] == "void"
    assert "b:1 was read only once" in found["engine_counters"]["text"]


def test_cached_prompt_tokens_count_or_not() -> None:
    cached = answers(cached_input_tokens=6)
    assert rules(llamacpp(400, 120), cached)["engine_counters"]["verdict"] == "pass"
    assert rules(vllm(), cached)["engine_counters"]["verdict"] == "pass"
    assert rules(llamacpp(401, 120), cached)["engine_counters"]["verdict"] == "warn"


def test_six_printed_digits_are_as_exact_as_they_can_be() -> None:
    def compare(before: str, after: str) -> str:
        pages = [
            f"llamacpp:prompt_tokens_total 0\nllamacpp:tokens_predicted_total {n}\n" for n in (before, after)
        ]
        first, last = (metric_rows("r", NOW, {"a:1": text}) for text in pages)
        found = reconcile(first, last, table(answers(input_tokens=0)))
        return str(found["engine_counters"]["verdict"])

    assert compare("999000", "999120") == "pass"
    assert compare("999000", "999121") == "warn"
    assert compare("1.23457e+06", "1.23469e+06") == "pass"  # 1234565.. to 1234685..: ten apart at most
    assert compare("1.23457e+06", "1.23470e+06") == "pass"
    assert compare("1.23457e+06", "1.23471e+06") == "warn"


def test_requests_that_were_cut_make_a_bound() -> None:
    samples = [*answers(), cut(90), cut(91, chunks_ms=(50.0, 60.0))]
    # two requests of at most 3 tokens more, of which two were seen
    assert rules(vllm(output=121), samples)["engine_counters"]["verdict"] == "warn"
    for output in (122, 126):
        found = rules(vllm(prompt=672, output=output), samples)
        assert found["engine_counters"]["verdict"] == "pass"
        assert "2 unfinished requests may count" in found["engine_counters"]["text"]
    assert rules(vllm(output=127), samples)["engine_counters"]["verdict"] == "warn"
    assert rules(vllm(prompt=673, output=123), samples)["engine_counters"]["verdict"] == "warn"
    assert rules(vllm(output=123, requests=42), samples)["engine_requests"]["verdict"] == "pass"
    assert rules(vllm(output=123, requests=43), samples)["engine_requests"]["verdict"] == "warn"
    # llama.cpp counts a request's tokens when it ends: nothing of a cut one need be there
    assert rules(llamacpp(640, 120), samples)["engine_counters"]["verdict"] == "pass"


def test_finished_requests_counted_apart_are_exact_though_others_were_cut() -> None:
    samples = [*answers(), cut(90), cut(91, chunks_ms=(50.0, 60.0))]
    found = rules(vllm(prompt=700, output=125, finished=(640, 120)), samples)
    assert found["engine_counters"]["verdict"] == "pass"
    assert found["engine_counters"]["text"].endswith("exactly as we did; 2 unfinished requests are left out.")
    assert rules(vllm(output=125, finished=(640, 121)), samples)["engine_counters"]["verdict"] == "warn"
    # an engine that had aborted some may have put them among the finished: back to the bound
    aborted = vllm(output=125, finished=(660, 125), aborted=2)
    assert rules(aborted, samples)["engine_counters"]["verdict"] == "pass"


def test_an_answer_of_a_wrong_length_was_finished_by_the_engine() -> None:
    short = row(
        at_s=9,
        seq=99,
        chunks_ms=(50.0, 60.0),
        status="error",
        error_class="wrong_length",
        finish_reason="stop",
    )
    short |= {"input_tokens": 16, "output_tokens": 2, "output_tokens_requested": 3}
    found = rules(vllm(656, 122, 41, ttft=(2.05, 41), itl=(0.81, 81)), [*answers(), short])
    assert outcomes(found) == AGREED


def test_counts_that_no_server_stated_need_not_be_exact() -> None:
    guessed = answers(token_count_source="chunks")
    assert rules(vllm(output=121), guessed)["engine_counters"]["verdict"] == "pass"
    assert rules(vllm(output=123), guessed)["engine_counters"]["verdict"] == "warn"
    assert (
        rules(vllm(output=121), answers(token_count_source="usage"))["engine_counters"]["verdict"] == "warn"
    )


def test_an_engine_not_known_to_be_exact_gets_a_percent() -> None:
    assert outcomes(rules(sglang(644, 121, 40), answers())) == AGREED
    found = rules(sglang(660, 120, 41), answers())
    assert (found["engine_counters"]["verdict"], found["engine_requests"]["verdict"]) == ("warn", "warn")


def test_what_an_engine_does_not_count_is_unknown() -> None:
    found = rules(llamacpp(640, 120), answers())
    assert outcomes(found) == AGREED
    assert found["engine_requests"]["value"] == found["engine_latency"]["value"] == "unknown"
    bare = rules({"vllm:num_requests_running": 0.0, "vllm:num_preemptions_total": 0.0}, answers())
    assert {bare[name]["value"] for name in ("engine_counters", "engine_requests", "engine_latency")} == {
        "unknown"
    }


@pytest.mark.parametrize(
    ("ttft_s", "itl_s", "verdict"),
    [
        (0.0505, 0.0100, "pass"),
        (0.0511, 0.0100, "warn"),  # 1.1 ms
        (0.0489, 0.0100, "warn"),
        (0.0500, 0.0109, "pass"),  # 9 % of 10 ms, and under 1 ms
        (0.0500, 0.0112, "warn"),
    ],
)
def test_mean_latencies_agree_within_two_percent_or_a_millisecond(
    ttft_s: float, itl_s: float, verdict: str
) -> None:
    found = rules(vllm(ttft=(40 * ttft_s, 40), itl=(80 * itl_s, 80)), answers())["engine_latency"]
    assert found["verdict"] == verdict


def test_intervals_are_per_token_or_per_chunk_as_the_engine_counts_them() -> None:
    samples = answers(chunks_ms=(50.0, 90.0, 130.0), tokens=(4, 4, 4))  # 10 ms a token, 40 ms a chunk
    per_chunk = rules(vllm(640, 480, itl=(3.2, 80)), samples)["engine_latency"]
    per_token = rules(vllm(640, 480, itl=(3.2, 320)), samples)["engine_latency"]
    assert per_chunk["verdict"] == per_token["verdict"] == "pass"
    assert "ITL 40.00 ms of 80" in per_chunk["text"]
    assert "ITL 10.00 ms of 320" in per_token["text"]


def test_headers_beside_ours() -> None:
    samples = [
        row(
            at_s=0.2 * i,
            seq=i,
            server_ttft_ms=40.0 + i,
            server_tokens_per_s=None,
            server_usd_per_1k_tokens=0.002,
        )
        for i in range(5)
    ]
    samples += [row(at_s=2, seq=9), row(at_s=3, seq=10, status="error", server_ttft_ms=1.0)]
    (frame,) = frames(table(samples), step_windows([shard(windows_s=[10.0], scheduled=[7])]))
    found = reported_headers(frame)
    assert found["ttft_ms"] == {"count": 5, "median_server": 42.0, "median_ours": 50.0, "ratio": 0.84}
    assert found["usd_per_1k_tokens"] == {
        "count": 5,
        "median_server": 0.002,
        "median_ours": None,
        "ratio": None,
    }
    assert "tokens_per_s" not in found
    assert describe_headers(found).startswith(
        "The server's own headers say TTFT 42 ms against our 50, price 0.002 USD"
    )
    rates = [row(at_s=1, seq=0, server_tokens_per_s=30.0)]
    (frame,) = frames(table(rates), step_windows([shard(windows_s=[10.0], scheduled=[1])]))
    assert reported_headers(frame)["tokens_per_s"]["median_ours"] == pytest.approx(3 / 0.070)
    assert describe_headers({}) == ""
