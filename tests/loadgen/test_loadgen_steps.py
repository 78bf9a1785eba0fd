"""What a step sends and when, with a client made of a list."""

from __future__ import annotations

from array import array
from typing import cast

import pytest

from loadgen.client import Client
from loadgen.decode import Answer
from loadgen.exchange import Exchange, Request
from loadgen.ledger import Ledger
from loadgen.orders import Orders
from loadgen.plan import Replica, Step
from loadgen.source import StepSource
from loadgen.tally import is_stable

MS = 1_000_000
START = 10_000 * MS
REPLICA = Replica("h:1", "http://h:1")


class FakeClient:
    def __init__(self) -> None:
        self.in_flight: dict[int, Exchange] = {}
        self.sent: list[Exchange] = []

    def submit(self, exchange: Exchange) -> None:
        exchange.sent_ns = exchange.scheduled_ns or 1
        self.in_flight[id(exchange)] = exchange
        self.sent.append(exchange)

    def finish(self, exchange: Exchange, at_ns: int) -> None:
        exchange.end_ns = at_ns
        del self.in_flight[id(exchange)]


class FakeSource:
    """Numbered requests; *turns* more of each session, 30 ms of thought before each."""

    def __init__(self, due_ms: list[float], arrival: str, turns: int, total: int | None) -> None:
        kind = "open" if due_ms else "closed"
        self.step = Step(0, kind, 4, 0, 1, 1, arrival)
        self.due_ns = array("q", [int(due * MS) for due in due_ms])
        self.total, self._turns, self.sessions = total, turns, turns > 0

    def exchange(self, index: int, scheduled_ns: int) -> Exchange:
        return self._made(index, 0, scheduled_ns)

    def follow_up(self, exchange: Exchange, answer: Answer) -> tuple[int, Exchange] | None:
        turn = (exchange.request.turn or 0) + 1
        if turn > self._turns or answer.status != "ok":
            return None
        return 30 * MS, self._made(exchange.request.seq, turn, 0)

    @staticmethod
    def _made(seq: int, turn: int, scheduled_ns: int) -> Exchange:
        request = Request(seq, f"r{seq}", b"", b"", 1, 1, session_id=f"s{seq}", turn=turn)
        return Exchange(request, REPLICA, True, scheduled_ns)


class FakeLedger:
    def __init__(self) -> None:
        self.sent, self.taken = 0, list[Exchange]()
        self.measure_ns, self.measure_end_ns = START, START + 1000 * MS

    def take(self, exchange: Exchange) -> None:
        self.taken.append(exchange)


def orders(
    due_ms: list[float] | None = None,
    *,
    users: int | None = None,
    arrival: str = "poisson",
    turns: int = 0,
    total: int | None = None,
    ceiling: int = 100,
) -> tuple[Orders, FakeClient, FakeLedger]:
    client, ledger = FakeClient(), FakeLedger()
    source = FakeSource(due_ms or [], arrival if due_ms else "none", turns, total)
    made = Orders(
        cast(StepSource, source),
        cast(Client, client),
        cast(Ledger, ledger),
        start_ns=START,
        users=users,
        ceiling=ceiling,
    )
    return made, client, ledger


def names(client: FakeClient) -> list[tuple[int, int | None]]:
    return [(exchange.request.seq, exchange.request.turn) for exchange in client.sent]


def test_open_arrivals_go_out_when_due_and_never_wait() -> None:
    made, client, ledger = orders([10, 20, 20, 40])
    assert made.next_ns() == START + 10 * MS
    made.send(START + 9 * MS)
    assert client.sent == []
    made.send(START + 25 * MS)
    assert [e.scheduled_ns - START for e in client.sent] == [10 * MS, 20 * MS, 20 * MS]
    assert made.next_ns() == START + 40 * MS
    made.send(START + 100 * MS)
    assert made.next_ns() is None
    assert (ledger.sent, made.scheduled_in(START, START + 20 * MS)) == (4, 1)


