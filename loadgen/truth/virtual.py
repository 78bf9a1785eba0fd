"""The ground-truth server in virtual time: the production schedule in, samples of the production schema out.

Belongs here: K slots that serve first come, first served, with laws of first token and gap; open and closed steps; rows
as ``samples`` writes them. Does not belong here: sockets (``server``), laws (``laws``), what is computed from samples.

A statistical rule is tested on hundreds of runs whose truth is known; in real time that would take days. Here a request
takes microseconds, and the drawing of arrivals before it and everything after it is the code that real runs use.
Requests are served as the real server serves them: one draw of each law per request, in order of arrival.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from loadgen.samples import sample_schema
from loadgen.schedule import arrivals, child_seed
from loadgen.truth.laws import Law, child

if TYPE_CHECKING:
    import pyarrow as pa

NS = 1_000_000_000
EPOCH_NS = 1_780_000_000 * NS
"""UTC at which a virtual step's warm-up starts."""


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """*slots* requests at a time (``None``: any number); ``ttft_ms`` is from the start of service to the first token,
    ``gap_ms`` between tokens, one draw a request; *tokens* an answer. ``pace`` multiplies both by its value at the
    start of service, in seconds since the window began."""

    ttft_ms: Law
    gap_ms: Law = field(default_factory=lambda: Law.parse("const:0"))
    tokens: int = 1
    slots: int | None = 1
    pace: Callable[[float], float] | None = None


@dataclass(frozen=True, slots=True)
class VirtualStep:
    """Times of one step in seconds; load goes on through the tail, at whose end what is left is cut."""

    window_s: float
    warmup_s: float = 0.0
    tail_s: float = 0.0


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """``samples`` as in ``raw_samples`` and the step's ``shard.json``."""

    samples: pa.Table
    shard: dict[str, Any]


def run_open(
    server: VirtualServer, step: VirtualStep, arrival: str, rate_per_s: float, seed: int
) -> VirtualRun:
    """An open step: arrivals as ``loadgen.schedule`` draws them for *seed*."""
    due = arrivals(
        arrival, rate_per_s, step.warmup_s + step.window_s + step.tail_s, child_seed(seed, "arrival", 0)
    )
    serve = _Service(server, step, seed)
    answers = [(at, *serve(at)) for at in due]
    return _recorded(answers, server, step, "open", rate_per_s, arrival)


def run_closed(server: VirtualServer, step: VirtualStep, users: int, seed: int) -> VirtualRun:
    """A closed step: *users* send again as soon as they have their answer."""
    serve = _Service(server, step, seed)
    end = round((step.warmup_s + step.window_s + step.tail_s) * NS)
    ready = [(0, user) for user in range(users)]
    answers = []
    while ready and ready[0][0] < end:
        at, user = heapq.heappop(ready)
        first, gap = serve(at)
        answers.append((at, first, gap))
        heapq.heappush(ready, (first + gap * (server.tokens - 1), user))
    return _recorded(answers, server, step, "closed", float(users), "none")


class _Service:
    """Called with each request's arrival, in order; gives the time of its first token and its gap, in ns."""

    def __init__(self, server: VirtualServer, step: VirtualStep, seed: int) -> None:
        self._pace, self._gaps = server.pace, server.tokens - 1
        self._ttft, self._gap = _drawing(server.ttft_ms, seed, "ttft"), _drawing(server.gap_ms, seed, "gap")
        self._free = [0] * server.slots if server.slots else None
        self._measure = round(step.warmup_s * NS)

    def __call__(self, at: int) -> tuple[int, int]:
        free = self._free
        start = at if free is None or free[0] <= at else free[0]
        scale = 1e6 if self._pace is None else 1e6 * self._pace((start - self._measure) / NS)
        first, gap = start + round(self._ttft() * scale), round(self._gap() * scale)
        if free is not None:
            heapq.heapreplace(free, first + gap * self._gaps)
        return first, gap


