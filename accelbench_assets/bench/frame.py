"""The samples of one step: who arrived in the window, when things happened, which chunks came.

Belongs here: reading ``raw_samples`` columns into numpy and the populations of rule M9. Does not belong here: passes
over millions of chunks (``chunks``), what is computed from samples (``metrics``, ``slo``, ``validity``).

Samples are a table in memory or a dataset on disk, never copied as a whole: a column is converted when asked for, and
chunk lists are read in batches. Columns that a file of an older schema lacks read as null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from accelbench_assets.bench.chunks import Block, Survey, blocks, survey

Array = NDArray[Any]
Samples: TypeAlias = "pa.Table | ds.Dataset"
LOAD_PHASES = ("warmup", "measure", "tail")
BATCHES = 20
"""Equal parts of W, the grain of S5 and S6."""
_BULKY = (
    "chunk_offset_us",
    "chunk_tokens",
    "run_id",
    "request_id",
    "prompt_hash",
    "answer_hash",
    "error_text",
)
_BATCH_ROWS = 1024  # with answers of some hundred chunks a block stays in the processor's cache
HOLD_BYTES = 1 << 30
"""Gaps of a run's steps that are kept between two passes over them; more are read twice."""


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
    def edges_ns(self) -> Array:
        """The 21 edges of the 20 equal batches of W, int64 UTC nanoseconds."""
        parts = np.arange(BATCHES + 1, dtype=np.int64)
        return self.start_ns + -(-parts * (self.end_ns - self.start_ns) // BATCHES)

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

    def __init__(self, samples: Samples, window: StepWindow, hold_bytes: int = HOLD_BYTES) -> None:
        # A table is read again for nothing.
        self.hold_bytes = hold_bytes if isinstance(samples, ds.Dataset) else 0
        if isinstance(samples, ds.Dataset):
            samples = samples.filter(pc.field("step_index") == window.step_index)
            scalars = samples.to_table(columns=[n for n in samples.schema.names if n not in _BULKY])
        else:
            scalars = samples
        self.window = window
        taken = _equal(scalars, "step_index", window.step_index)
        taken &= np.logical_or.reduce([_equal(scalars, "phase", phase) for phase in LOAD_PHASES])
        rows = np.flatnonzero(taken)
        low, high = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
        self._samples, self._low = samples, low
        self._scalars = scalars.slice(low, high - low)
        self._taken = taken[low:high]  # rows of the slice that are this step's load
        rows -= low
        scheduled = _integers(self._scalars["scheduled_at"])[rows]
        if np.any(np.diff(scheduled) < 0):
            rows = rows[np.argsort(scheduled, kind="stable")]
        self._rows = rows
        self.due_ns: Array = _integers(self._scalars["scheduled_at"])[rows]
        """When each request was due, ascending."""
        self.sent_ns: Array = _integers(self._scalars["sent_at"])[rows]
        """When each request was sent; one that never was has the epoch, which lies in no W."""
        self.ok = self.says("status", "ok")
        self.arrived = self.says("phase", "measure")
        """Requests whose scheduled arrival lies in W. One that the client cut after the longest tail is a censored
        failure (M10), not an absent one."""
        self.planned_cancels = self.says("status", "cancelled") & ~np.isnan(self.numbers("planned_cancel_ms"))
        """Requests that the workload itself cancelled: neither answered nor failed."""
        self.judged = self.arrived & ~self.planned_cancels
        """The latency population: arrivals in W less planned cancels."""

    def numbers(self, name: str) -> Array:
        """Column *name* as float64, null as NaN; all NaN when the samples have no such column."""
        if name not in self._scalars.schema.names:
            return np.full(self._rows.size, np.nan)
        column = self._scalars[name].cast(pa.float64())
        return np.asarray(column.to_numpy(), dtype=np.float64)[self._rows]

    def says(self, name: str, word: str) -> Array:
        """Where the text column *name* is *word*."""
        return _equal(self._scalars, name, word)[self._rows]

    def words(self, name: str) -> list[str | None]:
        """Column *name* as Python strings."""
        column = self._scalars[name].cast(pa.string()).combine_chunks()
        return list(column.take(pa.array(self._rows)).to_pylist())

    @cached_property
    def survey(self) -> Survey:
        """What one pass over all chunks tells; see ``chunks``."""
        return survey(self)

    def blocks(self) -> Iterator[Block]:
        """The chunk lists of this step in storage order, some thousand requests at a time."""
        if isinstance(self._samples, ds.Dataset):
            batches = self._samples.to_batches(
                columns=["chunk_offset_us", "chunk_tokens"],
                batch_size=_BATCH_ROWS,
                batch_readahead=4,
                fragment_readahead=2,
            )
        else:
            part = self._scalars.select(["chunk_offset_us", "chunk_tokens"])
            batches = part.to_batches(max_chunksize=_BATCH_ROWS)
        skip = self._low if isinstance(self._samples, ds.Dataset) else 0
        return blocks(batches, self._taken, skip)

    def stored(self, values: Array) -> Array:
        """*values* of the requests, put from arrival order into storage order (that of ``blocks``)."""
        found = np.empty_like(values)
        found[self._ranks] = values
        return found

    def arranged(self, values: Array) -> Array:
        """*values* of the requests, put from storage order into arrival order."""
        return values[self._ranks]

    @cached_property
    def _ranks(self) -> Array:
        return np.cumsum(self._taken)[self._rows] - 1

    @property
    def chunk_counts(self) -> Array:
        """Token chunks of every request, int64."""
        return self.survey.chunks

    @cached_property
    def _flat(self) -> tuple[Array, Array]:
        found = list(self.blocks())
        if not found:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint16)
        offsets, tokens = (
            np.concatenate([getattr(b, name) for b in found]) for name in ("offsets_us", "tokens")
        )
        ranks = self._ranks
        if np.all(np.diff(ranks) > 0):
            return offsets, tokens
        starts = np.concatenate(([0], np.cumsum(self.stored(self.chunk_counts))))[:-1][ranks]
        within = np.arange(offsets.size) - np.repeat(self.chunk_starts[:-1], self.chunk_counts)
        order = np.repeat(starts, self.chunk_counts) + within
        return offsets[order], tokens[order]

    @property
    def chunk_offsets_us(self) -> Array:
        """All chunk stamps since send, request after request, uint32 microseconds: in memory, so for small runs."""
        return self._flat[0]

    @property
    def chunk_tokens(self) -> Array:
        """Tokens of every chunk, uint16: in memory, so for small runs."""
        return self._flat[1]

    @cached_property
    def chunk_starts(self) -> Array:
        """Where each request's chunks begin in the flat arrays, int64, one more than requests."""
        return np.concatenate(([0], np.cumsum(self.chunk_counts)))

    def tokens_by_request(self) -> Array:
        """Sum of chunk tokens of every request, int64."""
        return self.survey.tokens

    def first_token_in_window(self) -> Array:
        """Whether the first token chunk of each request arrived in W."""
        return (self.chunk_counts > 0) & self.holds(self.sent_ns + self.survey.first_us * 1000)

    def holds(self, times_ns: Array) -> Array:
        """Which of *times_ns* lie in W."""
        return (times_ns >= self.window.start_ns) & (times_ns < self.window.end_ns)

    def batch_of(self, times_ns: Array) -> Array:
        """The batch of W (0 to 19) that holds each of *times_ns*; -1 before W, 20 from its end on."""
        return np.searchsorted(self.window.edges_ns, times_ns, side="right") - 1

    def by_batch(self, times_ns: Array) -> Array:
        """How many of *times_ns* each batch of W holds, int64."""
        return np.bincount(self.batch_of(times_ns) + 1, minlength=BATCHES + 2)[1:-1]

    def finished_ns(self) -> Array:
        """When each request's last token came: ``sent_at + e2e_from_send_ms``, else its last chunk, else its
        send."""
        return self._after_send("e2e_from_send_ms", self.sent_ns + self.survey.last_us * 1000)

    def ended_ns(self) -> Array:
        """When each exchange ended, however it did: ``sent_at + ended_ms``; where that is not known, its last token
        and what followed (``tail_ms``)."""
        tails = np.rint(np.nan_to_num(self.numbers("tail_ms")) * 1e6).astype(np.int64)
        return self._after_send("ended_ms", self.finished_ns() + tails)

    def _after_send(self, name: str, otherwise: Array) -> Array:
        life = self.numbers(name)
        known = ~np.isnan(life)
        found = otherwise.copy()
        found[known] = self.sent_ns[known] + np.rint(life[known] * 1e6).astype(np.int64)
        return found

    def gaps(self, chosen: Array) -> tuple[Array, Array, Array]:
        """``(gap_us, tokens, gaps_per_request)`` between consecutive chunks of the *chosen* requests.

        Gaps are uint32 microseconds; ``tokens`` are those of the chunk that ends the gap; requests of fewer
        than two chunks count 0 gaps. In memory, so for small runs.
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


def frames(samples: Samples, windows: Iterable[StepWindow]) -> list[Frame]:
    """One frame for every window."""
    chosen = list(windows)
    return [Frame(samples, window, HOLD_BYTES // len(chosen)) for window in chosen]


def _equal(table: pa.Table, name: str, value: str | int) -> Array:
    column = table[name]
    if isinstance(value, str):
        column = column.cast(pa.string())
    matches = pc.fill_null(pc.equal(column, value), False)
    return np.asarray(matches.to_numpy(), dtype=bool)


def _integers(column: pa.ChunkedArray) -> Array:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), dtype=np.int64)
