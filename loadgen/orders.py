"""What a step sends next, and when: users of a closed loop, arrivals of an open one, turns of sessions.

Belongs here: the merge of due arrivals and due follow-up turns, idle users, the client's safety ceiling.
Does not belong here: phases and the loop (``steps``), what a request says (``source``).

An open loop never waits for a free place: an arrival above the ceiling fails with class ``client``, which voids the
run. Only ``at_once`` (all work is there from the start) holds what does not fit. A later turn of a session is due at
the end of the answer before it plus the think time; in a closed loop the user stays busy while thinking.
"""

from __future__ import annotations

import heapq
import time
from array import array

from loadgen.client import Client
from loadgen.decode import Answer
from loadgen.exchange import Exchange, Failure
from loadgen.ledger import Ledger
from loadgen.source import StepSource


class Orders:
    """One step's, in one process. *users* is the closed loop's share of this process, ``None`` in an open loop.
    Times are monotonic ns."""

    def __init__(
        self,
        source: StepSource,
        client: Client,
        ledger: Ledger,
        *,
        start_ns: int,
        users: int | None,
        ceiling: int,
    ) -> None:
        self._source, self._client, self._ledger = source, client, ledger
        self._start_ns, self._users, self._ceiling = start_ns, users, ceiling
        self._due = source.due_ns
        self._holds = source.step.arrival == "at_once"
        self._turns: list[tuple[int, int, Exchange]] = []
        self.turn_due_ns = array("q")
        self.resting = self.ceiling_hits = 0
        self._next = self._in_window = self._order = 0

    def send(self, now_ns: int) -> None:
        """Send everything that is due by now."""
        while self._turns and self._turns[0][0] <= now_ns:
            due, _, exchange = heapq.heappop(self._turns)
            exchange.scheduled_ns = due
            self._submit(exchange, now_ns)
        if self._users is not None:
            self._top_up(now_ns)
            return
        due_ns, start = self._due, self._start_ns
        while self._next < len(due_ns) and start + due_ns[self._next] <= now_ns:
            if self._holds and len(self._client.in_flight) >= self._ceiling:
                return
            self._next += 1
            self._submit(self._source.exchange(self._next - 1, start + due_ns[self._next - 1]), now_ns)

    def prepare(self, most: int) -> bool:
        """Encode a few of the requests that a closed loop sends next; whether there were any left to do."""
        if self._users is None:
            return False
        return self._source.prepare(self._next, self._next + self._users, most)

    def next_ns(self) -> int | None:
        """When something is due next; ``None``: only an answer can change that."""
        due = self._turns[0][0] if self._turns else None
        held = self._holds and len(self._client.in_flight) >= self._ceiling
        if self._next < len(self._due) and not held:
            arrival = self._start_ns + self._due[self._next]
            due = arrival if due is None else min(due, arrival)
        return due

    def done(self, exchange: Exchange, answer: Answer) -> None:
        """A session's turn ended: its next one becomes due after the think time."""
        found = self._source.follow_up(exchange, answer)
        if found is not None:
            think_ns, turn = found
            due = exchange.finish_ns + max(0, think_ns)
            self._order += 1
            self.turn_due_ns.append(due)
            heapq.heappush(self._turns, (due, self._order, turn))

    @property
    def exhausted(self) -> bool:
        """Whether all work that was there from the start (``at_once``) has been sent."""
        return self._holds and self._next >= len(self._due) and not self._turns

    def scheduled_in(self, begin_ns: int, end_ns: int) -> int:
        """Arrivals and turns of an open loop that were due from *begin_ns* to *end_ns*."""
        start = self._start_ns
        arrivals = sum(begin_ns <= start + due < end_ns for due in self._due)
        return arrivals + sum(begin_ns <= due < end_ns for due in self.turn_due_ns)

    def _top_up(self, now_ns: int) -> None:
        """Every user who is idle, not thinking and not resting sends. Once as many requests as the source wants were
        sent in the window it ends, and load goes on."""
        assert self._users is not None
        ledger, total = self._ledger, self._source.total
        in_window = ledger.measure_ns <= now_ns < ledger.measure_end_ns
        for _ in range(self._users - len(self._client.in_flight) - self.resting - len(self._turns)):
            if in_window and self._in_window == total:
                if all(exchange.sent_ns for exchange in self._client.in_flight.values()):
                    ledger.measure_end_ns = time.perf_counter_ns()
                return
            self._in_window += in_window
            self._next += 1
            self._submit(self._source.exchange(self._next - 1, 0), now_ns)

    def _submit(self, exchange: Exchange, now_ns: int) -> None:
        if len(self._client.in_flight) < self._ceiling:
            self._ledger.sent += 1
            self._client.submit(exchange)
            return
        text = f"not sent: {self._ceiling} requests were in flight, the client's safety ceiling"
        exchange.begun_ns, exchange.failure = now_ns, Failure("error", "client", text)
        self.ceiling_hits += 1
        self.resting += self._users is not None  # a refused user rests, or each look would refuse anew
        self._ledger.take(exchange)
