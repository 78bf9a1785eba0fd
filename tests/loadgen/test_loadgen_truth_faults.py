"""The ground-truth server's faults: each looks as an engine's would, and comes as often as was asked for."""

from __future__ import annotations

import http.client
import json
import re
import time

import pytest

from tests.loadgen.conftest import HANG_S
from tests.loadgen.truth_client import FAST, Start, call, chat, samples, streamed


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