def test_turns_of_sessions_merge_with_arrivals_by_due_time() -> None:
    made, client, _ = orders([10, 50, 80], turns=2)
    made.send(START + 10 * MS)
    first = client.sent[0]
    client.finish(first, START + 25 * MS)
    made.done(first, Answer())
    assert made.next_ns() == START + 50 * MS, "the arrival comes before the turn, which is due at 55 ms"
    made.send(START + 52 * MS)
    assert made.next_ns() == START + 55 * MS
    made.send(START + 60 * MS)
    assert names(client) == [(0, 0), (1, 0), (0, 1)]
    assert client.sent[2].scheduled_ns == START + 55 * MS, (
        "end of the answer and think time, not when it was sent"
    )
    assert made.scheduled_in(START, START + 1000 * MS) == 4


def test_a_failed_turn_ends_its_session() -> None:
    made, client, _ = orders([10], turns=2)
    made.send(START + 10 * MS)
    client.finish(client.sent[0], START + 20 * MS)
    made.done(client.sent[0], Answer(status="error"))
    assert made.next_ns() is None


def test_a_closed_loop_counts_a_thinking_user_as_busy() -> None:
    made, client, _ = orders(users=2, turns=1)
    made.send(START)
    assert names(client) == [(0, 0), (1, 0)]
    client.finish(client.sent[0], START + 5 * MS)
    made.done(client.sent[0], Answer())
    made.send(START + 6 * MS)
    assert len(client.sent) == 2, "the user thinks for 30 ms"
    made.send(START + 36 * MS)
    assert names(client)[2:] == [(0, 1)]
    client.finish(client.sent[2], START + 40 * MS)
    made.done(client.sent[2], Answer())
    made.send(START + 41 * MS)
    assert names(client)[3:] == [(2, 0)], "the session is over: the user begins another"


def test_a_refused_user_rests() -> None:
    made, client, _ = orders(users=3)
    made.resting = 1
    made.send(START)
    assert len(client.sent) == 2


def test_the_window_ends_after_so_many_requests_and_load_goes_on() -> None:
    made, client, ledger = orders(users=2, total=3)
    for _ in range(4):
        made.send(START + 1)
        for exchange in list(client.in_flight.values()):
            client.finish(exchange, START + 2)
    assert ledger.measure_end_ns != START + 1000 * MS
    assert len(client.sent) == 3, "the fourth waits for the end of the window to be noted"
    made.send(ledger.measure_end_ns + 1)
    assert len(client.sent) == 5, "load goes on through the tail"


def test_above_the_ceiling_an_arrival_fails_and_work_given_at_once_waits() -> None:
    made, client, ledger = orders([1, 2, 3], ceiling=2)
    made.send(START + 5 * MS)
    assert (len(client.sent), made.ceiling_hits) == (2, 1)
    failure = ledger.taken[0].failure
    assert failure is not None
    assert failure.error_class == "client"
    made, client, ledger = orders([1, 1, 1], arrival="at_once", ceiling=2)
    made.send(START + 5 * MS)
    assert (len(client.sent), made.ceiling_hits, made.exhausted, made.next_ns()) == (2, 0, False, None)
    client.finish(client.sent[0], START + 6 * MS)
    made.send(START + 6 * MS)
    assert len(client.sent) == 3
    assert made.exhausted


@pytest.mark.parametrize(
    ("backlog", "start", "end", "stable"),
    [
        ([float(k) for k in range(20)], 0, 200, False),
        ([float(k) for k in range(20)], 0, 20, True),  # within 3 sqrt(100)
        ([5.0] * 20, 0, 200, True),  # no trend
        ([float(-k) for k in range(20)], 200, 0, True),
        ([float(k) for k in range(20)], None, None, True),
    ],
)
def test_a_backlog_is_unstable_when_it_grew_and_has_a_trend(
    backlog: list[float], start: int | None, end: int | None, stable: bool
) -> None:
    assert is_stable(backlog, start, end, 100) is stable
