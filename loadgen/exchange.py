"""One request and the raw bytes of its answer: what passes from the hot path to the decoder.

Belongs here: the record the client fills while the clock runs. All times are ``perf_counter_ns``
(CLOCK_MONOTONIC).
Does not belong here: interpretation of the bytes (``decode``), the kept row (``samples``).
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import Any

from loadgen.clock import KernelClock
from loadgen.http1 import Framer
from loadgen.plan import Replica


@dataclass(slots=True)
class Request:
    """What is sent: body bytes, the prompt inside them, and what was asked for (tokens).

    ``model`` is the label of the row (``None``: the plan's model). ``cancel_after_ns`` is how long after the
    send the harness cancels by plan. Requests of one ``affinity`` share a connection while it is idle.
    """

    seq: int
    request_id: str
    body: bytes
    prompt: bytes
    input_tokens: int | None
    output_tokens: int | None
    model: str | None = None
    session_id: str | None = None
    turn: int | None = None
    cancel_after_ns: int | None = None
    affinity: str | None = None
    stored_prompt_hash: str | None = None  # of a request read back from disk, whose prompt is not kept

    @property
    def prompt_hash(self) -> str:
        """The first 16 hexadecimal digits of the prompt's SHA-256."""
        return self.stored_prompt_hash or hashlib.sha256(self.prompt).hexdigest()[:16]


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

    ``stamps``, ``lags_ns`` and ``reads`` run in parallel, one entry a socket read with bytes of this answer.
    A stamp is the kernel's where ``lags_ns`` (user stamp minus kernel stamp) is 0 or more, and the user's
    where it is -1. The first reads of a long answer may have left memory: the spool knows them by ``spilled``,
    their sizes are ``spilled_sizes``. ``clock`` is that of the kernel's stamps. ``phase`` names what
    is no part of a step's load (``canary``, ``calibration``). ``carrier`` is the connection's business.
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
    lags_ns: array[int] = field(default_factory=lambda: array("q"))
    reads: list[bytes] = field(default_factory=list)
    framer: Framer = field(default_factory=Framer)
    http_status: int = 0
    failure: Failure | None = None
    phase: str | None = None
    planned_cancel: bool = False
    spilled: list[tuple[int, int, int]] = field(default_factory=list)
    spilled_sizes: array[int] = field(default_factory=lambda: array("I"))
    clock: KernelClock | None = None
    carrier: Any = None

    @property
    def reference_ns(self) -> int:
        """The arrival ``a`` latencies count from; for a request never sent in a closed loop, when it was
        begun."""
        return self.scheduled_ns or self.sent_ns or self.begun_ns

    @property
    def finish_ns(self) -> int:
        """When it ended: the last read of an answer that came to its end, else when that was noticed."""
        return self.stamps[-1] if self.failure is None and self.stamps else self.end_ns

    @property
    def kernel_stamped(self) -> bool:
        """Whether every read was stamped by the kernel."""
        return bool(self.lags_ns) and min(self.lags_ns) >= 0
