"""Sessions: live history, think times, ends, stickiness, shards; planned cancellations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen import workloads
from loadgen.calibrate import CalibrationResult
from loadgen.decode import Answer
from loadgen.exchange import Exchange
from loadgen.sizing import Sizing
from loadgen.source import StepSource, hashes

from .conftest import make_plan
from .workload_data import sharegpt


def source(
    name: str, *, life_ms: float | None = None, changes: dict[str, Any] | None = None, **plan: Any
) -> StepSource:
    workload = workloads.from_document({**workloads.load(name).document, **(changes or {})})
    made = make_plan([f"http://h{k}:1" for k in range(4)], workload, **plan)
    found = CalibrationResult(None, 0, [], Sizing(), expected_life_ms=life_ms)
    return StepSource(made, workload, made.steps[0], found)


def messages(exchange: Exchange) -> list[dict[str, str]]:
    return json.loads(exchange.request.body)["messages"]  # type: ignore[no-any-return]


def play(step: StepSource, index: int, tokens: int = 50) -> list[tuple[int, Exchange]]:
    """A whole session with made answers: (think time, exchange) of each turn."""
    found = [(0, step.exchange(index, 0))]
    while True:
        turn = found[-1][1].request.turn
        answer = Answer(
            input_tokens=len(found[-1][1].request.prompt.split()), output_tokens=tokens, text=f"answer {turn}"
        )
        following = step.follow_up(found[-1][1], answer)
        if following is None:
            return found
        found.append(following)


def test_history_holds_the_answers_that_came() -> None:
    step = source("multiturn.chat@1")
    assert step.sessions
    turns = play(step, 3)
    assert 2 <= len(turns) <= 8
    for turn, (_, exchange) in enumerate(turns):
        said = messages(exchange)
        assert [m["role"] for m in said] == ["user", "assistant"] * turn + ["user"]
        assert [m["content"] for m in said[1::2]] == [f"answer {k}" for k in range(turn)]
        assert exchange.request.turn == turn
        assert exchange.request.session_id == turns[0][1].request.session_id
    assert len(said[0]["content"].split()) == 256
    assert {len(m["content"].split()) for m in said[2::2]} == {64}
    seqs = {exchange.request.seq for _, exchange in turns}
    assert len(seqs) == len({exchange.request.request_id for _, exchange in turns}) == len(turns)


def test_think_times_are_log_normal() -> None:
    step = source("multiturn.chat@1")
    thought = np.log([step._talk.think_ns(k, turn) / 1e9 for k in range(1500) for turn in (1, 2)])
    assert thought.mean() == pytest.approx(2.3, abs=0.06)
    assert thought.std() == pytest.approx(0.8, abs=0.05)
    assert step._talk.think_ns(5, 1) == source("multiturn.chat@1")._talk.think_ns(5, 1)


def test_a_sticky_session_stays_on_replica_and_connection() -> None:
    sticky, roaming = source("multiturn.chat@1"), source("multiturn.chat.roam@1")
    turns = play(sticky, 5)
    assert {exchange.replica.replica_id for _, exchange in turns} == {"h1:1"}
    assert {exchange.request.affinity for _, exchange in turns} == {turns[0][1].request.session_id}
    turns = play(roaming, 5)
    assert [exchange.replica.replica_id for _, exchange in turns] == [
        f"h{(5 + turn) % 4}:1" for turn in range(len(turns))
    ]
    assert {exchange.request.affinity for _, exchange in turns} == {None}


@pytest.mark.parametrize("status", ["error", "timeout", "cancelled", "incomplete"])
def test_a_failed_turn_ends_the_session(status: str) -> None:
    step = source("multiturn.chat@1")
    exchange = step.exchange(0, 0)
    assert step.follow_up(exchange, Answer(status=status)) is None
    assert step.follow_up(exchange, Answer(text="late")) is None
    assert not step._live


def test_an_agents_context_grows_to_its_limit() -> None:
    step = source("agent.tools@1")
    turns = play(step, 1, tokens=200)
    sizes = [len(exchange.request.prompt.split()) for _, exchange in turns]
    assert sizes[0] == pytest.approx(8192, rel=0.02)
    assert sizes == sorted(sizes)
    assert 0.9 * 131_072 < sizes[-1] <= 131_072
    assert "Tool " in messages(turns[1][1])[-1]["content"]
    assert not step._live


def test_sessions_start_cold_and_shards_share_them_out() -> None:
    whole = source("multiturn.chat@1")
    parts = [source("multiturn.chat@1", shard=shard, shards=2) for shard in (0, 1)]
    assert {hashes([part]) for part in parts} == {hashes([whole])}
    starts = set()
    for index in range(10):
        for shard, part in enumerate(parts):
            one, same = part.exchange(index, 0), whole.exchange(2 * index + shard, 0)
            assert messages(one) == messages(same)
            starts.add(messages(one)[0]["content"][:40])
    assert len(starts) == 20
    seqs = [e.request.seq for shard, part in enumerate(parts) for k in range(10) for _, e in play(part, k)]
    assert len(seqs) == len(set(seqs))


def test_dialogues_of_the_user_take_the_place_of_made_ones(tmp_path: Path) -> None:
    step = source("multiturn.chat@1", dataset=str(sharegpt(tmp_path / "s.jsonl")))
    turns = play(step, 2)
    assert len(turns) == 2
    first, last = messages(turns[1][1])[0]["content"], messages(turns[1][1])[2]["content"]
    number = first.partition("Question ")[2].partition(":")[0]
    assert last == f"Why {number}?"


def test_single_requests_have_no_follow_up() -> None:
    workload = workloads.load("demo.chat@1")
    plan = make_plan("http://h:1", workload)
    step = StepSource(plan, workload, plan.steps[0], 30)
    assert not step.sessions
    assert step.follow_up(step.exchange(0, 0), Answer()) is None


def cancels(step: StepSource, count: int = 2000) -> np.ndarray[Any, Any]:
    found = [step.request(index).cancel_after_ns for index in range(count)]
    return np.array([np.nan if at is None else at for at in found], dtype=float)


def test_a_fifth_is_cancelled_at_a_uniform_share_of_an_answers_life(tmp_path: Path) -> None:
    from scipy import stats

    rows = str(sharegpt(tmp_path / "s.jsonl"))
    measured = cancels(source("cancel.20@1", life_ms=800.0, dataset=rows))
    chosen = measured[~np.isnan(measured)]
    assert len(chosen) / 2000 == pytest.approx(0.2, abs=0.03)
    assert stats.kstest(chosen / 800e6, "uniform").pvalue > 0.01
    declared = cancels(source("cancel.20@1", dataset=rows))
    assert declared[~np.isnan(declared)] == pytest.approx(chosen * 5000 / 800, abs=10)
    assert np.isnan(declared).sum() == np.isnan(measured).sum()


def test_plans_without_cancellations_have_none() -> None:
    step = source("multiturn.chat@1")
    assert np.isnan(cancels(step, 20)).all()
    assert dataclasses.replace(step.request(0)).cancel_after_ns is None
