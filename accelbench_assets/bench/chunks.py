"""One pass over the token chunks of a step, in batches: counts, stamps, tokens by time, gaps by value.

Belongs here: what touches every chunk (hundreds of millions in a long run), in bounded memory. Does not belong here:
what the figures mean (``metrics``, ``rates``, ``steadiness``), one value a request (``frame``).

Gaps are whole microseconds, so counting them by value (``numpy.bincount``) keeps their distribution exactly: quantiles
of the counts are quantiles of the gaps, and nothing is sorted. The rare gap of a second and more is kept as it is.
Counts are kept apart by the tokens of the chunk that ends the gap, because ITL divides by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from accelbench_assets.bench.frame import Frame

Array = NDArray[Any]
_FINE_US = 1 << 20  # gaps below are counted by value
_COUNTED_TOKENS = 16  # chunks of up to so many tokens have a table of their own


@dataclass(frozen=True, slots=True)
class Block:
    """Chunk lists of some requests. ``first`` is the storage rank of the first request, ``sizes`` the chunks of each
    (int64); ``offsets_us`` (uint32, since send) and ``tokens`` (uint16) are flat, request after request."""

    first: int
    sizes: Array
    offsets_us: Array
    tokens: Array

    def starts(self) -> Array:
        """Where the chunks of each request that has any begin."""
        sizes = self.sizes[self.sizes > 0]
        return np.cumsum(sizes) - sizes

    def gaps_us(self) -> Array:
        """The gap before each chunk, uint32; 0 before the first of a request."""
        gaps = np.empty_like(self.offsets_us)
        np.subtract(self.offsets_us[1:], self.offsets_us[:-1], out=gaps[1:])
        gaps[self.starts()] = 0
        return gaps


@dataclass(frozen=True, slots=True)
class GapBlock:
    """The gaps of a block. ``gaps_us`` is uint16 where all fit, else uint32; its type's largest value stands before
    the first chunk of a request. ``tokens`` is ``None`` when each chunk has one."""

    first: int
    sizes: Array
    gaps_us: Array
    tokens: Array | None

    @classmethod
    def of(cls, block: Block, gaps_us: Array) -> GapBlock:
        """From a block and its ``gaps_us()``."""
        kind = np.uint16 if gaps_us.max(initial=0) < np.iinfo(np.uint16).max else np.uint32
        gaps = gaps_us.astype(kind)
        gaps[block.starts()] = np.iinfo(kind).max
        plain = bool(np.all(block.tokens == 1))
        return cls(block.first, block.sizes, gaps, None if plain else block.tokens.copy())

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return int(
            self.sizes.nbytes + self.gaps_us.nbytes + (0 if self.tokens is None else self.tokens.nbytes)
        )


def blocks(batches: Iterable[pa.RecordBatch], taken: Array, skip: int) -> Iterator[Block]:
    """Blocks of the rows that *taken* chooses, after *skip* rows of *batches*."""
    row, rank = -skip, 0
    for batch in batches:
        begin, row = row, row + batch.num_rows
        low, high = max(begin, 0), min(row, taken.size)
        if low >= high:
            continue
        chosen = taken[low:high]
        batch = batch.slice(low - begin, high - low)
        if not chosen.all():
            batch = batch.filter(pa.array(chosen))
        offsets, tokens = batch.column("chunk_offset_us"), batch.column("chunk_tokens")
        sizes = np.asarray(pc.fill_null(pc.list_value_length(offsets), 0).to_numpy(), dtype=np.int64)
        yield Block(
            rank, sizes, np.asarray(offsets.flatten().to_numpy()), np.asarray(tokens.flatten().to_numpy())
        )
        rank += sizes.size


@dataclass(slots=True)
class GapCounts:
    """Gaps by value and by the tokens of the chunk that ends them."""

    fine: dict[int, Array] = field(default_factory=dict)
    """Tokens of the chunk -> number of gaps of 0, 1, 2, … microseconds."""
    coarse: list[tuple[Array, Array]] = field(default_factory=list)
    """``(gap_us, tokens)`` of what the tables do not hold."""

    def add(self, gaps_us: Array, tokens: Array, blanks: int) -> None:
        """Count *gaps_us*, of which *blanks* zeros, one before each request's first chunk, are no gaps.

        There may be blanks only where all gaps are below a second and all chunks have one size.
        """
        if not gaps_us.size:
            return
        # The common case, at speed.
        if tokens.min() == tokens.max() <= _COUNTED_TOKENS and gaps_us.max() < _FINE_US:
            self._count(int(tokens[0]), gaps_us, blanks)
            return
        odd = (gaps_us >= _FINE_US) | (tokens > _COUNTED_TOKENS)
        if odd.any():
            self.coarse.append((gaps_us[odd], tokens[odd]))
            gaps_us, tokens = gaps_us[~odd], tokens[~odd]
        for many in np.flatnonzero(np.bincount(tokens)):
            self._count(int(many), gaps_us[tokens == many], 0)

    def _count(self, tokens: int, gaps_us: Array, blanks: int) -> None:
        counts = np.bincount(gaps_us)
        counts[0] -= blanks  # zeros that stand for no gap
        shorter, longer = sorted((counts, self.fine.get(tokens, counts[:0])), key=len)
        longer[: shorter.size] += shorter
        self.fine[tokens] = longer

    @property
    def single_tokens(self) -> bool:
        """Whether every gap ends with a chunk of one token, so that ITL and chunk gap are the same samples."""
        return set(self.fine) <= {1} and all(bool(np.all(tokens == 1)) for _, tokens in self.coarse)

    def chunk_gaps(self) -> tuple[Array, Array]:
        """``(gap_us, count)``: distinct gaps, float64, and how often each was seen, int64."""
        return self._pairs(spread=False)

    def token_gaps(self) -> tuple[Array, Array]:
        """``(gap_us, count)`` of ITL: a gap that ends with a chunk of *m* tokens counts *m* times as one *m*-th."""
        return self._pairs(spread=True)

    def _pairs(self, *, spread: bool) -> tuple[Array, Array]:
        values, counts = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        for tokens, table in self.fine.items():
            if tokens or not spread:
                seen = np.flatnonzero(table)
                values.append(seen / (tokens if spread else 1))
                counts.append(table[seen] * (tokens if spread else 1))
        for gaps_us, sizes in self.coarse:
            weights = sizes.astype(np.int64) if spread else np.ones_like(sizes, dtype=np.int64)
            held = weights > 0
            values.append(gaps_us[held] / weights[held])
            counts.append(weights[held])
        return np.concatenate(values), np.concatenate(counts)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass tells; arrays of one entry a request are int64 and in arrival order.

    ``first_us`` and ``last_us`` are stamps since send (0 without chunks). ``tokens_by_batch`` (2 x 20, int64) are
    tokens that came in each batch of W: row 0 of answers that did not complete, row 1 of those that did, whatever the
    phase of their request. ``gaps`` are those of the completed answers to arrivals in W. ``held`` are all gaps, kept
    for a second look; ``None`` when they would take more than ``Frame.hold_bytes`` and are to be read again.
    """

    chunks: Array
    tokens: Array
    first_tokens: Array
    first_us: Array
    last_us: Array
    tokens_by_batch: Array
    gaps: GapCounts
    held: list[GapBlock] | None


