"""The hot path: requests out, stamped bytes in, on one epoll loop.

Belongs here: connections and their reuse, sending, reading, request and idle timeouts, cutting what is
left.
Does not belong here: when to send what (``steps``), what answers mean (``decode``). Nothing here parses
JSON or retries.

A connection is kept when the server keeps it. A reused one that the server closes before any byte of the
answer came back was closed while idle: the request goes out again on a fresh connection, with a new send
stamp, and no error is counted. Some servers announce keep-alive and close all the same; after the second
time their connections are no longer reused.
"""

from __future__ import annotations

import contextlib
import re
import select
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loadgen.exchange import Exchange, Failure
from loadgen.http1 import Framer, FramingError
from loadgen.plan import PlanError, Replica
from loadgen.transport import READY, WANT_READ, Channel, KernelClock, Origin, open_channel, resolve

NS = 1_000_000_000
_CLOSES_BEFORE_FRESH = 2
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SPENT = Framer()  # stands in for the framer of a finished exchange


@dataclass(slots=True, eq=False)
class _Connection:
    channel: Channel
    replica: Replica
    begun_ns: int
    exchange: Exchange | None = None
    ready: bool = False
    used: bool = False
    writing: bool = False
    connect_ms: float = 0.0
    unsent: memoryview | None = None


@dataclass(slots=True)
class Counters:
    """Counts over the client's life; ``raw_bytes`` those handed out with exchanges."""

    opened: int = 0
    reused: int = 0
    reopened: int = 0
    raw_bytes: int = 0


@dataclass(slots=True)
class _Server:
    origin: Origin
    head: bytes
    idle: list[_Connection] = field(default_factory=list)
    closes: int = 0


