"""The ground-truth server's log: what was drawn and sent, whether or not the client reads."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.loadgen.conftest import HANG_S, Truth
from tests.loadgen.truth_client import Start, call, chat, samples, streamed


def lines(server: Truth) -> list[dict[str, Any]]:
    server.log()
    return [json.loads(line) for line in server.log_path.read_text().splitlines()]


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
