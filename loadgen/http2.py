"""The HTTP/2 connection to one server: many requests on it at a time.

Belongs here: streams, flow control, and handing each answer on as the reads an HTTP/1.1 answer would have
been.
Does not belong here: frames and header compression (the ``h2`` library), sockets (``transport``).

HTTP/2 by prior knowledge over plain TCP, by ALPN over TLS. All requests to a server share one connection as
far as the server lets them; when it refuses more streams, or takes no more requests (GOAWAY), another
connection is opened. An answer's header is kept as the head of an HTTP/1.1 response that ends with its
connection, its DATA frames as the reads that follow, so ``decode`` sees no difference. All frames of one
socket read carry that read's stamp.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from loadgen.exchange import Exchange, Failure
from loadgen.http1 import FramingError
from loadgen.loop import IN, OUT, Loop
from loadgen.transport import READY, WANT_READ, Channel, Origin

_WINDOW = 2**24  # flow control must not pace a stream: 16 MiB a stream, and as much a connection
_CODES = h2.settings.SettingCodes
_CANCEL = h2.errors.ErrorCodes.CANCEL


class Session:
    """One connection. ``streams`` are the exchanges on it; those in ``waiting`` go out once it is ready."""

    def __init__(self, pool: Http2Pool, channel: Channel) -> None:
        self.pool, self.channel = pool, channel
        self.begun_ns, self.connect_ms = time.perf_counter_ns(), 0.0
        self.connected = self.leaving = False
        self.waiting: dict[int, Exchange] = {}
        self.streams: dict[int, Exchange] = {}
        self._unsent = b""
        self._bodies: dict[int, memoryview] = {}  # parts of requests that flow control holds back
        self._writing, self._heard = True, False
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=None, validate_inbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={_CODES.INITIAL_WINDOW_SIZE: _WINDOW, _CODES.ENABLE_PUSH: 0},
        )

    @property
    def load(self) -> int:
        """Exchanges on this connection."""
        return len(self.streams) + len(self.waiting)

    @property
    def takes_more(self) -> bool:
        """Whether one more stream may be opened."""
        return not self.leaving and self.load < self.pool.limit

    def ready(self, events: int) -> None:
        """The loop's handler: connect, send, read."""
        if not self.connected:
            return self._advance()
        if events & OUT:
            self._flush()
        if events & ~OUT and self.connected:
            self._receive()
        return None

    def _advance(self) -> None:
        try:
            state = self.channel.advance()
        except OSError as error:
            text = getattr(error, "verify_message", None) or error.strerror or str(error)
            return self.end(Failure("error", "connect", f"cannot connect: {text}"))
        if state != READY:
            return self.pool.loop.modify(self.channel.fileno(), IN if state == WANT_READ else OUT)
        self.connected = True
        self.connect_ms = (time.perf_counter_ns() - self.begun_ns) / 1e6
        self.pool.loop.modify(self.channel.fileno(), IN | OUT)
        self._writing = True  # so that a first write that stops half-way is gone on with
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_WINDOW)
        for exchange in list(self.waiting.values()):
            self.send(exchange)
        return self._flush()

    def send(self, exchange: Exchange) -> None:
        """Open a stream for *exchange*, or keep it until the connection is ready."""
        exchange.carrier = self
        if not self.connected:
            self.waiting[id(exchange)] = exchange
            return
        self.waiting.pop(id(exchange), None)
        exchange.connect_ms = 0.0 if exchange.reused else self.connect_ms
        request, stream = exchange.request, self.h2.get_next_available_stream_id()
        headers = [
            *self.pool.headers,
            (b"content-length", b"%d" % len(request.body)),
            (b"x-request-id", request.request_id.encode("latin-1")),
        ]
        self.streams[stream] = exchange
        exchange.sent_ns = time.perf_counter_ns()
        self.h2.send_headers(stream, headers)
        self._bodies[stream] = memoryview(request.body)
        self._send_body(stream)
        self._flush()
        self.pool.sent(exchange)

    def _send_body(self, stream: int) -> None:
        """As much of a request's body as flow control lets through."""
        rest = self._bodies[stream]
        while True:
            size = min(len(rest), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            last = size == len(rest)
            if size or last:
                self.h2.send_data(stream, rest[:size].tobytes(), end_stream=last)
                rest = rest[size:]
            if last or not size:
                break
        if last:
            del self._bodies[stream]
        else:
            self._bodies[stream] = rest

    def _flush(self) -> None:
        self._unsent += self.h2.data_to_send()
        try:
            if self._unsent:
                self._unsent = self._unsent[self.channel.send(memoryview(self._unsent)) :]
        except OSError as error:
            return self._lost(f"lost ({error.strerror or error})")
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            self.pool.loop.modify(self.channel.fileno(), IN | (OUT if self._writing else 0))
        return None

    def _receive(self) -> None:
        try:
            data, stamp, lag = self.channel.receive()
        except BlockingIOError:
            return None
        except OSError as error:
            return self._lost(f"lost ({error.strerror or error})")
        if not data:
            return self._lost("closed by the server")
        self.pool.loop.counters.reads += 1
        if not self._heard and data.startswith(b"HTTP/1"):  # h2 would wait for a frame of 4 MB
            return self.end(Failure("error", "malformed", "the server answered in HTTP/1.1, not in HTTP/2"))
        self._heard = True
        try:
            for event in self.h2.receive_data(data):
                self._take(event, stamp, lag)
        except (h2.exceptions.ProtocolError, FramingError) as error:
            return self.end(Failure("error", "malformed", f"HTTP/2: {error}"))
        for stream in list(self._bodies):
            self._send_body(stream)
        self._flush()
        if self.leaving and not self.load:
            self.end(None)
        return None

    def _take(self, event: Any, stamp: int, lag: int) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.data:
                self._add(event.stream_id, bytes(event.data), stamp, lag)
        elif isinstance(event, h2.events.ResponseReceived):
            self._add(event.stream_id, _head(event.headers), stamp, lag)
        elif isinstance(event, h2.events.StreamEnded):
            exchange = self._leave(event.stream_id)
            if exchange is not None:
                exchange.framer.eof()
                self.pool.loop.finish(exchange, None)
        elif isinstance(event, h2.events.StreamReset):
            exchange = self._leave(event.stream_id)
            if exchange is not None:
                self._fail(exchange, f"stream reset by the server (code {int(event.error_code)})")
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.pool.limit = self.h2.remote_settings.max_concurrent_streams
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.leaving = True

    def _add(self, stream: int, data: bytes, stamp: int, lag: int) -> None:
        exchange = self.streams.get(stream)
        if exchange is not None:
            exchange.stamps.append(stamp)
            exchange.lags_ns.append(lag)
            exchange.reads.append(data)
            if exchange.framer.status == 0:
                exchange.framer.feed(data)

    def _leave(self, stream: int) -> Exchange | None:
        self._bodies.pop(stream, None)
        return self.streams.pop(stream, None)

    def _fail(self, exchange: Exchange, how: str) -> None:
        size = sum(exchange.spilled_sizes) + sum(map(len, exchange.reads))
        kind = "mid_stream" if exchange.stamps else "empty"
        failure = Failure("error", kind, f"{how} after {size} bytes of the answer")
        self.pool.loop.finish(exchange, failure)

    def abort(self, exchange: Exchange, failure: Failure) -> None:
        """End one exchange from this side; the others go on."""
        self.waiting.pop(id(exchange), None)
        for stream, other in self.streams.items():
            if other is exchange:
                self._leave(stream)
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.h2.reset_stream(stream, _CANCEL)
                    self._flush()
                break
        if id(exchange) in self.pool.loop.in_flight:
            self.pool.loop.finish(exchange, failure)

    def _lost(self, how: str) -> None:
        streams, waiting = list(self.streams.values()), list(self.waiting.values())
        self.streams.clear()
        self.waiting.clear()
        self.end(None)
        for exchange in [*streams, *waiting]:
            self._fail(exchange, f"connection {how}")

    def end(self, failure: Failure | None) -> None:
        """Close the connection; what is on it ends with *failure*."""
        self.pool.drop(self)
        for exchange in [*self.streams.values(), *self.waiting.values()]:
            self.pool.loop.finish(exchange, failure)
        self.streams.clear()
        self.waiting.clear()
        self._bodies.clear()


class Http2Pool:
    """Connections to one server. *connect* starts one; *sent* is told of each request that went out; with
    *always_fresh* each request has its own."""

    def __init__(
        self,
        loop: Loop,
        connect: Callable[[], Channel],
        origin: Origin,
        target: str,
        headers: Mapping[str, str],
        sent: Callable[[Exchange], None],
        *,
        always_fresh: bool = False,
    ) -> None:
        self.loop, self._connect, self.sent = loop, connect, sent
        self.limit = 100  # streams a connection, until the server says; the least HTTP/2 recommends to allow
        self._always_fresh = always_fresh
        self._sessions: list[Session] = []
        named = {
            ":method": "POST",
            ":scheme": "https" if origin.tls else "http",
            ":authority": origin.authority,
            ":path": target,
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            **{name.lower(): value for name, value in headers.items()},
        }
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]

    def warm(self, count: int) -> None:
        """Start opening a connection if there is none."""
        if count and not self._sessions and not self._always_fresh:
            with contextlib.suppress(OSError):
                self._open()

    def submit(self, exchange: Exchange) -> None:
        """Send on a connection that takes one more stream, or open one."""
        session = None
        if not self._always_fresh:
            session = next((one for one in self._sessions if one.takes_more), None)
        if session is None:
            try:
                session = self._open()
            except OSError as error:
                text = f"cannot connect: {error.strerror or error}"
                return self.loop.finish(exchange, Failure("error", "connect", text))
            exchange.reused = False
        else:
            exchange.reused = session.connected
            self.loop.counters.reused += session.connected
        return session.send(exchange)

    def _open(self) -> Session:
        session = Session(self, self._connect())
        session.leaving = self._always_fresh  # it takes no second request
        self.loop.counters.opened += 1
        self._sessions.append(session)
        self.loop.register(session.channel.fileno(), OUT, session.ready)
        return session

    def abort(self, exchange: Exchange, failure: Failure) -> None:
        """End *exchange* from this side."""
        session: Session | None = exchange.carrier
        if session is None:
            return self.loop.finish(exchange, failure)
        session.abort(exchange, failure)
        if self._always_fresh:
            session.end(None)
        return None

    def drop(self, session: Session) -> None:
        """Close and forget a connection."""
        if session in self._sessions:
            self._sessions.remove(session)
            self.loop.forget(session.channel.fileno())
            session.channel.close()
        session.connected, session.leaving = False, True

    def close_idle(self) -> None:
        """Close connections that carry no request."""
        for session in [one for one in self._sessions if not one.load]:
            self.drop(session)


def _head(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of an HTTP/1.1 response that lasts until its connection closes."""
    status = b"502"
    lines: list[bytes] = []
    for name, value in headers:
        if name == b":status":
            status = value
        elif name not in (b"content-length", b"transfer-encoding", b"connection"):
            lines.append(b": ".join((name, value)) + b"\r\n")
    return b"HTTP/1.1 " + status + b" \r\n" + b"".join(lines) + b"\r\n"
