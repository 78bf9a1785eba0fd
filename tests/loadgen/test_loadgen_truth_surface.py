"""The ground-truth server over HTTP: what engines' clients may ask, what is refused, what is logged."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.loadgen.conftest import ENV, HANG_S, Truth

Start = Callable[..., Truth]
FAST = ("--ttft", "5", "--gap", "1")
PROMPT = "one two three four"


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        found = re.findall(rb"^data: (.*)$", self.body, re.M)
        assert found[-1] == b"[DONE]"
        return [json.loads(one) for one in found[:-1]]


def call(server: Truth, path: str, body: Any = None, *, method: str | None = None, **headers: str) -> Got:
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=HANG_S)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
    answer = connection.getresponse()
    got = Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return got


def chat(server: Truth, *, name: str = "r", **fields: Any) -> Got:
    body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], **fields}
    return call(server, "/v1/chat/completions", body, **{"x-request-id": name})


def streamed(server: Truth, *, name: str = "r", usage: bool = True, **fields: Any) -> Got:
    options = {"include_usage": True, **fields.pop("stream_options", {})} if usage else None
    return chat(server, name=name, stream=True, **({"stream_options": options} if options else {}), **fields)


def lines(server: Truth) -> list[dict[str, Any]]:
    server.log()
    return [json.loads(line) for line in server.log_path.read_text().splitlines()]


# ---------------------------------------------------------------------- the surface


def test_answers_have_the_fields_that_clients_read(truth: Start) -> None:
    server = truth(*FAST, "--header", "X-TTFT-MS=5")
    whole = chat(server, max_tokens=3, ignore_eos=True)
    assert (whole.status, whole.headers["x-accelbench-origin"], whole.headers["x-ttft-ms"]) == (
        200,
        "simulated",
        "5",
    )
    answer = whole.json
    assert (answer["object"], answer["model"]) == ("chat.completion", "m")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "time year hand "},
            "finish_reason": "length",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 3,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    text = call(server, "/v1/completions", {"model": "m", "prompt": PROMPT, "max_tokens": 2}).json
    assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "time year ")
    events = streamed(server, max_tokens=3, ignore_eos=True).events
    assert [event["choices"][0]["delta"] for event in events if event["choices"]] == [
        {"role": "assistant", "content": ""},
        {"content": "time "},
        {"content": "year "},
        {"content": "hand "},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 4 + ["length"]
    assert (events[-1]["choices"], events[-1]["usage"]["completion_tokens"]) == ([], 3)
    assert all("usage" not in event for event in events[:-1])
    assert all("usage" not in event for event in streamed(server, usage=False, max_tokens=3).events)


def test_usage_in_every_chunk_when_it_is_asked_for(truth: Start) -> None:
    server = truth(*FAST)
    events = streamed(server, max_tokens=4, stream_options={"continuous_usage_stats": True}).events
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 4, 4, 4]


def test_lengths_are_those_asked_for(truth: Start) -> None:
    server = truth(*FAST, "--tokens", "10")

    def tokens(**fields: Any) -> tuple[int, str]:
        answer = chat(server, **fields).json
        return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]

    assert tokens() == (10, "stop")
    assert tokens(max_tokens=5) == (5, "length")
    assert tokens(max_completion_tokens=5, max_tokens=7) == (5, "length")
    assert tokens(max_tokens=30) == (10, "stop")
    assert tokens(max_tokens=30, ignore_eos=True) == (30, "length")
    assert tokens(max_tokens=30, min_tokens=20) == (20, "stop")


def test_prompts_of_every_shape_are_counted(truth: Start) -> None:
    server = truth(*FAST)
    for prompt, words in (("a b", 2), (["a b c"], 3), ([1, 2, 3, 4], 4), ([[1, 2]], 2)):
        got = call(server, "/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 1})
        assert got.json["usage"]["prompt_tokens"] == words + 4, prompt
    parts = [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [{"role": "system", "content": "x y z"}, {"role": "user", "content": parts}]
    body = {"model": "m", "messages": [*messages, {"role": "assistant", "content": None}], "max_tokens": 1}
    assert call(server, "/v1/chat/completions", body).json["usage"]["prompt_tokens"] == 5 + 4


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("/v1/chat/completions", b"{", 400, None, "not JSON"),
        ("/v1/chat/completions", b"[]", 400, None, "must be a JSON object"),
        ("/v1/completions", {"prompt": "x"}, 400, "model", "provide a model"),
        ("/v1/completions", {"model": "m"}, 400, "prompt", "must be a string"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, 400, "messages", "at least one"),
        ("/v1/chat/completions", {"model": "m", "messages": ["x"]}, 400, "messages", "with a role"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": "9"}, 400, "max_tokens", "'9'"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 2, "min_tokens": 3}, 400, "min_tokens", "2"),
        ("/v1/completions", {"model": "m", "prompt": "x", "n": 2}, 400, "n", "only n=1"),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream_options": {"a": 1}}, 400, "stream_options", "stream"),
        ("/v1/completions", {"model": "m", "prompt": "a " * 90, "max_tokens": 9}, 400, "prompt", "length is 100"),
        ("/v1/completions", {"model": "other", "prompt": "x"}, 404, "model", "does not exist"),
        ("/v1/embeddings", {"model": "m"}, 404, None, "no such path: /v1/embeddings"),
        ("/health", {}, 405, None, "/health takes GET"),
    ],
)  # fmt: skip
def test_refusals_have_openais_shape(
    truth: Start, path: str, body: Any, status: int, param: str | None, says: str
) -> None:
    got = call(truth(*FAST, "--model", "m", "--max-model-len", "100"), path, body)
    error = got.json["error"]
    assert (got.status, error["param"], sorted(error)) == (
        status,
        param,
        ["code", "message", "param", "type"],
    )
    assert says in error["message"]
    assert got.headers["x-accelbench-origin"] == "simulated"


def test_pages(truth: Start) -> None:
    server = truth("--model", "a", "--model", "b", "--max-model-len", "4096")
    assert call(server, "/health").json == {"status": "ok"}
    assert call(server, "/version").json["engine"] == "accelbench-truth"
    models = call(server, "/v1/models?x=1").json
    assert [(one["id"], one["max_model_len"]) for one in models["data"]] == [("a", 4096), ("b", 4096)]
    for body, count in (
        ({"prompt": "x y"}, 2),
        ({"content": "x y z"}, 3),
        ({"messages": [{"role": "user", "content": "x"}]}, 5),
    ):
        found = call(server, "/tokenize", body).json
        assert (found["count"], len(found["tokens"]), found["max_model_len"]) == (count, count, 4096)
    assert call(server, "/tokenize", b"?").status == 400


def test_connections_outlive_refusals_and_pipelined_requests_are_answered_in_turn(truth: Start) -> None:
    server = truth(*FAST)
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","max_tokens":2}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(post + get + bad + post + last)
        received = b""
        while data := sock.recv(65536):
            received += data
    statuses = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert statuses == [b"200", b"200", b"400", b"200", b"200"]
    assert received.count(b'"time year "') == 2
    assert received.rstrip().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, 400),
    ],
)
def test_what_is_no_request_ends_the_connection(truth: Start, raw: bytes, status: int) -> None:
    host, _, port = truth(*FAST).url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(raw)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 %d " % status)


def test_a_client_may_wait_to_be_told_to_send_its_body(truth: Start) -> None:
    host, _, port = truth(*FAST).url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","max_tokens":1}'
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(
            b"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


# ---------------------------------------------------------------------- faults, cache, metrics


def test_each_fault_looks_as_an_engines_would(truth: Start) -> None:
    server = truth(*FAST, "--faults", "429:1")
    limited = chat(server)
    assert (limited.status, limited.headers["retry-after"]) == (429, "1")
    assert limited.json["error"]["type"] == "rate_limit_error"
    broken = streamed(truth(*FAST, "--faults", "malformed:1"), max_tokens=8, ignore_eos=True)
    data = re.findall(rb"^data: (.*)$", broken.body, re.M)
    with pytest.raises(ValueError, match="Unterminated"):
        [json.loads(one) for one in data[:-1]]
    assert data[-1] == b"[DONE]"
    assert broken.body.count(b'"content":') == 1 + 8  # no token is lost for it
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        _ = chat(truth(*FAST, "--faults", "malformed:1")).json
    events = streamed(truth(*FAST, "--faults", "error_event:1"), max_tokens=8, ignore_eos=True).events
    assert [event["error"]["message"] for event in events if "error" in event] == ["injected error"]
    short = chat(truth(*FAST, "--faults", "short:1"), max_tokens=9, ignore_eos=True).json
    assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (4, "stop")


def test_a_stalled_answer_ends_when_the_client_leaves(truth: Start) -> None:
    server = truth(*FAST, "--faults", "stall:1", "--slots", "1")
    for name in ("first", "second"):  # the second one gets the only slot
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=HANG_S)
        body = {"model": "m", "prompt": "x", "stream": True, "max_tokens": 8, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"x-request-id": name})
        answer = connection.getresponse()
        read = b""
        while read.count(b"data: ") < 4:
            read += answer.read1(4096)
        answer.close()
        connection.close()
    end = time.monotonic() + HANG_S
    while samples(call(server, "/metrics").body.decode())["truth_requests_running"]:
        assert time.monotonic() < end
    log = server.log()
    for name in ("first", "second"):
        assert (log[name]["fault"], log[name]["tokens"], log[name]["ended"]) == ("stall", 4, "disconnected")


def test_shares_of_faults_are_kept(truth: Start) -> None:
    server = truth("--ttft", "0", "--gap", "0", "--faults", "500:0.3,short:0.2", "--seed", "4")
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=HANG_S)
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 4, "ignore_eos": True})
    told = []
    for index in range(200):
        connection.request("POST", "/v1/completions", body, {"x-request-id": f"r{index}"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        told.append(
            "500" if answer.status == 500 else "short" if content["usage"]["completion_tokens"] == 2 else None
        )
    connection.close()
    log = server.log()
    assert told == [log[f"r{index}"]["fault"] for index in range(200)]
    assert 40 <= told.count("500") <= 80
    assert 24 <= told.count("short") <= 56


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


def samples(text: str) -> dict[str, float]:
    """Prometheus samples by name and labels, those of the engine itself left out."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = re.sub(r'engine="0",model_name="truth",?', "", name).replace("{}", "")
            assert name not in found
            found[name] = float(value)
    return found


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