def survey(frame: Frame) -> Survey:
    """One pass over the chunks of *frame*."""
    size = frame.ok.size
    found = {name: np.zeros(size, dtype=np.int64) for name in ("chunks", "tokens", "head", "first", "last")}
    sent, ok = frame.stored(frame.sent_ns), frame.stored(frame.ok)
    chosen = frame.stored(frame.ok & frame.arrived)
    edges = frame.window.edges_ns
    by_batch = np.zeros((2, edges.size + 1), dtype=np.int64)  # before W, 20 batches, after W
    gaps = GapCounts()
    held: list[GapBlock] | None = []
    room = frame.hold_bytes
    for block in frame.blocks():
        span = slice(block.first, block.first + block.sizes.size)
        filled, starts = block.sizes > 0, block.starts()
        if not starts.size:
            continue
        found["chunks"][span] = block.sizes
        plain = bool(np.all(block.tokens == 1))
        sums = block.sizes[filled] if plain else np.add.reduceat(block.tokens, starts, dtype=np.int64)
        first = block.offsets_us[starts].astype(np.int64)
        last = block.offsets_us[starts + block.sizes[filled] - 1].astype(np.int64)
        for name, values in (
            ("tokens", sums),
            ("head", block.tokens[starts]),
            ("first", first),
            ("last", last),
        ):
            found[name][span][filled] = values
        began, done = sent[span][filled], ok[span][filled].astype(np.int64)
        first_in = np.searchsorted(edges, began + first * 1000, side="right")
        last_in = np.searchsorted(edges, began + last * 1000, side="right")
        whole = first_in == last_in
        _spread(by_batch, done[whole], first_in[whole], sums[whole])
        if not whole.all():
            _split(by_batch, block, np.flatnonzero(filled)[~whole], began[~whole], done[~whole], edges)
        gaps_us = block.gaps_us()
        if held is not None:
            held.append(GapBlock.of(block, gaps_us))
            room -= held[-1].nbytes
            held = held if room >= 0 else None
        _count_gaps(gaps, block, gaps_us, chosen[span], plain=plain)
    arranged = {name: frame.arranged(values) for name, values in found.items()}
    return Survey(
        arranged["chunks"],
        arranged["tokens"],
        arranged["head"],
        arranged["first"],
        arranged["last"],
        by_batch[:, 1:-1],
        gaps,
        held,
    )