def _drawing(law: Law, seed: int, purpose: str) -> Callable[[], float]:
    """Draws of *law*, ms, from the generator that the real server gives this *purpose*."""
    value = law.constant
    return partial(law.draw, child(seed, purpose)) if value is None else lambda: value


def _recorded(
    answers: list[tuple[int, int, int]],
    server: VirtualServer,
    step: VirtualStep,
    load_kind: str,
    load_value: float,
    arrival: str,
) -> VirtualRun:
    import numpy as np
    import pyarrow as pa

    times = np.array(answers, dtype=np.int64).reshape(-1, 3)
    due, first, gap = times.T
    edges = np.cumsum(np.rint(np.array([0.0, step.warmup_s, step.window_s, step.tail_s]) * NS)).astype(
        np.int64
    )
    last, cut = first + gap * (server.tokens - 1), edges[3]
    ok = last < cut
    stamps = first[:, None] + gap[:, None] * np.arange(server.tokens)
    came = stamps < cut
    chunks = came.sum(axis=1)
    starts = pa.array(np.concatenate(([0], np.cumsum(chunks))).astype(np.int32))
    offsets = ((stamps - due[:, None]) // 1000)[came].astype(np.uint32)
    phase = np.array(["warmup", "measure", "tail"])[np.searchsorted(edges[1:3], due, side="right")]

    def ms(span: Any, known: Any) -> pa.Array:
        return pa.array(span / 1e6, mask=~known)

    size = len(answers)
    seen = chunks > 0
    spread = ok & (chunks > 1)
    columns: dict[str, Any] = {
        "run_id": pa.repeat("virtual", size),
        "shard": pa.repeat(0, size),
        "step_index": pa.repeat(0, size),
        "seq": np.arange(size),
        "request_id": [f"virtual-0-{index}" for index in range(size)],
        "phase": phase,
        "model": pa.repeat("truth", size),
        "scheduled_at": due + EPOCH_NS,
        "sent_at": due + EPOCH_NS,
        "ttft_ms": ms(first - due, seen),
        "ttft_from_send_ms": ms(first - due, seen),
        "e2e_ms": ms(last - due, ok),
        "e2e_from_send_ms": ms(last - due, ok),
        "tail_ms": ms(np.zeros(size), ok),
        "ended_ms": ms(np.minimum(last, cut) - due, np.ones(size, dtype=bool)),
        "send_lag_ms": np.zeros(size),
        "tpot_ms": ms((last - first) / max(1, server.tokens - 1), spread),
        "chunk_offset_us": pa.ListArray.from_arrays(starts, pa.array(offsets)),
        "chunk_tokens": pa.ListArray.from_arrays(starts, pa.array(np.ones(offsets.size, dtype=np.uint16))),
        "shared_chunks": pa.repeat(0, size),
        "output_tokens_requested": pa.repeat(server.tokens, size),
        "input_tokens": pa.repeat(1, size),
        "output_tokens": pa.array(np.full(size, server.tokens), mask=~ok),
        "token_count_source": pa.repeat("usage", size),
        "status": np.where(ok, "ok", "cancelled"),
        "prompt_hash": pa.repeat("0" * 16, size),
    }
    schema = sample_schema()
    arrays = [
        pa.array(columns[column.name]).cast(column.type)
        if column.name in columns
        else pa.nulls(size, type=column.type)
        for column in schema
    ]
    measured = int((phase == "measure").sum())
    starts_ns = dict(
        zip(("warmup", "measure", "tail", "end"), (int(at) + EPOCH_NS for at in edges), strict=True)
    )
    recorded = {
        "step_index": 0,
        "load_kind": load_kind,
        "load_value": load_value,
        "arrival": arrival,
        "phase_starts_ns": starts_ns,
        "measure_end_ns": starts_ns["tail"],
        "requests_scheduled_in_window": measured,
        "cut": int((~ok).sum()),
    }
    return VirtualRun(pa.Table.from_arrays(arrays, schema=schema), {"complete": True, "steps": [recorded]})
