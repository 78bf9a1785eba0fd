"""The samples of one step as flat arrays: who arrived in the window, when things happened, gaps between token
chunks.

Belongs here: reading ``raw_samples`` columns into numpy and the populations of rule M9. Does not belong here:
what is computed from them (``metrics``, ``slo``, ``validity``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Array = NDArray[Any]
LOAD_PHASES = ("warmup", "measure", "tail")


def load_label(load_kind: str, load_value: float) -> str:
    """A step's load in words: ``C=4`` for four in flight, ``5 req/s`` for five arrivals a second."""
    return f"C={load_value:g}" if load_kind == "closed" else f"{load_value:g} req/s"


@dataclass(frozen=True, slots=True)
class StepWindow:
    """One step of a ladder and its steady window W ``[start_ns, end_ns)``, UTC nanoseconds, chosen before the
    run.

    ``requests_scheduled`` counts arrivals planned in W over all shards.
    """

    step_index: int
    load_kind: str
    load_value: float
    arrival: str
    start_ns: int
    end_ns: int
    requests_scheduled: int

    @property
    def seconds(self) -> float:
        """Length of W."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def label(self) -> str:
        """The step as people name it: ``C=4`` (closed loop) or ``5 req/s`` (open loop)."""
        return load_label(self.load_kind, self.load_value)


def step_windows(shards: Sequence[Mapping[str, Any]]) -> tuple[StepWindow, ...]:
    """The windows all shards have in common, by step, from their ``shard.json`` documents.

    Load values and scheduled requests of shards add up; a step that some shard never reached is left out.
    """
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for shard in shards:
        for step in shard["steps"]:
            by_step.setdefault(int(step["step_index"]), []).append(step)
    return tuple(
        StepWindow(
            step_index=index,
            load_kind=steps[0]["load_kind"],
            load_value=float(sum(s["load_value"] for s in steps)),
            arrival=steps[0]["arrival"],
            start_ns=max(int(s["phase_starts_ns"]["measure"]) for s in steps),
            end_ns=min(int(s["measure_end_ns"]) for s in steps),
            requests_scheduled=sum(int(s["requests_scheduled_in_window"]) for s in steps),
        )
        for index, steps in sorted(by_step.items())
        if len(steps) == len(shards) and all(s.get("measure_end_ns") for s in steps)
    )


class Frame:
    """One step's requests in arrival order. Numbers are float64, null as NaN; times int64 nanoseconds UTC."""

    def __init__(self, samples: pa.Table, window: StepWindow) -> None:
        step = samples.filter(
            pc.and_(
                pc.equal(samples["step_index"], window.step_index),
                pc.is_in(samples["phase"].cast(pa.string()), pa.array(LOAD_PHASES)),
            )
        )
        scheduled = _integers(step, "scheduled_at")
        if scheduled.size and np.any(np.diff(scheduled) < 0):
            step = step.take(pa.array(np.argsort(scheduled, kind="stable")))
        self._table = step
        self.window = window
        self.sent_ns = _integers(step, "sent_at")
        self.ok = self.says("status", "ok")
        self.arrived = self.says("phase", "measure")
        """The latency population: requests whose scheduled arrival lies in W. One that the client cut after
        the longest
        tail is a censored failure (M10), not an absent one."""

    def numbers(self, name: str) -> Array:
        """Column *name* as float64, null as NaN."""
        return np.asarray(
            self._table[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False),
            dtype=np.float64,
        )

    def says(self, name: str, word: str) -> Array:
        """Where the text column *name* is *word*."""
        matches = pc.fill_null(pc.equal(self._table[name].cast(pa.string()), word), False)
        return np.asarray(matches.to_numpy(), dtype=bool)

    def words(self, name: str) -> list[str | None]:
        """Column *name* as Python strings."""
        return list(self._table[name].cast(pa.string()).to_pylist())

    @cached_property
    def chunk_counts(self) -> Array:
        """Token chunks of every request, int64."""
        lengths = pc.fill_null(pc.list_value_length(self._table["chunk_offset_us"]), 0)
        return np.asarray(lengths.to_numpy(), dtype=np.int64)

    @cached_property
    def chunk_offsets_us(self) -> Array:
        """All chunk stamps since send, request after request, uint32 microseconds."""
        return _flat(self._table, "chunk_offset_us")

    @cached_property
    def chunk_tokens(self) -> Array:
        """Tokens of every chunk, uint16."""
        return _flat(self._table, "chunk_tokens")

    @cached_property
    def chunk_starts(self) -> Array:
        """Where each request's chunks begin in the flat arrays, int64, one more than requests."""
        return np.concatenate(([0], np.cumsum(self.chunk_counts)))

    def tokens_by_request(self) -> Array:
        """Sum of chunk tokens of every request, int64."""
        sums = np.zeros(self.ok.size, dtype=np.int64)
        filled = self.chunk_counts > 0
        if filled.any():
            sums[filled] = np.add.reduceat(self.chunk_tokens, self.chunk_starts[:-1][filled], dtype=np.int64)
        return sums

    def tokens_in_window(self) -> Array:
        """Tokens of every request whose chunk arrived in W by absolute time, whatever the request's phase."""
        tokens = self.tokens_by_request()
        starts = self.chunk_starts
        first, last = self._edges_ns()
        inside = (first >= self.window.start_ns) & (last < self.window.end_ns)
        outside = (last < self.window.start_ns) | (first >= self.window.end_ns)
        tokens[outside | (self.chunk_counts == 0)] = 0
        for i in np.flatnonzero(
            ~inside & ~outside & (self.chunk_counts > 0)
        ):  # only those that straddle an edge
            span = slice(starts[i], starts[i + 1])
            stamps = self.sent_ns[i] + self.chunk_offsets_us[span].astype(np.int64) * 1000
            held = (stamps >= self.window.start_ns) & (stamps < self.window.end_ns)
            tokens[i] = int(self.chunk_tokens[span][held].sum())
        return tokens

    def first_token_in_window(self) -> Array:
        """Whether the first token chunk of each request arrived in W."""
        first, _ = self._edges_ns()
        return (self.chunk_counts > 0) & self.holds(first)

    def _edges_ns(self) -> tuple[Array, Array]:
        """Absolute times of first and last chunk; of a request without chunks both are its send."""
        first, last = self.sent_ns.copy(), self.sent_ns.copy()
        filled = self.chunk_counts > 0
        at = self.chunk_starts
        first[filled] += self.chunk_offsets_us[at[:-1][filled]].astype(np.int64) * 1000
        last[filled] += self.chunk_offsets_us[at[1:][filled] - 1].astype(np.int64) * 1000
        return first, last

    def holds(self, times_ns: Array) -> Array:
        """Which of *times_ns* lie in W."""
        return (times_ns >= self.window.start_ns) & (times_ns < self.window.end_ns)

    def finished_ns(self) -> Array:
        """When each request's last token came: ``sent_at + e2e_from_send_ms``, else its last chunk."""
        _, last = self._edges_ns()
        life = self.numbers("e2e_from_send_ms")
        known = ~np.isnan(life)
        last[known] = self.sent_ns[known] + np.rint(life[known] * 1e6).astype(np.int64)
        return last

    def gaps(self, chosen: Array) -> tuple[Array, Array, Array]:
        """``(gap_us, tokens, gaps_per_request)`` between consecutive chunks of the *chosen* requests.

        Gaps are uint32 microseconds; ``tokens`` are those of the chunk that ends the gap; requests of fewer
        than two chunks count 0 gaps.
        """
        sizes = self.chunk_counts
        take = np.repeat(chosen, sizes) if not chosen.all() else slice(None)
        offsets, tokens = self.chunk_offsets_us[take], self.chunk_tokens[take]
        sizes = sizes[chosen]
        if offsets.size < 2:
            return offsets[:0], tokens[:0], np.zeros(sizes.size, dtype=np.int64)
        inner = np.ones(offsets.size - 1, dtype=bool)
        boundaries = np.cumsum(sizes[sizes > 0])[:-1] - 1
        inner[boundaries] = False
        return np.diff(offsets)[inner], tokens[1:][inner], np.maximum(sizes - 1, 0)


def frames(samples: pa.Table, windows: Iterable[StepWindow]) -> list[Frame]:
    """One frame for every window."""
    return [Frame(samples, window) for window in windows]


def _integers(table: pa.Table, name: str) -> Array:
    column = table[name].combine_chunks()
    return np.asarray(
        pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), dtype=np.int64
    )  # null: the epoch, in no W


def _flat(table: pa.Table, name: str) -> Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # more than 2^31 values do not fit one list array
        return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return np.asarray(column.flatten().to_numpy())