# ---------------------------------------------------------------------- the log


def test_the_log_says_what_was_drawn_and_sent(truth: Start) -> None:
    server = truth("--ttft", "uniform:20:40", "--gap", "uniform:2:4", "--seed", "3", "--slots", "1")
    threads = [
        threading.Thread(target=streamed, args=(server,), kwargs={"name": name, "max_tokens": 8, "ignore_eos": True})
        for name in "abc"
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    *requests, last = lines(server)
    assert {line["request_id"] for line in requests} == set("abc")
    assert sorted(last) == ["server"]
    ordered = sorted(requests, key=lambda line: line["began_ns"])
    for line in requests:
        assert 20 <= line["ttft_ms"] <= 40
        assert 2 <= line["gap_ms"] <= 4
        assert line["stamp"] == "kernel"
        assert 0 <= line["received_ns"] - line["kernel_received_ns"] < 10**9
        assert line["queue_ms"] == pytest.approx((line["began_ns"] - line["kernel_received_ns"]) / 1e6)
        assert (line["sent_tokens"], line["tokens"], line["finish"]) == ([1] * 8, 8, "length")
        due = [line["began_ns"] + (line["ttft_ms"] + k * line["gap_ms"]) * 1e6 for k in range(8)]
        late = [sent - at for sent, at in zip(line["sends_ns"], due, strict=True)]
        assert min(late) > -1000  # never early
        assert line["first_event_ns"] <= line["sends_ns"][0] <= line["last_send_ns"]
    # one slot: the next one begins when the last write of the one before was due, not when it was noticed
    for before, after in pairwise(ordered):
        free = before["began_ns"] + int((before["ttft_ms"] + 7 * before["gap_ms"]) * 1e6)
        assert abs(after["began_ns"] - max(free, after["kernel_received_ns"])) < 1000
    own = last["server"]
    assert 0 < own["cpu_s"] <= own["wall_s"]
    assert 0 < own["core_share_max"] <= 1.1
    assert (own["requests"], own["tokens"], own["clock_jumps"], own["clock_fallbacks"]) == (3, 24, 0, 0)


def test_a_terminated_server_writes_what_it_had_begun(truth: Start) -> None:
    server = truth("--ttft", "0", "--gap", "20")
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=HANG_S)
    body = {"model": "m", "prompt": "x", "stream": True, "max_tokens": 1000, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"x-request-id": "cut"})
    answer = connection.getresponse()
    read = b""
    while read.count(b"data: ") < 5:
        read += answer.read1(4096)
    *requests, last = lines(server)
    connection.close()
    assert [(line["request_id"], line["ended"]) for line in requests] == [("cut", "stopped")]
    assert requests[0]["tokens"] >= 5
    assert last["server"]["tokens"] == requests[0]["tokens"]


