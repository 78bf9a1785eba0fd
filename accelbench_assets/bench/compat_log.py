"""The event log of one step as the formulas of other load generators read it, and how each of them sums up.

Belongs here: per-request times and token counts as plain arrays, the pooled gaps between chunks in constant
memory, the percentile methods those tools use. Does not belong here: which tool computes what (``compat``),
our own metrics and estimators (``metrics``, ``quantiles``).

The log is what a tool would have seen that started and ended with the step: every request that was sent, in
warm-up, window and tail. Times are whole microseconds since the send, the grain of the stored chunk stamps.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from accelbench_assets.bench.chunks import GapBlock, GapCounts
from accelbench_assets.bench.frame import Array, Frame

LEVELS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Stats = dict[str, Any]


class EventLog:
    """Requests of one step. Arrays without a word on their length have one entry a completed answer.

    An answer is *completed* when its status is ``ok`` and at least one token chunk came.
    """

    def __init__(self, frame: Frame) -> None:
        survey = frame.survey
        self._frame = frame
        self._completed = frame.ok & (survey.chunks > 0)
        chosen = np.flatnonzero(self._completed)
        self.sent_ns = frame.sent_ns[chosen]
        """Send, int64 nanoseconds UTC."""
        self.first_us, self.last_us = survey.first_us[chosen], survey.last_us[chosen]
        """First and last token chunk, int64."""
        tails = np.nan_to_num(frame.numbers("tail_ms")[chosen])
        self.end_us = self.last_us + np.rint(tails * 1000).astype(np.int64)
        """End of the stream: usage chunk and ``[DONE]`` included."""
        self.lag_ns = np.rint(np.nan_to_num(frame.numbers("send_lag_ms")[chosen]) * 1e6).astype(np.int64)
        """Send minus scheduled arrival."""
        self.chunks, self.first_tokens = survey.chunks[chosen], survey.first_tokens[chosen]
        """Token chunks, and tokens of the first of them."""
        self.streamed = survey.tokens[chosen]
        """Tokens as the chunks carry them."""
        counted = frame.numbers("output_tokens")[chosen]
        self.tokens = np.where(counted > 0, counted, self.streamed).astype(np.int64)
        """Output tokens N as the server counts them, else as the chunks carry them."""
        self.input_tokens = np.nan_to_num(frame.numbers("input_tokens")[chosen])

    @cached_property
    def sent(self) -> Array:
        """Which requests of the frame were sent at all."""
        return self._frame.sent_ns > 0

    @cached_property
    def ended_ns(self) -> Array:
        """When each request of the frame ended, however it did, nanoseconds UTC; a completed one with its stream."""
        ended = self._frame.ended_ns()
        ended[self._completed] = self.sent_ns + self.end_us * 1000
        return ended

    @cached_property
    def wall_s(self) -> float:
        """First send to the last end of any request, seconds."""
        return float(self.ended_ns[self.sent].max() - self._frame.sent_ns[self.sent].min()) / 1e9

    @cached_property
    def answer_s(self) -> float:
        """First send to last token over completed answers, seconds."""
        return float((self.sent_ns + self.last_us * 1000).max() - self.sent_ns.min()) / 1e9

    def trimmed_tokens(self, share: float) -> tuple[float, int]:
        """Output tokens and number of the completed answers that are left when *share* of all sent requests is cut
        at each end of the order in which they ended.
        """
        ended = self.ended_ns[self.sent]
        cut, n = int(ended.size * share), ended.size
        completed = self._completed[self.sent]
        tokens = np.zeros(n, dtype=np.int64)
        tokens[completed] = self.tokens
        kept = np.argpartition(ended, (cut, n - cut - 1))[cut : n - cut] if cut else np.arange(n)
        return float(tokens[kept].sum()), int(completed[kept].sum())

    @cached_property
    def first(self) -> Ordered:
        """First token chunk since the send, seconds."""
        return Ordered(self.first_us / 1e6)

    @cached_property
    def last(self) -> Ordered:
        """Last token chunk since the send, seconds."""
        return Ordered(self.last_us / 1e6)

    @cached_property
    def end(self) -> Ordered:
        """End of the stream since the send, seconds."""
        return Ordered(self.end_us / 1e6)

    @cached_property
    def tpot(self) -> Ordered:
        """(last - first) / (N - 1) of answers of more than one token, seconds."""
        several = self.tokens > 1
        return Ordered((self.last_us / 1e6 - self.first_us / 1e6)[several] / (self.tokens[several] - 1))

    @cached_property
    def gaps(self) -> Gaps:
        """All gaps between consecutive token chunks of completed answers, pooled."""
        return Gaps(self._frame, self._completed)


class Gaps:
    """Gaps in whole microseconds by value: exact order statistics of any number of them in a few MB."""

    def __init__(self, frame: Frame, completed: Array) -> None:
        more = GapCounts()  # the survey has counted those of arrivals in W
        others = frame.stored(completed & ~frame.arrived)
        held = frame.survey.held
        again = (GapBlock.of(b, b.gaps_us()) for b in frame.blocks()) if held is None else held
        for block in again if others.any() else ():
            chosen = others[block.first : block.first + block.sizes.size]
            if chosen.any():
                gaps = block.gaps_us[np.repeat(chosen, block.sizes)]
                gaps = gaps[gaps != np.iinfo(gaps.dtype).max]  # what stands before a request's first chunk
                more.add(gaps, np.ones_like(gaps), 0)  # by value alone, whatever the chunks held
        pairs = (frame.survey.gaps.chunk_gaps(), more.chunk_gaps())
        values, counts = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
        order = np.argsort(values)
        self._values = values[order]
        self._cumulative = np.cumsum(counts[order])
        self.n = int(counts.sum())
        self.total_us = float((values * counts).sum())

    def order_us(self, index: int) -> float:
        """The gap at 0-based place *index* of the sorted gaps."""
        return float(self._values[np.searchsorted(self._cumulative, index, side="right")])

    def stats_ms(self, zeros: int = 0) -> Stats:
        """n, mean and linear percentiles in ms, with *zeros* more gaps of no length."""
        n = self.n + zeros
        if not n:
            return {"n": 0}
        found: Stats = {"n": n, "mean": self.total_us / n / 1000}
        for name, level in LEVELS.items():
            place = level * (n - 1)
            low = int(place)
            below, above = (
                0.0 if i < zeros else self.order_us(i - zeros) for i in (low, min(low + 1, n - 1))
            )
            found[name] = _between(below / 1e6, above / 1e6, place - low) * 1000
        return found


def _between(low: float, high: float, share: float) -> float:
    """Linear interpolation in the order of operations numpy uses, so that the last bit agrees."""
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


class Ordered:
    """Values in ascending order, summed up as numpy does by default: linear interpolation between neighbours."""

    def __init__(self, values: Array) -> None:
        self.values = np.sort(values)

    def stats(self, scale: float = 1.0) -> Stats:
        """n, mean and percentiles, times *scale*."""
        return self._stats(self.values, scale)

    def reciprocals(self, scale: float = 1.0) -> Stats:
        """The same of the reciprocals of all values above 0."""
        return self._stats(1.0 / self.values[self.values > 0][::-1], scale)

    @staticmethod
    def _stats(ordered: Array, scale: float) -> Stats:
        n = ordered.size
        if not n:
            return {"n": 0}
        found: Stats = {"n": n, "mean": float(ordered.mean()) * scale}
        for name, level in LEVELS.items():
            place = level * (n - 1)
            low = int(place)
            below, above = float(ordered[low]), float(ordered[min(low + 1, n - 1)])
            found[name] = _between(below, above, place - low) * scale
        return found


def weighted(values: Array, weights: Array | None = None) -> Stats:
    """n (the sum of weights), weighted mean, inverse weighted ECDF, as guidellm's ``DistributionSummary``: even the
    order in which shares are summed, whose rounding decides on which side of a level a value falls.
    """
    if not values.size:
        return {"n": 0}
    if weights is None:
        distinct, counts = np.unique(values, return_counts=True)
    else:
        order = np.argsort(values)
        values = values[order]
        starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        distinct, counts = values[starts], np.add.reduceat(weights[order], starts)
    total = float(counts.sum())
    shares = counts / total
    cumulative = np.cumsum(shares)
    places = [min(int(np.searchsorted(cumulative, q)), distinct.size - 1) for q in LEVELS.values()]
    named = {name: float(distinct[i]) for name, i in zip(LEVELS, places, strict=True)}
    return {"n": round(total), "mean": float((distinct * shares).sum()), **named}


def nearest_above_ns(values: Array) -> Stats:
    """MLPerf LoadGen: ``sorted[int(n * level)]`` and a truncated integer mean; ns in, ms out."""
    if not values.size:
        return {"n": 0}
    ordered = np.sort(values)
    n = ordered.size
    named = {name: float(ordered[int(n * level)]) / 1e6 for name, level in LEVELS.items()}
    return {"n": int(n), "mean": float(int(ordered.sum()) // n) / 1e6, **named}
