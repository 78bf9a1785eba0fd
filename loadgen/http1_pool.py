"""The HTTP/1.1 connections to one server: opened, kept, reused, and read on the hot path.

Belongs here: one request at a time on a connection, sticky connections, what a lost connection means.
Does not belong here: where an answer ends (``http1``), sockets (``transport``), timeouts (``client``).

A connection is kept when the server keeps it. A reused one that the server closes before any byte of the
answer came back was closed while idle: the request goes out again on a fresh connection, with a new send
stamp, and no error is counted. Some servers announce keep-alive and close all the same; after the second
time their connections are no longer reused.

:meth:`Connection.ready` is the path every token takes: one ``recvmsg``, a stamp and its lag, the bytes, and
for a read that is one whole chunk a look into the table of such sizes. Everything else waits for the end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from loadgen.clock import KernelClock
from loadgen.exchange import Exchange, Failure
from loadgen.http1 import WHOLE_CHUNKS, FramingError
from loadgen.loop import IN, OUT, Loop
from loadgen.transport import ANCILLARY_BYTES, READ_BYTES, READY, WANT_READ, Channel

_CLOSES_BEFORE_FRESH = 2


class Connection:
    """One channel; ``exchange`` is the request it carries, ``used`` whether it ever carried one."""

    __slots__ = (
        "_clock",
        "_receive_kernel",
        "begun_ns",
        "channel",
        "connect_ms",
        "connected",
        "exchange",
        "pool",
        "unsent",
        "used",
        "writing",
    )

    def __init__(self, pool: Http1Pool, channel: Channel, exchange: Exchange | None, begun_ns: int) -> None:
        self.pool, self.channel, self.exchange, self.begun_ns = pool, channel, exchange, begun_ns
        self.connected = self.used = self.writing = False
        self.connect_ms = 0.0
        self.unsent: memoryview | None = None
        self._clock: KernelClock | None = pool.loop.clock
        self._receive_kernel = channel.receive_kernel

    def ready(self, events: int) -> None:
        """Read what has come; or go on connecting or sending."""
        exchange = self.exchange
        if events != IN or exchange is None or not self.connected:
            return self._other(events)
        try:
            if self._receive_kernel is not None and self._clock is not None:
                data, extra, _, _ = self._receive_kernel(READ_BYTES, ANCILLARY_BYTES)
                stamp, lag = self._clock.stamp(time.perf_counter_ns(), extra)
            else:
                data, stamp, lag = self.channel.receive()
        except BlockingIOError:
            return None
        except OSError as error:
            return self.lost(error)
        if not data:
            return self.lost(None)
        exchange.stamps.append(stamp)
        exchange.lags_ns.append(lag)
        exchange.reads.append(data)
        self.pool.loop.counters.reads += 1
        framer = exchange.framer
        if framer.at_chunk and WHOLE_CHUNKS.get(data[: data.find(b"\r\n")]) == len(data):
            return None
        try:
            complete = framer.feed(data)
        except FramingError as error:
            return self.pool.fail(self, Failure("error", "malformed", str(error)))
        return self.pool.complete(self, exchange) if complete else None

    def _other(self, events: int) -> None:
        """Anything but bytes of an answer on a connection that has nothing to send."""
        if not self.connected:
            return self.pool.advance(self)
        if events & OUT and self.unsent is not None:
            self.flush()
        if events & ~OUT and self.connected:
            if self.exchange is None:  # bytes nobody asked for, or the server closed
                self.pool.drop(self)
            elif events != IN:
                self.ready(IN)
        return None

    def flush(self) -> None:
        """Send what is left of the request."""
        assert self.unsent is not None
        waiting, self.unsent = self.unsent, None
        try:
            rest = waiting[self.channel.send(waiting) :]
        except OSError as error:
            return self.lost(error)
        if rest:
            self.unsent = rest
        if bool(rest) != self.writing:
            self.writing = bool(rest)
            self.pool.loop.modify(self.channel.fileno(), IN | (OUT if rest else 0))
        return None

    def lost(self, error: OSError | None) -> None:
        """The peer closed (*error* ``None``) or reset the connection."""
        exchange, pool = self.exchange, self.pool
        pool.drop(self)
        if exchange is None:
            return None
        if not exchange.stamps and exchange.reused:
            pool.closes += 1
            pool.loop.counters.reopened += 1
            exchange.sent_ns = 0
            return pool.fresh(exchange)
        if error is None and exchange.framer.eof():
            return pool.loop.finish(exchange, None)
        how = "closed by the server" if error is None else f"lost ({error.strerror or error})"
        size = sum(exchange.spilled_sizes) + sum(map(len, exchange.reads))
        kind = "mid_stream" if exchange.stamps else "empty"
        text = f"connection {how} after {size} bytes of the answer"
        return pool.loop.finish(exchange, Failure("error", kind, text))


class Http1Pool:
    """Connections to one server. *head* is everything of a request up to the value of Content-Length; *sent* is
    told of each request that went out. With *always_fresh* no connection is used twice."""

    def __init__(
        self,
        loop: Loop,
        connect: Callable[[], Channel],
        head: bytes,
        sent: Callable[[Exchange], None],
        *,
        always_fresh: bool = False,
    ) -> None:
        self.loop, self._connect, self._head, self._sent = loop, connect, head, sent
        self._always_fresh = always_fresh
        self._all: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._sticky: dict[str, Connection] = {}
        self.closes = 0

    @property
    def _keeps(self) -> bool:
        return not self._always_fresh and self.closes < _CLOSES_BEFORE_FRESH

    def warm(self, count: int) -> None:
        """Start opening connections until *count* are idle."""
        if self._keeps:
            for _ in range(count - len(self._idle)):
                with contextlib.suppress(OSError):
                    self._open(None)

    def submit(self, exchange: Exchange) -> None:
        """Send at once on an idle connection, or open one and send when it is ready."""
        affinity = exchange.request.affinity
        wanted = self._sticky.get(affinity) if affinity is not None else None
        if wanted in self._idle:
            connection = wanted
            del self._idle[wanted]
        elif self._idle:
            connection = self._idle.popitem()[0]
        else:
            return self.fresh(exchange)
        connection.exchange = exchange
        exchange.carrier = connection
        exchange.reused = connection.used
        self.loop.counters.reused += connection.used
        return self.send(connection, exchange) if connection.connected else None

    def fresh(self, exchange: Exchange) -> None:
        """Open a connection for *exchange*."""
        try:
            self._open(exchange)
        except OSError as error:
            text = f"cannot connect: {error.strerror or error}"
            self.loop.finish(exchange, Failure("error", "connect", text))

    def _open(self, exchange: Exchange | None) -> None:
        begun = time.perf_counter_ns()
        connection = Connection(self, self._connect(), exchange, begun)
        self.loop.counters.opened += 1
        self._all[connection] = None
        self.loop.register(connection.channel.fileno(), OUT, connection.ready)
        if exchange is not None:
            exchange.reused, exchange.carrier = False, connection
        else:
            self._idle[connection] = None
        self.advance(connection)

    def advance(self, connection: Connection) -> None:
        """Go on connecting; send when that is done."""
        try:
            state = connection.channel.advance()
        except OSError as error:
            exchange = connection.exchange
            self.drop(connection)
            if exchange is not None:
                text = getattr(error, "verify_message", None) or error.strerror or str(error)
                self.loop.finish(exchange, Failure("error", "connect", f"cannot connect: {text}"))
            return
        if state != READY:
            self.loop.modify(connection.channel.fileno(), IN if state == WANT_READ else OUT)
            return
        connection.connected = True
        connection.connect_ms = (time.perf_counter_ns() - connection.begun_ns) / 1e6
        self.loop.modify(connection.channel.fileno(), IN)
        if connection.exchange is not None:
            self.send(connection, connection.exchange)

    def send(self, connection: Connection, exchange: Exchange) -> None:
        """Put the request on the wire; its stamp is taken last before that."""
        exchange.connect_ms = 0.0 if connection.used else connection.connect_ms
        connection.used = True
        request = exchange.request
        if request.affinity is not None:
            self._sticky[request.affinity] = connection
        ident = request.request_id.encode("latin-1")
        body = request.body
        message = b"%b%d\r\nx-request-id: %b\r\n\r\n%b" % (self._head, len(body), ident, body)
        connection.unsent = memoryview(message)
        exchange.sent_ns = time.perf_counter_ns()
        connection.flush()
        # Else it failed, or went out on another connection, which has told it.
        if connection.exchange is exchange:
            self._sent(exchange)

    def complete(self, connection: Connection, exchange: Exchange) -> None:
        """The answer is there: keep the connection if it can be kept, and finish."""
        framer = exchange.framer
        connection.exchange = None
        if self._keeps and framer.keep_alive and not framer.surplus and connection.unsent is None:
            self._idle[connection] = None
        else:
            self.drop(connection)
        self.loop.finish(exchange, None)

    def abort(self, exchange: Exchange, failure: Failure) -> None:
        """End *exchange* from this side; its connection cannot be used again."""
        connection = exchange.carrier
        if connection is not None:
            self.fail(connection, failure)
        else:
            self.loop.finish(exchange, failure)

    def fail(self, connection: Connection, failure: Failure) -> None:
        """Close, and end the exchange on it."""
        exchange = connection.exchange
        self.drop(connection)
        if exchange is not None:
            self.loop.finish(exchange, failure)

    def drop(self, connection: Connection) -> None:
        """Close and forget a connection."""
        self._all.pop(connection, None)
        self._idle.pop(connection, None)
        self.loop.forget(connection.channel.fileno())
        connection.channel.close()
        connection.connected, connection.exchange, connection.unsent = False, None, None

    def close_idle(self) -> None:
        """Close connections that carry no request."""
        for connection in [one for one in self._all if one.exchange is None]:
            self.drop(connection)
        self._sticky.clear()
