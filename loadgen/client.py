"""Requests out, stamped bytes in: the client of a load, whatever protocol carries it.

Belongs here: which connections serve which replica, request and idle timeouts, planned cancels, cutting
what is left.
Does not belong here: when to send what (``steps``), what answers mean (``decode``), connections
(``http1_pool``, ``http2``). Nothing here parses JSON or retries.
"""

from __future__ import annotations

import heapq
import re
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial

from loadgen.clock import KernelClock
from loadgen.exchange import Exchange, Failure
from loadgen.http1_pool import Http1Pool
from loadgen.loop import Counters, Loop, Pool
from loadgen.plan import PlanError, Replica
from loadgen.proxy import Proxy
from loadgen.transport import Channel, Origin, PlainChannel, TlsChannel, resolve

NS = 1_000_000_000
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Client:
    """Sends exchanges and finishes each exactly once, through :attr:`done`.

    *headers* go with every request (secrets included: they are sent and never kept). Times in seconds.
    *api* is ``chat`` or ``completions``. With *kernel_stamps* plain connections are stamped by the kernel, whose
    clock is *clock* (``None``: a new one).
    *fresh* makes a new connection for every request. *proxy* is the URL of an HTTP proxy, whose credentials
    are sent and never kept. *http_version* is ``1.1`` or ``2``: many requests on one connection.
    Raises ``PlanError`` for what cannot be, ``ConnectionError`` for a host nobody knows.
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
        clock: KernelClock | None = None,
        fresh: bool = False,
        proxy: str | None = None,
        http_version: str = "1.1",
    ) -> None:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise PlanError(
                    f"headers: {name!r} cannot be sent; a name is letters and dashes, a value printable ASCII"
                )
        path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
        self.clock = (clock or KernelClock()) if kernel_stamps else None
        self._loop = Loop(self.clock)
        plain = all(replica.base_url.startswith("http:") for replica in replicas)
        self.stamped_by_kernel = self.clock is not None and plain and http_version == "1.1"
        self._request_ns, self._idle_ns = int(request_timeout_s * NS), int(idle_timeout_s * NS)
        self._cancels: list[tuple[int, int, Exchange]] = []
        self._order = 0
        self._context: ssl.SSLContext | None = None
        self._pools: dict[Replica, Pool] = {}
        through = Proxy.parse(proxy) if proxy is not None else None
        for replica in replicas:
            origin = resolve(replica.base_url)
            target = f"{origin.path}{path}"
            connect = partial(self._connect, origin, through, http_version)
            if http_version == "2":
                from loadgen.http2 import Http2Pool

                self._pools[replica] = Http2Pool(
                    self._loop, connect, origin, target, headers, self._sent, always_fresh=fresh
                )
                continue
            extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            if through is not None and not origin.tls:
                target = f"http://{origin.authority}{target}"
                extra += through.head_line()
            head = (
                f"POST {target} HTTP/1.1\r\nHost: {origin.authority}\r\nContent-Type: application/json\r\n"
                f"Accept: text/event-stream, application/json\r\n{extra}Content-Length: "
            )
            self._pools[replica] = Http1Pool(
                self._loop, connect, head.encode("latin-1"), self._sent, always_fresh=fresh
            )

    def _connect(self, origin: Origin, proxy: Proxy | None, http_version: str) -> Channel:
        """Start connecting to *origin*; raises ``OSError`` when that fails at once."""
        via = (proxy.family, proxy.address) if proxy is not None else None
        tunnel = proxy.tunnel(origin) if proxy is not None and (origin.tls or http_version == "2") else None
        if not origin.tls:
            return PlainChannel(origin, self.clock, via, tunnel)
        alpn = "h2" if http_version == "2" else None
        if self._context is None:
            self._context = ssl.create_default_context()
            if alpn is not None:
                self._context.set_alpn_protocols([alpn])
        return TlsChannel(origin, self._context, via, tunnel, alpn)

    @property
    def done(self) -> list[Exchange]:
        """Finished exchanges; whoever takes them puts an empty list in their place."""
        return self._loop.done

    @done.setter
    def done(self, value: list[Exchange]) -> None:
        self._loop.done = value

    @property
    def in_flight(self) -> dict[int, Exchange]:
        """Exchanges submitted and not finished, by ``id()``."""
        return self._loop.in_flight

    @property
    def counters(self) -> Counters:
        """The counts up to now."""
        counters = self._loop.counters
        if self.clock is not None:
            counters.clock_fallbacks = self.clock.fallbacks
            counters.clock_jumps = len(self.clock.jumps)
        return counters

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call *callback* when *descriptor* becomes readable: the loop's timer."""
        self._loop.register(descriptor, 1, lambda _: callback())

    def warm(self, count: int) -> None:
        """Start opening idle connections until each replica has its share of *count*."""
        for index, pool in enumerate(self._pools.values()):
            pool.warm(count // len(self._pools) + (index < count % len(self._pools)))

    def submit(self, exchange: Exchange) -> None:
        """Send at once on an idle connection, or open one and send when it is ready."""
        exchange.begun_ns = time.perf_counter_ns()
        exchange.clock = self.clock
        self._loop.in_flight[id(exchange)] = exchange
        self._pools[exchange.replica].submit(exchange)

    def poll(self, timeout_s: float = -1) -> int:
        """Handle what is ready, and say how many connections were; finished exchanges are appended to
        :attr:`done`."""
        return self._loop.poll(timeout_s)

    def _sent(self, exchange: Exchange) -> None:
        wait_ns = exchange.request.cancel_after_ns
        if wait_ns is not None:
            self._order += 1
            heapq.heappush(self._cancels, (exchange.sent_ns + wait_ns, self._order, exchange))

    def next_due_ns(self) -> int | None:
        """When the next planned cancel is due; ``None``: no request in flight has one."""
        while self._cancels and not self._stands(*self._cancels[0]):
            heapq.heappop(self._cancels)
        return self._cancels[0][0] if self._cancels else None

    def _stands(self, due_ns: int, _: int, exchange: Exchange) -> bool:
        """Whether a planned cancel is still to be: its request is in flight, and was not sent anew since."""
        wait_ns = exchange.request.cancel_after_ns or 0
        return id(exchange) in self._loop.in_flight and exchange.sent_ns + wait_ns == due_ns

    def fire_due(self, now_ns: int) -> None:
        """Cancel every request whose planned cancel is due by *now_ns*."""
        while (due := self.next_due_ns()) is not None and due <= now_ns:
            exchange = heapq.heappop(self._cancels)[2]
            exchange.planned_cancel = True
            after_ms = (exchange.request.cancel_after_ns or 0) / 1e6
            self._abort(exchange, Failure("cancelled", None, f"cancelled after {after_ms:g} ms, as planned"))

    def sweep(self, now_ns: int) -> None:
        """End requests that took too long as a whole, or fell silent in the middle of their answer."""
        for exchange in list(self._loop.in_flight.values()):
            if now_ns - exchange.begun_ns > self._request_ns:
                text = f"no end within {self._request_ns / NS:g} s"
            elif (
                exchange.stamps
                and now_ns - exchange.stamps[-1] - max(0, exchange.lags_ns[-1]) > self._idle_ns
            ):
                text = f"silent for {self._idle_ns / NS:g} s"
            else:
                continue
            self._abort(exchange, Failure("timeout", "timeout", text))

    def cut(self, text: str) -> None:
        """End everything in flight as cancelled."""
        for exchange in list(self._loop.in_flight.values()):
            self._abort(exchange, Failure("cancelled", None, text))

    def _abort(self, exchange: Exchange, failure: Failure) -> None:
        self._pools[exchange.replica].abort(exchange, failure)

    def close_idle(self) -> None:
        """Close connections that carry no request: between two steps a server may count them as busy."""
        for pool in self._pools.values():
            pool.close_idle()

    def close(self) -> None:
        """Close everything; the client can no longer be used."""
        self.cut("the generator was closed")
        self.close_idle()
        self._loop.close()