class Client:
    """Sends exchanges and finishes each exactly once, through :attr:`done`.

    *headers* go with every request (secrets included: they are sent and never kept). Times in seconds.
    *api* is ``chat`` or ``completions``. With *kernel_stamps* plain connections are stamped by the kernel.
    """

    def __init__(
        self,
        replicas: tuple[Replica, ...],
        *,
        api: str,
        headers: Mapping[str, str],
        request_timeout_s: float,
        idle_timeout_s: float,
        kernel_stamps: bool = True,
    ) -> None:
        path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise PlanError(
                    f"headers: {name!r} cannot be sent; a name is letters and dashes, a value printable ASCII"
                )
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._servers: dict[Replica, _Server] = {}
        for replica in replicas:
            origin = resolve(replica.base_url)
            head = (
                f"POST {origin.path}{path} HTTP/1.1\r\nHost: {origin.authority}\r\n"
                "Content-Type: application/json\r\n"
                f"Accept: text/event-stream, application/json\r\n{extra}Content-Length: "
            )
            self._servers[replica] = _Server(origin, head.encode("latin-1"))
        tls = any(server.origin.tls for server in self._servers.values())
        self._context = ssl.create_default_context() if tls else None
        self.clock = KernelClock() if kernel_stamps else None
        self._request_ns, self._idle_ns = int(request_timeout_s * NS), int(idle_timeout_s * NS)
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self.done: list[Exchange] = []
        self.in_flight: dict[int, Exchange] = {}  # by id() of the exchange
        self.counters = Counters()

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call *callback* when *descriptor* becomes readable: the loop's timer."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._watched[descriptor] = callback

    def warm(self, count: int) -> None:
        """Start opening idle connections until each replica has its share of *count*."""
        for index, replica in enumerate(self._servers):
            share = count // len(self._servers) + (index < count % len(self._servers))
            server = self._servers[replica]
            if server.closes < _CLOSES_BEFORE_FRESH:
                for _ in range(share - len(server.idle)):
                    with contextlib.suppress(OSError):
                        self._open(replica, None)

    def submit(self, exchange: Exchange) -> None:
        """Send at once on an idle connection, or open one and send when it is ready."""
        exchange.begun_ns = time.perf_counter_ns()
        self.in_flight[id(exchange)] = exchange
        server = self._servers[exchange.replica]
        if server.idle:
            connection = server.idle.pop()
            connection.exchange = exchange
            exchange.reused = connection.used
            self.counters.reused += connection.used
            return self._send(connection) if connection.ready else None
        return self._fresh(exchange)

    def poll(self, timeout_s: float = -1) -> None:
        """Handle what is ready; finished exchanges are appended to :attr:`done`."""
        for descriptor, events in self._epoll.poll(timeout_s):
            connection = self._connections.get(descriptor)
            if connection is None:
                if (callback := self._watched.get(descriptor)) is not None:
                    callback()
            elif not connection.ready:
                self._advance(connection)
            else:
                if events & select.EPOLLOUT and connection.unsent is not None:
                    self._flush(connection)
                if events & ~select.EPOLLOUT and connection.ready:
                    self._receive(connection)

    def sweep(self, now_ns: int) -> None:
        """End requests that took too long as a whole, or fell silent in the middle of their answer."""
        for connection in list(self._connections.values()):
            exchange = connection.exchange
            if exchange is None:
                continue
            if now_ns - exchange.begun_ns > self._request_ns:
                self._fail(
                    connection, Failure("timeout", "timeout", f"no end within {self._request_ns / NS:g} s")
                )
            elif exchange.stamps and now_ns - exchange.stamps[-1] > self._idle_ns:
                self._fail(connection, Failure("timeout", "timeout", f"silent for {self._idle_ns / NS:g} s"))

    def cut(self, text: str) -> None:
        """End everything in flight as cancelled."""
        for connection in list(self._connections.values()):
            if connection.exchange is not None:
                self._fail(connection, Failure("cancelled", None, text))

    def close_idle(self) -> None:
        """Close connections that carry no request: between two steps a server may count them as busy."""
        for connection in [one for one in self._connections.values() if one.exchange is None]:
            self._close(connection)

    def close(self) -> None:
        """Close everything; the client can no longer be used."""
        self.cut("the generator was closed")
        self.close_idle()
        self._epoll.close()

    # ------------------------------------------------------------------ connections

    def _fresh(self, exchange: Exchange) -> None:
        try:
            self._open(exchange.replica, exchange)
        except OSError as error:
            self._finish(exchange, Failure("error", "connect", f"cannot connect: {error.strerror or error}"))

    def _open(self, replica: Replica, exchange: Exchange | None) -> None:
        server = self._servers[replica]
        begun = time.perf_counter_ns()
        connection = _Connection(
            open_channel(server.origin, self._context, self.clock), replica, begun, exchange
        )
        self.counters.opened += 1
        self._connections[connection.channel.fileno()] = connection
        self._epoll.register(connection.channel.fileno(), select.EPOLLOUT)
        if exchange is not None:
            exchange.reused = False
        else:
            server.idle.append(connection)
        self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        try:
            state = connection.channel.advance()
        except OSError as error:
            exchange = connection.exchange
            self._close(connection)
            if exchange is not None:
                text = getattr(error, "verify_message", None) or error.strerror or str(error)
                self._finish(exchange, Failure("error", "connect", f"cannot connect: {text}"))
            return
        if state != READY:
            self._epoll.modify(
                connection.channel.fileno(), select.EPOLLIN if state == WANT_READ else select.EPOLLOUT
            )
            return
        connection.ready = True
        connection.connect_ms = (time.perf_counter_ns() - connection.begun_ns) / 1e6
        self._epoll.modify(connection.channel.fileno(), select.EPOLLIN)
        if connection.exchange is not None:
            self._send(connection)

    def _close(self, connection: _Connection) -> None:
        descriptor = connection.channel.fileno()
        self._connections.pop(descriptor, None)
        idle = self._servers[connection.replica].idle
        if connection in idle:
            idle.remove(connection)
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        connection.channel.close()
        connection.ready, connection.exchange = False, None

    # ------------------------------------------------------------------ sending and receiving

    def _send(self, connection: _Connection) -> None:
        exchange = connection.exchange
        assert exchange is not None
        exchange.connect_ms = 0.0 if connection.used else connection.connect_ms
        connection.used = True
        request = exchange.request
        head = self._servers[connection.replica].head
        message = b"%b%d\r\nx-request-id: %b\r\n\r\n%b" % (
            head,
            len(request.body),
            request.request_id.encode("latin-1"),
            request.body,
        )
        connection.unsent = memoryview(message)
        exchange.sent_ns = time.perf_counter_ns()
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        assert connection.unsent is not None
        waiting, connection.unsent = connection.unsent, None
        try:
            rest = waiting[connection.channel.send(waiting) :]
        except OSError as error:
            return self._lost(connection, error)
        if rest:
            connection.unsent = rest
        if bool(rest) != connection.writing:
            connection.writing = bool(rest)
            self._epoll.modify(connection.channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if rest else 0))
        return None

    def _receive(self, connection: _Connection) -> None:
        try:
            data, stamp, lag_us = connection.channel.receive()
        except BlockingIOError:
            return None
        except OSError as error:
            return self._lost(connection, error)
        exchange = connection.exchange
        if not data:
            return self._lost(connection, None)
        if exchange is None:  # bytes nobody asked for
            return self._close(connection)
        exchange.stamps.append(stamp)
        exchange.reads.append(data)
        if lag_us is not None:
            exchange.lags_us.append(lag_us)
        self.counters.raw_bytes += len(data)
        try:
            complete = exchange.framer.feed(data)
        except FramingError as error:
            return self._fail(connection, Failure("error", "malformed", str(error)))
        return self._complete(connection, exchange) if complete else None

    def _complete(self, connection: _Connection, exchange: Exchange) -> None:
        framer, server = exchange.framer, self._servers[connection.replica]
        connection.exchange = None
        whole = framer.keep_alive and not framer.surplus and connection.unsent is None
        if whole and server.closes < _CLOSES_BEFORE_FRESH:
            server.idle.append(connection)
        else:
            self._close(connection)
        self._finish(exchange, None)

    def _lost(self, connection: _Connection, error: OSError | None) -> None:
        """The peer closed (*error* ``None``) or reset the connection."""
        exchange = connection.exchange
        self._close(connection)
        if exchange is None:
            return None
        if not exchange.reads and exchange.reused:
            self._servers[exchange.replica].closes += 1
            self.counters.reopened += 1
            exchange.sent_ns = 0
            return self._fresh(exchange)
        if error is None and exchange.framer.eof():
            return self._finish(exchange, None)
        how = "closed by the server" if error is None else f"lost ({error.strerror or error})"
        size = sum(map(len, exchange.reads))
        kind = "mid_stream" if exchange.reads else "empty"
        return self._finish(
            exchange, Failure("error", kind, f"connection {how} after {size} bytes of the answer")
        )

    def _fail(self, connection: _Connection, failure: Failure) -> None:
        exchange = connection.exchange
        self._close(connection)
        if exchange is not None:
            self._finish(exchange, failure)

    def _finish(self, exchange: Exchange, failure: Failure | None) -> None:
        exchange.end_ns = time.perf_counter_ns()
        exchange.failure = failure
        exchange.http_status = exchange.framer.status
        exchange.framer = _SPENT
        del self.in_flight[id(exchange)]
        self.done.append(exchange)
