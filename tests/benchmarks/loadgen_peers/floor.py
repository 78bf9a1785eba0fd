"""The floor: a raw-socket loop that does nothing but send, count and stamp. What a client can reach at best here.

Belongs here: a closed loop over one epoll with kernel receive stamps; events are counted by their blank lines,
nothing is parsed and nothing is kept but one stamp an event. Run as a script: its start is part of nothing.
Does not belong here: anything of the project (it must not share the code it is the floor of).

Prints nothing; writes {"requests": [[id, sent_ns, [stamp_ns of each token chunk]], …]}.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_AFTER_TOKENS = 2  # events after the last token: the finish chunk and [DONE] (no usage is asked for)
_OFFSET_EVERY_NS = 100_000_000


class _Stream:
    __slots__ = ("half", "request", "sent_ns", "sock", "stamps")

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.request = ""
        self.sent_ns = 0
        self.stamps: list[int] = []
        self.half = False  # the last read ended between the two line ends of a blank line


def offset_ns() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC now."""
    before = time.perf_counter_ns()
    wall = time.time_ns()
    return wall - (before + time.perf_counter_ns()) // 2


def drive(
    address: tuple[str, int], streams: int, requests: int, tokens: int, limit_s: float
) -> list[tuple[str, int, list[int]]]:
    """*requests* over *streams* connections, back to back; (id, sent, stamps of the token chunks) of each whole one.

    Raises ``TimeoutError`` at *limit_s*.
    """
    body = json.dumps(
        {
            "model": "truth",
            "stream": True,
            "max_tokens": tokens,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "time " * 60}],
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nx-request-id: "
    ).encode()
    idents: Iterator[int] = iter(range(requests))
    done: list[tuple[str, int, list[int]]] = []
    epoll = select.epoll()
    open_streams = {(stream := _Stream(address)).sock.fileno(): stream for _ in range(streams)}
    for descriptor in open_streams:
        epoll.register(descriptor, select.EPOLLIN)

    def begin(stream: _Stream) -> None:
        if (number := next(idents, None)) is None:
            return
        stream.request, stream.stamps, stream.half = f"floor-{number}", [], False
        message = head + stream.request.encode() + b"\r\n\r\n" + body
        stream.sent_ns = time.perf_counter_ns()
        stream.sock.send(message)

    buffer = bytearray(262_144)
    view = memoryview(buffer)
    offset, offset_at = offset_ns(), time.perf_counter_ns()
    end_ns = offset_at + int(limit_s * 1e9)
    for stream in open_streams.values():
        begin(stream)
    while len(done) < requests:
        for descriptor, _ in epoll.poll(0.1):
            stream = open_streams[descriptor]
            size, extra, _, _ = stream.sock.recvmsg_into([view], 64)
            if size == 0:
                raise ConnectionError("the server closed a connection")
            seconds, nanos = _TIMESPEC.unpack(extra[0][2])
            data = bytes(view[:size])
            count = data.count(b"\n\n") + (stream.half and data[:1] == b"\n")
            stream.half = data[-1:] == b"\n" and data[-2:] != b"\n\n" and data[-4:] != b"\r\n\r\n"
            stream.stamps += [seconds * 1_000_000_000 + nanos - offset] * count
            if data.endswith(b"0\r\n\r\n"):
                last = len(stream.stamps) - _AFTER_TOKENS
                done.append((stream.request, stream.sent_ns, stream.stamps[last - tokens : last]))
                begin(stream)
        now = time.perf_counter_ns()
        if now - offset_at > _OFFSET_EVERY_NS:
            offset, offset_at = offset_ns(), now
        if now > end_ns:
            raise TimeoutError(f"{len(done)} of {requests} requests were done in {limit_s:g} s")
    for stream in open_streams.values():
        stream.sock.close()
    return done


def main(argv: list[str]) -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    gc.disable()
    address = ("127.0.0.1", options.port)
    done = drive(address, options.streams, options.requests, options.tokens, options.limit)
    options.out.write_text(json.dumps({"requests": done}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
