"""The capacity search on virtual servers: order of points, knee, confirmed rate, and the ends it can come to."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from loadgen.capacity import FRACTIONS, Point, Search, parse_slo, point
from loadgen.plan import PlanError, Step

PATTERN = Step(0, "closed", 1, warmup_s=10, window_s=600, tail_s=60)
Server = Callable[[float], float]


def simulate_open(slots: int, service_s: float, rate: float, limit_s: float, n: int, seed: int) -> float:
    """Share of Poisson arrivals at a FIFO server of equal service times that are done within the limit."""
    draw, free, at, good = random.Random(seed), [0.0] * slots, 0.0, 0
    for _ in range(n):
        at += draw.expovariate(rate)
        end = max(at, heapq.heappop(free)) + service_s
        heapq.heappush(free, end)
        good += end - at <= limit_s
    return good / n


def measure(step: Step, slots: int, service_s: float, limit_s: float, quantile: float) -> Point:
    slo = {"e2e_ms": 1000 * limit_s, "quantile": quantile}
    if step.load_kind == "closed":
        users = step.load_value
        within = service_s * max(1.0, users / slots) <= limit_s
        rate = min(users, slots) / service_s
        return point(step, slo, requests_per_s=rate, attainment=float(within), error_rate=0.0)
    share = simulate_open(slots, service_s, step.load_value, limit_s, 20_000, step.step_index)
    stable = step.load_value < slots / service_s
    return point(step, slo, requests_per_s=step.load_value, attainment=share, error_rate=0.0, stable=stable)


def run(search: Search, answer: Callable[[Step], Point]) -> list[Point]:
    points: list[Point] = []
    while (step := search.next(points)) is not None:
        assert step.step_index == len(points) < 60, "the search does not end"
        points.append(answer(step))
    return points


@pytest.mark.parametrize(("slots", "service_s"), [(16, 2.0), (16, 0.2), (5, 1.0), (33, 1.0)])
def test_knee_and_capacity_of_a_slotted_server(slots: int, service_s: float) -> None:
    limit_s, quantile = 1.5 * service_s, 0.95
    search = Search(PATTERN, {"e2e_ms": 1000 * limit_s, "quantile": quantile})
    points = run(search, lambda step: measure(step, slots, service_s, limit_s, quantile))
    result = search.result(points)
    if slots == 16:
        assert result["knee_concurrency"] == 16
    else:  # 95 % of the best throughput, found to 5 % or one user
        assert 0.9 * slots - 1 <= result["knee_concurrency"] <= 1.05 * slots
    low, high = 0.01 * slots / service_s, 1.2 * slots / service_s
    while high - low > 0.002 * high:  # the true capacity, by a long simulation of its own
        middle = (low + high) / 2
        good = simulate_open(slots, service_s, middle, limit_s, 60_000, 99) >= quantile
        low, high = (middle, high) if good else (low, middle)
    assert result["status"] == "confirmed"
    assert result["capacity_requests_per_s"] == pytest.approx(low, rel=0.05)


def test_the_ladder_doubles_then_bisects_then_confirms() -> None:
    search = Search(PATTERN, {"e2e_ms": 3000, "quantile": 0.95})
    points = run(search, lambda step: measure(step, 16, 2.0, 3.0, 0.95))
    closed = [(p.kind, p.load_value) for p in points if p.load_kind == "closed"]
    assert closed[:6] == [("ladder", 2.0**k) for k in range(6)]
    assert closed[6:] == [("bisect", 12), ("bisect", 14), ("bisect", 15)]
    confirmed = [p for p in points if p.kind == "confirm"]
    assert [p.load_value for p in confirmed] == [pytest.approx(8 * share) for share in FRACTIONS]
    assert points.index(confirmed[0]) == len(closed)
    assert all(p.kind == "bisect" for p in points[len(closed) + len(FRACTIONS) :])


def test_throughput_that_levels_off_ends_the_ladder_without_an_objective() -> None:
    search = Search(PATTERN, parse_slo("batch"))
    points = run(search, lambda step: measure(step, 16, 2.0, 1e9, 0.99))
    ladder = [p.load_value for p in points if p.kind == "ladder"]
    assert ladder == [1, 2, 4, 8, 16, 32, 64], "two steps in a row without a gain of 5 %"
    assert search.result(points)["knee_concurrency"] == 16


def test_an_objective_that_binds_before_throughput_levels_off() -> None:
    def answer(step: Step) -> Point:  # latency grows with every user, throughput with its square root
        users = step.load_value if step.load_kind == "closed" else (step.load_value / 10) ** 2
        return point(
            step,
            search.slo,
            requests_per_s=10 * users**0.5,
            attainment=float(users <= 45),
            error_rate=0.0,
        )

    search = Search(PATTERN, {"ttft_ms": 100, "quantile": 0.99})
    result = search.result(run(search, answer))
    assert 10 * 43**0.5 <= result["closed_requests_per_s"] <= 10 * 45**0.5, "bisected to 5 % of the users"
    assert 0.95**2 * 43 - 1 <= result["knee_concurrency"] <= 45, "95 % of that throughput"


def test_errors_and_an_unmet_objective_end_the_search() -> None:
    search = Search(PATTERN, parse_slo("chat"))
    failing = run(
        search,
        lambda step: point(step, search.slo, requests_per_s=1.0, attainment=1.0, error_rate=0.02),
    )
    assert [p.load_value for p in failing] == [1]
    result = search.result(failing)
    assert (result["status"], result["capacity_requests_per_s"]) == ("not_met", None)


@pytest.mark.parametrize("flaw", [{"achieved": 0.98}, {"stable": False}, {"attainment": 0.5}])
def test_no_open_point_passes_with_one_flaw(flaw: dict[str, float]) -> None:
    def answer(step: Step) -> Point:
        good = {"requests_per_s": min(step.load_value, 4.0), "attainment": 1.0, "error_rate": 0.0}
        return point(step, search.slo, **(good | (flaw if step.load_kind == "open" else {})))  # type: ignore[arg-type]

    search = Search(PATTERN, parse_slo("chat"))
    points = run(search, answer)
    result = search.result(points)
    assert result["status"] == "unconfirmed"
    assert result["capacity_requests_per_s"] is None
    assert result["knee_concurrency"] == 4
    assert min(p.load_value for p in points if p.load_kind == "open") < 0.2 * 4, "lower rates were tried"


def test_a_search_that_is_stopped_keeps_its_points() -> None:
    search = Search(PATTERN, parse_slo("chat"))
    first = search.next([])
    assert first is not None
    points = [point(first, search.slo, requests_per_s=2.0, attainment=1.0, error_rate=0.0)]
    result = search.result(points, "300 s are left, and the next point takes 700 s")
    assert result["status"] == "incomplete"
    assert "300 s are left" in result["reason"]
    assert result["points"][0]["requests_per_s"] == 2.0


def test_the_most_users_allowed_is_respected_and_told() -> None:
    search = Search(PATTERN, parse_slo("batch"), max_concurrency=12)
    points = run(search, lambda step: measure(step, 64, 1.0, 1e9, 0.99))
    assert [p.load_value for p in points if p.kind == "ladder"] == [1, 2, 4, 8, 12]
    assert "still grew at 12 users" in search.result(points)["reason"]


def test_warmup_of_a_search_is_bounded() -> None:
    step = Search(PATTERN, parse_slo("chat")).next([])
    assert step is not None
    assert step.warmup_max_s == 600
    short = Step(0, "closed", 1, warmup_s=1, window_s=10, tail_s=60)
    step = Search(short, parse_slo("chat")).next([])
    assert step is not None
    assert step.warmup_max_s == 20


def test_objectives_by_name_and_by_clause() -> None:
    assert parse_slo("interactive") == {"ttft_ms": 500, "tpot_ms": 30, "e2e_ms": None, "quantile": 0.99}
    assert parse_slo("server@0.9")["quantile"] == 0.9
    assert parse_slo("ttft=250, e2e=3000@0.95") == {
        "ttft_ms": 250,
        "tpot_ms": None,
        "e2e_ms": 3000,
        "quantile": 0.95,
    }


@pytest.mark.parametrize(
    "text", ["", "fast", "ttft", "ttft=", "ttft=-1", "ttft=x", "chat@2", "chat@", "p99=3"]
)
def test_a_wrong_objective_is_refused_by_name(text: str) -> None:
    if text == "chat@":
        assert parse_slo(text)["quantile"] == 0.99
        return
    with pytest.raises(PlanError, match="slo"):
        parse_slo(text)