def _count_gaps(gaps: GapCounts, block: Block, gaps_us: Array, chosen: Array, *, plain: bool) -> None:
    """Count the gaps of the *chosen* requests of a block; *plain*: each chunk has one token."""
    if plain and chosen.all() and gaps_us.max(initial=0) < _FINE_US:
        gaps.add(gaps_us, block.tokens, int((block.sizes > 0).sum()))
        return
    take = np.repeat(chosen, block.sizes)
    take[block.starts()] = False
    gaps.add(gaps_us[take], block.tokens[take], 0)


def _spread(by_batch: Array, done: Array, batch: Array, tokens: Array) -> None:
    """Add *tokens* to the cells (*done*, *batch*) of the table."""
    width = by_batch.shape[1]
    sums = np.bincount(done * width + batch, weights=tokens, minlength=by_batch.size)
    by_batch += np.rint(sums).astype(np.int64).reshape(by_batch.shape)


def _split(by_batch: Array, block: Block, requests: Array, began: Array, done: Array, edges: Array) -> None:
    """Chunk by chunk, for the *requests* of a block whose chunks came in several batches of W."""
    held = np.zeros(block.sizes.size, dtype=bool)
    held[requests] = True
    take = np.repeat(held, block.sizes)
    sizes = block.sizes[requests]
    stamps = np.repeat(began - edges[0], sizes) + block.offsets_us[take].astype(np.int64) * 1000
    parts, length = edges.size - 1, int(edges[-1] - edges[0])
    batch = np.clip(stamps * parts // length + 1, 0, parts + 1)  # edges are rounded up, so this is exact
    _spread(by_batch, np.repeat(done, sizes), batch, block.tokens[take])


def gap_hits(frame: Frame, chosen: Array, limits_us: Array, *, per_token: bool) -> Array:
    """How many gaps of each *chosen* request are at most each of *limits_us*: int64, limits x chosen requests.

    *per_token* divides gaps by the tokens of their chunk and counts them once a token, as ITL does.
    """
    hits = np.zeros((limits_us.size, chosen.size), dtype=np.int64)
    held = frame.survey.held
    for block in (GapBlock.of(b, b.gaps_us()) for b in frame.blocks()) if held is None else held:
        filled = block.sizes > 0
        sizes = block.sizes[filled]
        starts = np.cumsum(sizes) - sizes
        if not starts.size:
            continue
        span = slice(block.first, block.first + filled.size)
        largest = np.iinfo(block.gaps_us.dtype).max
        weights = values = None
        if per_token and block.tokens is not None:
            weights = np.where(block.gaps_us == largest, 0, block.tokens)
            values = block.gaps_us / np.maximum(weights, 1)
        for row, limit in zip(hits, limits_us, strict=True):
            if weights is None or values is None:
                below = block.gaps_us <= block.gaps_us.dtype.type(min(limit, largest - 1))
                sums = np.add.reduceat(below.view(np.uint8), starts, dtype=np.int32)
            else:
                sums = np.add.reduceat(np.where(values <= limit, weights, 0), starts, dtype=np.int64)
            row[span][filled] = sums
    return np.stack([frame.arranged(row)[chosen] for row in hits])
