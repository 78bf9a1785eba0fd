"""One request and the raw bytes of its answer: what passes from the hot path to the decoder.

Belongs here: the record the client fills while the clock runs. All times are ``perf_counter_ns``
(CLOCK_MONOTONIC).
Does not belong here: interpretation of the bytes (``decode``), the kept row (``samples``).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from loadgen.http1 import Framer
from loadgen.plan import Replica


@dataclass(slots=True)
class Request:
    """What is sent: body bytes, the prompt inside them, and what was asked for (tokens)."""

    seq: int
    request_id: str
    body: bytes
    prompt: bytes
    input_tokens: int | None
    output_tokens: int | None


@dataclass(slots=True)
class Failure:
    """Why a request failed on the wire: a ``status`` and ``error_class`` of the samples' schema, and one
    line of text."""

    status: str
    error_class: str | None
    text: str


@dataclass(slots=True)
class Exchange:
    """One request on its way. ``scheduled_ns`` 0 means a := s (closed loop); ``sent_ns`` 0 means never
    sent.

    ``stamps``, ``lags_us`` and ``reads`` run in parallel, one entry a socket read; ``lags_us`` (user stamp
    minus kernel stamp) stays empty where stamps are taken in user space.
    """

    request: Request
    replica: Replica
    stream: bool
    scheduled_ns: int = 0
    begun_ns: int = 0
    sent_ns: int = 0
    end_ns: int = 0
    connect_ms: float | None = None
    reused: bool | None = None
    stamps: array[int] = field(default_factory=lambda: array("q"))
    lags_us: array[int] = field(default_factory=lambda: array("q"))
    reads: list[bytes] = field(default_factory=list)
    framer: Framer = field(default_factory=Framer)
    http_status: int = 0
    failure: Failure | None = None

    @property
    def reference_ns(self) -> int:
        """The arrival ``a`` latencies count from; for a request never sent in a closed loop, when it was
        begun."""
        return self.scheduled_ns or self.sent_ns or self.begun_ns

    @property
    def kernel_stamped(self) -> bool:
        """Whether every read was stamped by the kernel."""
        return bool(self.stamps) and len(self.lags_us) == len(self.stamps)
