"""The ground-truth server must not be what limits a test: its CPU against a raw-socket reader."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.loadgen.conftest import Truth

Start = Callable[..., Truth]


def load(server: Truth, streams: int, tokens: int, seconds: float) -> list[dict[str, Any]]:
    """Keep *streams* closed-loop streams of *tokens* going and count only where answers end; the log's lines."""
    fields = {"model": "m", "prompt": "a b c d", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body = json.dumps(fields).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    host, _, port = server.url.removeprefix("http://").partition(":")
    epoll, view = select.epoll(), memoryview(bytearray(2**18))
    socks: dict[int, socket.socket] = {}
    for _ in range(streams):
        sock = socket.create_connection((host, int(port)), timeout=20)
        sock.setblocking(False)
        socks[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
        sock.send(request)
    end, going = time.monotonic() + seconds, streams
    while going:
        ready = epoll.poll(20)
        assert ready, "the server fell silent"
        for descriptor, _ in ready:
            size = socks[descriptor].recv_into(view)
            assert size, "the server closed"
            if view[max(0, size - 5) : size] == b"0\r\n\r\n":
                if time.monotonic() < end:
                    socks[descriptor].send(request)
                else:
                    going -= 1
    for sock in socks.values():
        sock.close()
    epoll.close()
    server.log()
    return [json.loads(line) for line in server.log_path.read_text().splitlines()]


def test_an_unpaced_token_costs_few_microseconds(truth: Start) -> None:
    """About 6 us on a quiet machine with an event a write, so that 120,000 a second fit into a core."""
    *requests, last = load(truth("--null"), streams=64, tokens=128, seconds=1.0)
    own = last["server"]
    assert own["tokens"] == sum(line["tokens"] for line in requests) >= 64 * 128
    assert {tuple(line["sent_tokens"]) for line in requests} == {(1,) * 128}
    assert own["cpu_s"] / own["tokens"] < 25e-6


@pytest.mark.long
def test_512_lockstep_streams_leave_a_fifth_of_a_core(truth: Start) -> None:
    """512 streams of 100 tokens a second are 51,200 events a second."""
    *requests, last = load(truth("--ttft", "50", "--gap", "10"), streams=512, tokens=100, seconds=5.0)
    own = last["server"]
    assert own["cpu_s"] / own["tokens"] * 51_200 < 0.8  # also where other load kept the rate below that
    assert own["core_share_max"] < 0.8
    assert all(line["buffered_sends"] == 0 for line in requests)
