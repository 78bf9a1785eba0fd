"""One epoll and what its descriptors belong to: the ground the connections of every protocol stand on.

Belongs here: waiting, handing events to whom they belong, the end of an exchange, counters.
Does not belong here: protocols (``http1_pool``, ``http2``), timeouts and planned cancels (``client``).
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loadgen.clock import KernelClock
from loadgen.exchange import Exchange, Failure
from loadgen.http1 import Framer

IN, OUT = select.EPOLLIN, select.EPOLLOUT
_SPENT = Framer()  # stands in for the framer of a finished exchange


@dataclass(slots=True)
class Counters:
    """Counts over the client's life. ``reads`` are socket reads that brought bytes of an answer; a read without
    a trustworthy kernel stamp counts in ``clock_fallbacks``, a set wall clock in ``clock_jumps``."""

    opened: int = 0
    reused: int = 0
    reopened: int = 0
    reads: int = 0
    clock_fallbacks: int = 0
    clock_jumps: int = 0


class Pool(Protocol):
    """The connections to one server."""

    def warm(self, count: int) -> None:
        """Start opening connections until *count* requests could be sent at once."""

    def submit(self, exchange: Exchange) -> None:
        """Send, or connect and send then."""

    def abort(self, exchange: Exchange, failure: Failure) -> None:
        """End *exchange*, which is in flight here, from this side."""

    def close_idle(self) -> None:
        """Close connections that carry no request."""


class Loop:
    """``done`` are finished exchanges not yet fetched, ``in_flight`` the others by ``id()``."""

    def __init__(self, clock: KernelClock | None) -> None:
        self.clock = clock
        self.done: list[Exchange] = []
        self.in_flight: dict[int, Exchange] = {}
        self.counters = Counters()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def register(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call *handler* with the events of *descriptor*; some may be of an earlier owner of its number."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other *events* from now on."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def poll(self, timeout_s: float) -> int:
        """Handle what is ready; how many descriptors were."""
        handlers = self._handlers
        ready = self._epoll.poll(timeout_s)
        for descriptor, events in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler(events)
        return len(ready)

    def finish(self, exchange: Exchange, failure: Failure | None) -> None:
        """The one end of an exchange."""
        exchange.end_ns = time.perf_counter_ns()
        exchange.failure = failure
        exchange.http_status = exchange.framer.status
        exchange.framer = _SPENT
        exchange.carrier = None
        del self.in_flight[id(exchange)]
        self.done.append(exchange)

    def close(self) -> None:
        """Release the descriptor."""
        self._epoll.close()
