"""When the server is warm: the warm-up's series, and the rule that ends it by state (rules M6 and S5).

Belongs here: cells of equal time (requests in flight, socket reads, TTFT), their batches, the decision.
Does not belong here: the tests themselves (``steady``), when requests go out (``orders``).

By state, the warm-up lasts at least ``warmup_s`` and twice the p99 of the latencies so far, and ends when what is left
after MSER-5 truncation is steady: no trend, equal halves, and in a closed loop at least 97 % of the users in flight.
When more than half of it would be cut off, it goes on. At ``warmup_max_s`` it ends all the same, as ``not_warm``.
The token rate is followed by socket reads, since nothing is decoded while load runs; only a few finished answers are,
for their TTFT, and only before the window.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from typing import Any

from loadgen.decode import decode
from loadgen.exchange import Exchange
from loadgen.monitor import quantile
from loadgen.plan import Step
from loadgen.steady import judge, mser5

NS = 1_000_000_000
CELL_NS = NS // 20
BATCHES = 20
_LOOK_NS = NS // 4
_LOOK_SHARE = 0.05  # looks grow rarer, so that a long warm-up is not judged thousands of times
_DECODED_PER_CELL = 4
_IN_FLIGHT_SHARE = 0.97  # S5 (c)


class Cells:
    """Means and sums over cells of 50 ms since *start_ns*."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self.in_flight, self.reads, self.ttft_ms = array("d"), array("q"), list[list[float]]()
        self._sum, self._ticks, self._reads_before, self._ttft = 0.0, 0, -1, list[float]()

    def __len__(self) -> int:
        return len(self.in_flight)

    def tick(self, now_ns: int, in_flight: int, reads: int) -> None:
        """Note the requests in flight and the count of socket reads; called at every tick of the loop."""
        if self._reads_before < 0:
            self._reads_before = reads
        self._sum += in_flight
        self._ticks += 1
        ended = (now_ns - self._start_ns) // CELL_NS - len(self)
        if ended < 1:
            return
        mean, read = self._sum / self._ticks, reads - self._reads_before
        for left in range(ended, 0, -1):  # more than one when the loop was held up
            share = read // left
            read -= share
            self.in_flight.append(mean)
            self.reads.append(share)
            self.ttft_ms.append(self._ttft)
            self._ttft = []
        self._sum, self._ticks, self._reads_before = 0.0, 0, reads

    def first_token(self, ttft_ms: float) -> None:
        """Note a TTFT."""
        self._ttft.append(ttft_ms)

    @property
    def wants_ttft(self) -> bool:
        """Whether this cell has room for another TTFT."""
        return len(self._ttft) < _DECODED_PER_CELL


def batch_means(values: Sequence[float], count: int = BATCHES) -> list[float]:
    """Means over *count* batches of as nearly equal size as possible; fewer when there are fewer values."""
    count = min(count, len(values))
    edges = [len(values) * k // count for k in range(count + 1)] if count else []
    return [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def batch_medians(values: Sequence[Sequence[float]], count: int = BATCHES) -> list[float]:
    """The lower median of all numbers of each batch of cells; NaN where a batch has none."""
    count = min(count, len(values))
    edges = [len(values) * k // count for k in range(count + 1)] if count else []
    result = []
    for a, b in itertools.pairwise(edges):
        numbers = sorted(number for cell in values[a:b] for number in cell)
        result.append(numbers[(len(numbers) - 1) // 2] if numbers else math.nan)
    return result


class Warmup:
    """One step's warm-up. *users* is the closed loop's share of this process, ``None`` in an open loop.

    With *fixed* (rule ``time``; or a shard on another host, whose window cannot wait) it lasts ``warmup_s``; by state
    the verdict is still recorded.
    """

    def __init__(self, step: Step, users: int | None, start_ns: int, *, fixed: bool = False) -> None:
        self._step, self._users, self._start_ns = step, users, start_ns
        self.by_state = step.warmup_rule == "state"
        self.fixed = fixed or not self.by_state
        self.cells = Cells(start_ns)
        self.status = "time"
        self._latencies_ns = array("q")
        self._next_look_ns = start_ns + int(step.warmup_s * NS)
        self._limit_ns = start_ns + int(step.warmup_limit_s * NS)
        self._figures: dict[str, Any] = {}

    def done(self, exchange: Exchange) -> None:
        """A request that finished before the window: its latency, and now and then its TTFT."""
        if exchange.failure is not None or exchange.http_status != 200:
            return
        self._latencies_ns.append(exchange.end_ns - exchange.reference_ns)
        if self.cells.wants_ttft and not exchange.spilled:
            answer = decode(exchange)
            if answer.chunk_reads:
                at = exchange.stamps[answer.chunk_reads[0]]
                self.cells.first_token((at - exchange.reference_ns) / 1e6)

    def over(self, now_ns: int) -> bool:
        """Whether a warm-up by state is over; sets :attr:`status`."""
        if now_ns < self._next_look_ns:
            return False
        if now_ns >= self._limit_ns:
            self._conclude()
            return True
        if self._users == 0:  # of several workers one may have no user: it waits for the others' windows
            self.status = "warm"
            return True
        pause_ns = max(_LOOK_NS, int(_LOOK_SHARE * (now_ns - self._start_ns)))
        self._next_look_ns = min(self._limit_ns, now_ns + pause_ns)
        least = 2 * (quantile(self._latencies_ns, 0.99) or 0)
        if not self._latencies_ns or now_ns - self._start_ns < least or not self._steady():
            return False
        self.status = "warm"
        return True

    def _conclude(self) -> None:
        self.status = "warm" if self._steady() else "not_warm"

    def _steady(self) -> bool:
        cells = self.cells
        cut = mser5([float(reads) for reads in cells.reads])
        figures: dict[str, Any] = {"cut_s": cut * CELL_NS / NS, "reason": None}
        self._figures = figures
        if 2 * cut > len(cells) or not len(cells):
            figures["reason"] = "More than half of the warm-up would have to be cut off."
            return False
        series = {
            "in_flight": batch_means(cells.in_flight[cut:]),
            "token_rate": batch_means(cells.reads[cut:]),
            "ttft": batch_medians(cells.ttft_ms[cut:]),
        }
        if self._users is None:
            series["backlog"] = series["in_flight"]
        verdict = judge(series)
        figures |= {"reason": verdict.reason, **verdict.figures}
        if not verdict.steady or not self._users:
            return verdict.steady
        mean = math.fsum(cells.in_flight[cut:]) / (len(cells) - cut)
        if mean < _IN_FLIGHT_SHARE * self._users:
            figures["reason"] = f"Only {mean:.1f} of {self._users} users had a request in flight."
            return False
        return True

    def record(self, measure_ns: int) -> dict[str, Any]:
        """For ``shard.json``: the rule, how it ended (warm | not_warm | time), how long it took in seconds, and the
        numbers behind it."""
        if self.by_state and self.status == "time":  # a fixed one, or one that was stopped
            self._conclude()
        return {
            "rule": self._step.warmup_rule,
            "status": self.status,
            "seconds": max(0.0, (measure_ns - self._start_ns) / NS),
            "figures": self._figures,
        }