def test_a_client_that_does_not_read_does_not_stop_the_schedule(truth: Start) -> None:
    server = truth("--ttft", "0", "--gap", "0", "--tokens-per-chunk", "1000", "--max-model-len", "9000000")
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","stream":true,"ignore_eos":true,"max_tokens":4000000}'
    head = b"POST /v1/completions HTTP/1.1\r\nx-request-id: slow\r\nContent-Length: %d\r\n\r\n" % len(body)
    received = 0
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(head + body)
        end = time.monotonic() + HANG_S
        while samples(call(server, "/metrics").body.decode())["truth_generated_tokens_total"] < 4_000_000:
            assert time.monotonic() < end  # all is generated while nobody reads
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = sock.recv(2**20)
            assert data
            received += len(data)
            tail = (tail + data)[-5:]
    entry = server.log()["slow"]
    assert received > 20_000_000
    assert (entry["tokens"], entry["ended"]) == (4_000_000, "sent")
    assert entry["buffered_sends"] > 0


def test_null_mode_waits_for_its_reader_and_loses_nothing(truth: Start) -> None:
    server = truth("--null", "--tokens-per-chunk", "100", "--events-per-write", "4")
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","stream":true,"ignore_eos":true,"max_tokens":1000000}'
    head = b"POST /v1/completions HTTP/1.1\r\nx-request-id: n\r\nContent-Length: %d\r\n\r\n" % len(body)
    received = bytearray()
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(head + body)
        assert chat(server, max_tokens=3, ignore_eos=True).status == 200  # others are served meanwhile
        assert samples(call(server, "/metrics").body.decode())["truth_requests_running"] == 1
        while not received.endswith(b"0\r\n\r\n"):
            data = sock.recv(2**20)
            assert data
            received += data
    assert received.count(b"data: ") == 10_000 + 2
    entry = server.log()["n"]
    assert (entry["tokens"], entry["ttft_ms"], entry["gap_ms"]) == (1_000_000, None, None)
    assert entry["sent_tokens"] == [100] + [400] * 2499 + [300]


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--ttft", "slow"],
            "argument --ttft/--ttft-ms: 'slow': a law is a number or one of const:VALUE, exp:MEAN",
        ),
        (["--gap", "-1"], "--gap"),
        (["--usage", "lately:5"], "'lately:5' is not final, every, never or late:MS"),
        (["--chunk-layout", "role-early"], "'role-early' is not plain, role-first"),
        (
            ["--faults", "404:0.1"],
            "a fault is one of 500, 429, reset, hang, stall, error_event, malformed, short",
        ),
        (["--faults", "500:0.9,reset:0.9"], "the shares exceed 1"),
        (["--reasoning", "thoughts:4"], "is not FIELD:K or FIELD:K:MS"),
        (["--prefix-cache", "0"], "is not WORDS or WORDS:BLOCK, both at least 1"),
        (["--freeze", "1:-1"], "is not START:SECONDS, neither negative"),
        (["--framing", "morse"], "invalid choice: 'morse'"),
        (["--port", "70000"], "'70000' is not a port, 0 to 65535"),
        (["--tokens-per-chunk", "0"], "'0' is not a whole number of at least 1"),
        (["--header", "Bad Name=1"], "is not NAME=VALUE in ASCII"),
        (["--null", "--gap-ms=3"], "--null sends without pacing; leave out --gap-ms"),
        (
            ["--framing", "split", "--events-per-write", "2"],
            "--framing split writes less than an event at a time",
        ),
        (["--slot", "3"], "unrecognized arguments: --slot 3"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from loadgen.truth.server import main

    with pytest.raises(SystemExit) as stopped:
        main(flags)
    out, error = capsys.readouterr()
    assert (stopped.value.code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ")
    assert says in error


def test_a_port_in_use_and_a_log_that_cannot_be_written_end_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from loadgen.truth.server import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: the ground-truth server cannot listen on 127.0.0.1:{port}: ")
    assert main(["--log", str(tmp_path / "none" / "x.jsonl")]) == 1
    assert "x.jsonl cannot be written: No such file or directory" in capsys.readouterr().err


def test_help_names_every_flag_and_law() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "truth", "--help"],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0
    from loadgen.truth.options import parser

    for action in parser()._actions:
        assert action.help, action.dest
        assert all(flag in done.stdout for flag in action.option_strings)
    assert "lognorm:MEDIAN:SIGMA" in done.stdout


def test_an_interrupt_ends_it_as_a_termination_does(truth: Start) -> None:
    server = truth(*FAST)
    chat(server, max_tokens=2)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(HANG_S) == 0
    assert [line.get("request_id") for line in map(json.loads, server.log_path.read_text().splitlines())] == [
        "r",
        None,
    ]
