"""What the ground-truth server says of its own work, against a raw-socket reader. What that work costs is a benchmark:
``tests/benchmarks/test_client_cost.py``."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from tests.loadgen.conftest import HANG_S, Truth

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
        sock = socket.create_connection((host, int(port)), timeout=HANG_S)
        sock.setblocking(False)
        socks[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
        sock.send(request)
    end, going = time.monotonic() + seconds, streams
    while going:
        ready = epoll.poll(HANG_S)
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


def test_an_unpaced_server_counts_every_token_it_sent(truth: Start) -> None:
    *requests, last = load(truth("--null"), streams=64, tokens=128, seconds=0.2)
    own = last["server"]
    assert own["tokens"] == sum(line["tokens"] for line in requests) >= 64 * 128
    assert {tuple(line["sent_tokens"]) for line in requests} == {(1,) * 128}
    assert 0 < own["cpu_s"] <= own["wall_s"] * 1.1
