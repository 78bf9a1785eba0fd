"""The ground-truth server's loop: one process, one epoll, one timer, an absolute schedule.

Belongs here: connections, slots, sending each piece at its due time, the log. Does not belong here: bytes
(``answers``).

A piece is due at service start + its offset; lateness never accumulates. During a freeze requests are read
and stamped, and nothing is sent; what was due then is sent at its end, and later pieces keep their own due
times.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from loadgen import __version__
from loadgen.timer import Timer
from loadgen.truth.answers import BadRequest, Piece, document, pieces, read_request
from loadgen.truth.options import Behaviour, parser

NS = 1_000_000_000
_SENDS_A_TURN = 32
_MAX_REQUEST = 64 * 2**20


@dataclass(slots=True, eq=False)
class _Connection:
    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    job: _Job | None = None
    waiting: bool = False  # for the socket to take more
    close_when_sent: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    connection: _Connection
    request_id: str
    received_ns: int
    pieces: Sequence[Piece]
    fault: str | None
    next: int = 0
    began_ns: int = 0
    sends_ns: list[int] = field(default_factory=list)
    tokens: int = 0
    first_send_ns: int = 0
    last_send_ns: int = 0
    ended: bool = False


class TruthServer:
    """Serve on *host*:*port* (0 = any) until :meth:`stop` is called from a signal handler; ``port`` is the
    one bound."""

    def __init__(self, behaviour: Behaviour, host: str, port: int, log: TextIO | None) -> None:
        self.behaviour, self._log = behaviour, log
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._epoll, self._timer = select.epoll(), Timer()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer.fileno(), select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        self._due: list[tuple[int, int, _Job]] = []
        self._queue: deque[_Job] = deque()
        self._busy = self._order = self._requests = self._tokens = 0
        self._freeze_ns: tuple[int, int] | None = None
        self._running = True

    def stop(self) -> None:
        """Leave the loop within a tenth of a second."""
        self._running = False

    def run(self) -> None:
        """The loop."""
        while self._running:
            for descriptor, events in self._epoll.poll(0.1):
                if descriptor == self._timer.fileno():
                    self._timer.clear()
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif (connection := self._connections.get(descriptor)) is not None:
                    if events & select.EPOLLOUT:
                        self._flush(connection)
                    if events & ~select.EPOLLOUT and descriptor in self._connections:
                        self._receive(connection)
            self._send_due()
            if self._due:
                self._timer.arm(self._due[0][0])
        for connection in list(self._connections.values()):
            self._close(connection)
        self._listener.close()

    # ------------------------------------------------------------------ connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[sock.fileno()] = _Connection(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._close(connection)
        connection.received += data
        self._next_request(connection)

    def _next_request(self, connection: _Connection) -> None:
        """Take one whole request from what was received; a second one waits for the first's answer."""
        received = connection.received
        end = received.find(b"\r\n\r\n")
        if connection.job is not None or end < 0:
            return
        first, *lines = bytes(received[:end]).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        if length > _MAX_REQUEST:
            return self._close(connection)
        if len(received) < end + 4 + length:
            return
        now = time.perf_counter_ns()
        body = bytes(received[end + 4 : end + 4 + length])
        del received[: end + 4 + length]
        method, _, rest = first.partition(" ")
        self._handle(connection, method, rest.partition(" ")[0], headers, body, now)

    def _close(self, connection: _Connection, *, reset: bool = False) -> None:
        if reset:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connections.pop(connection.sock.fileno(), None)
        self._epoll.unregister(connection.sock.fileno())
        connection.sock.close()
        if connection.job is not None:
            self._end(connection.job)

    # ------------------------------------------------------------------ requests

    def _handle(
        self, connection: _Connection, method: str, path: str, headers: dict[str, str], body: bytes, now: int
    ) -> None:
        behaviour = self.behaviour
        if method == "POST" and path.endswith("/completions"):
            if self._requests == 0 and behaviour.freeze_s is not None:
                start = now + int(behaviour.freeze_s[0] * NS)
                self._freeze_ns = (start, start + int(behaviour.freeze_s[1] * NS))
            self._requests += 1
            try:
                asked = read_request(path, body, behaviour)
            except BadRequest as error:
                return self._send(
                    connection, document(behaviour, "400 Bad Request", {"error": {"message": str(error)}})
                )
            fault = behaviour.fault()
            answer = pieces(asked, behaviour, fault)
            job = _Job(connection, headers.get("x-request-id", ""), now, answer, fault)
            connection.job = job
            self._queue.append(job)
            return self._start_queued(now)
        status, content = self._page(path)
        return self._send(connection, document(behaviour, status, content))

    def _page(self, path: str) -> tuple[str, Any]:
        if path == "/health":
            return "200 OK", {"status": "ok"}
        if path == "/version":
            return "200 OK", {"version": __version__, "engine": "accelbench-truth"}
        if path == "/v1/models":
            return "200 OK", {"object": "list", "data": [{"id": self.behaviour.model, "object": "model"}]}
        if path == "/metrics":
            rows = (
                ("requests_total", "counter", self._requests),
                ("generated_tokens_total", "counter", self._tokens),
                ("requests_running", "gauge", self._busy),
                ("requests_waiting", "gauge", len(self._queue)),
            )
            text = "".join(
                f"# TYPE truth_{name} {kind}\ntruth_{name} {value}\n" for name, kind, value in rows
            )
            return "200 OK", text
        return "404 Not Found", {"error": {"message": f"no such path: {path}"}}

    def _start_queued(self, now: int) -> None:
        while self._queue and (self.behaviour.slots == 0 or self._busy < self.behaviour.slots):
            job = self._queue.popleft()
            if job.ended:
                continue
            self._busy += 1
            job.began_ns = now
            if job.pieces:
                self._schedule(job)

    def _schedule(self, job: _Job) -> None:
        due = job.began_ns + int(job.pieces[job.next].after_ms * 1e6)
        if self._freeze_ns is not None and self._freeze_ns[0] <= due < self._freeze_ns[1]:
            due = self._freeze_ns[1]
        self._order += 1
        heapq.heappush(self._due, (due, self._order, job))

    def _send_due(self) -> None:
        """Send what is due, in turns, so that requests arriving during a burst are read and stamped."""
        for _ in range(_SENDS_A_TURN):
            if not self._due or self._due[0][0] > time.perf_counter_ns():
                return
            job = heapq.heappop(self._due)[2]
            if job.ended:
                continue
            piece = job.pieces[job.next]
            job.next += 1
            now = time.perf_counter_ns()
            if piece.tokens:
                job.first_send_ns = job.first_send_ns or now
                job.sends_ns.append(now)
                job.tokens += piece.tokens
                self._tokens += piece.tokens
            job.last_send_ns = now
            if piece.reset:
                self._close(job.connection, reset=True)
            elif not piece.last:
                self._send(job.connection, piece.data)
                if not job.ended:
                    self._schedule(job)
            else:
                connection = job.connection
                connection.close_when_sent = self.behaviour.connection != "keep-alive"
                connection.job = None
                self._end(job)
                self._send(connection, piece.data)
                if connection.sock.fileno() >= 0:
                    self._next_request(connection)

    def _end(self, job: _Job) -> None:
        """Free the slot, write the log line."""
        if job.ended:
            return
        job.ended = True
        if job.began_ns:
            self._busy -= 1
            self._start_queued(time.perf_counter_ns())
        if self._log is not None:
            line = {
                "request_id": job.request_id,
                "received_ns": job.received_ns,
                "began_ns": job.began_ns,
                "sends_ns": job.sends_ns,
                "last_send_ns": job.last_send_ns,
                "tokens": job.tokens,
                "fault": job.fault,
            }
            self._log.write(json.dumps(line) + "\n")

    # ------------------------------------------------------------------ sending

    def _send(self, connection: _Connection, data: bytes) -> None:
        connection.unsent += data
        if not connection.waiting:
            self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            del connection.unsent[: connection.sock.send(connection.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            return self._close(connection)
        if bool(connection.unsent) != connection.waiting:
            connection.waiting = bool(connection.unsent)
            want = select.EPOLLIN | (select.EPOLLOUT if connection.waiting else 0)
            self._epoll.modify(connection.sock.fileno(), want)
        if connection.close_when_sent and not connection.unsent:
            self._close(connection)
        return None


def main(argv: Sequence[str]) -> int:
    """``python -m loadgen truth``; prints one JSON line with the port and URL once it listens."""
    options = vars(parser().parse_args(argv))
    host, port, log_path, with_parent = (
        options.pop(name) for name in ("host", "port", "log", "exit_with_parent")
    )
    options["freeze_s"] = options.pop("freeze")
    behaviour = Behaviour(**options)
    log: TextIO | None = None
    try:
        log = open(log_path, "w", encoding="utf-8") if log_path else None  # noqa: SIM115 - open for the server's life
        server = TruthServer(behaviour, host, port, log)
    except OSError as error:
        print(f"error: the ground-truth server cannot start on {host}:{port}: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if with_parent:
        threading.Thread(target=_watch_parent, daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    print(
        json.dumps({"event": "listening", "port": server.port, "url": f"http://{shown}:{server.port}"}),
        flush=True,
    )
    server.run()
    if log is not None:
        log.close()
    return 0


def _watch_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
