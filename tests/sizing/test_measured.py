"""Measured runs of a lake: a list of their own, only what answers the question, and what they teach the estimates."""

from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sizing.ask import Ask, find_instances
from accelbench_assets.sizing.measured import Step, calibration_of, observations, rank, read_steps
from accelbench_assets.sizing.money import Price
from accelbench_assets.sizing.recommend import recommend
from partitions.catalog import load_instances, load_models
from tests.sizing.lakes import measured, step

LLAMA = load_models()["llama-3.1-8b-instruct"]
PRICES = {"g6e.xlarge": Decimal(2), "p5.4xlarge": Decimal(7), "p5e.48xlarge": None}
OBJECTIVE = {"ttft_ms": 1000.0, "tpot_ms": 50.0}


def price(instance_type: str) -> Price:
    usd = PRICES.get(instance_type, Decimal(1))
    return Price(usd, None if usd is not None else "not sold by the hour", "2026-07-20", "test")


def ask(**more: float) -> Ask:
    return Ask(LLAMA, find_instances(None), isl=1024, osl=256, **more)  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open((tmp_path / "lake").as_uri())


def test_the_highest_load_within_the_objective_speaks_for_its_cell(lake: Lake) -> None:
    cheap = measured(
        lake, "g6e.xlarge", [step(1, 0.2, 90, 20), step(16, 2.0, 300, 40), step(64, 3.0, 900, 80)]
    )
    dear = measured(lake, "p5.4xlarge", [step(64, 20.0, 200, 25)])
    unpriced = measured(lake, "p5e.48xlarge", [step(64, 90.0, 200, 25)], tp=8)
    found = rank(read_steps(lake), ask(**OBJECTIVE), price)
    assert [row.step.run_id for row in found.rows] == [dear["run_id"], cheap["run_id"], unpriced["run_id"]]
    assert [row.place for row in found.rows] == [1, 2, 3]
    assert found.rows[1].step.load_value == 16
    assert found.rows[0].cost.usd_per_request == pytest.approx(7 / 3600 / 20)
    assert found.rows[0].cost.usd_per_1m_output == pytest.approx(1e6 * 7 / 3600 / (20 * 250))
    assert found.rows[2].cost.usd_per_request is None
    assert found.rows[2].cost.missing_reason == "not sold by the hour"


def test_a_request_rate_is_carried_by_open_steps_within_the_target(lake: Lake) -> None:
    for instance, rate, tp in (
        ("g6e.xlarge", 2.0, 1),
        ("p5.4xlarge", 20.0, 1),
        ("p5e.48xlarge", 90.0, 8),
    ):
        measured(lake, instance, [step(64, rate, 200, 25)], tp=tp)
    closed = read_steps(lake)
    none = rank(closed, ask(rps=30.0, **OBJECTIVE), price)
    assert not none.rows
    assert none.left_out == {"no open-loop step within the target, so no capacity to count replicas by": 3}
    carried = rank([replace(one, load_kind="open") for one in closed], ask(rps=30.0, **OBJECTIVE), price).rows
    assert [(row.step.instance_type, row.cost.instances) for row in carried] == [
        ("p5.4xlarge", 2),
        ("g6e.xlarge", 20),
        ("p5e.48xlarge", 1),
    ]


def one_step(**more: Any) -> Step:
    """A step that answers anything: open loop, within the workload's objective, nothing wrong with it."""
    found: dict[str, Any] = {each.name: None for each in fields(Step)}
    found |= {"run_id": "r", "step_index": 0, "cell_id": "c", "model": LLAMA.slug, "engine": "vllm", "tp": 1}
    found |= {"instance_type": "g6e.xlarge", "instance_count": 1, "replicas": 1, "evidence_level": "standard"}
    found |= {"is_current": True, "load_kind": "open", "load_value": 20.0, "requests_per_s": 20.0}
    found |= {"input_tokens_mean": 1024.0, "output_tokens_mean": 256.0, "error_rate": 0.0, "steady": True}
    found |= {"ttft_p95_ms": 300.0, "ttft_p95_gate": "published", "slo_decision": "pass"}
    found |= {"tpot_p95_ms": 30.0, "tpot_p95_gate": "published", "engine_version": "0.33.0"}
    return Step(**(found | more))


def test_saturation_is_never_a_capacity() -> None:
    """A closed loop at 512 users, 90 s to the first token: its 40 requests/s carry nobody's traffic."""
    flood = one_step(load_kind="closed", load_value=512.0, requests_per_s=40.0, ttft_p95_ms=9e4)
    found = rank([flood, replace(flood, load_value=256.0)], ask(rps=20.0), price)
    assert not found.rows
    assert found.left_out == {"no open-loop step within the target, so no capacity to count replicas by": 1}
    kept = rank([flood, one_step(step_index=1, requests_per_s=8.0)], ask(rps=20.0), price).rows
    assert [(row.step.load_kind, row.cost.instances) for row in kept] == [("open", 4)]
    assert kept[0].cost.usd_per_month == 4 * 730 * 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"error_rate": 0.011}, "more than 1 % of the requests failed, or nobody counted"),
        ({"error_rate": None}, "more than 1 % of the requests failed, or nobody counted"),
        ({"steady": False}, "not steady"),
        ({"saturation_label": "overloaded"}, "overloaded"),
        ({"saturation_label": "unstable"}, "unstable"),
    ],
)
@pytest.mark.parametrize("question", [{}, {"rps": 5.0}, OBJECTIVE, {"rps": 5.0, **OBJECTIVE}])
def test_what_a_server_did_not_carry_answers_nothing(
    wrong: dict[str, Any], reason: str, question: dict[str, float]
) -> None:
    assert rank([one_step()], ask(**question), price).rows
    found = rank([one_step(**wrong)], ask(**question), price)
    assert not found.rows
    assert found.left_out == {reason: 1}
    assert observations([one_step(**wrong, concurrency_mean=4.0)]) == []
    assert observations([one_step(concurrency_mean=4.0)])


@pytest.mark.parametrize(
    "fine", [{"steady": None}, {"error_rate": 0.01}, {"saturation_label": "admission-limited"}]
)
def test_what_was_not_judged_is_not_held_against_a_step(fine: dict[str, Any]) -> None:
    assert rank([one_step(**fine)], ask(rps=5.0), price).rows


def test_without_an_objective_the_workloads_own_decides() -> None:
    failed = one_step(slo_decision="fail")
    unknown = "no open-loop step passed the workload's own objective, and none was asked for"
    assert rank([failed], ask(rps=5.0), price).left_out == {unknown: 1}
    assert rank([one_step(slo_decision=None)], ask(rps=5.0), price).left_out == {unknown: 1}
    assert rank([failed], ask(rps=5.0, ttft_ms=400.0), price).rows, "the objective asked for is what counts"
    assert rank([failed], ask(), price).rows, "what a request costs at least is not a promise of capacity"


def test_whole_deployments_are_billed() -> None:
    """Two instances do 20 requests/s: 16 need 2 deployments of 2, though 3 instances would have the rate."""
    pair = one_step(instance_count=2, replicas=2)
    (row,) = rank([pair], ask(rps=16.0), price).rows
    assert (row.cost.instances, row.cost.replicas) == (4, 4)
    assert row.cost.usd_per_month == 4 * 730 * 2
    assert row.cost.usd_per_request == pytest.approx(2 * 2 / 3600 / 20)
    (alone,) = rank([pair], ask(), price).rows
    assert (alone.cost.instances, alone.cost.usd_per_month) == (2, 2 * 730 * 2)


def test_what_was_asked_for_by_name_must_have_been_measured() -> None:
    lower = one_step(quantization="fp8", max_model_len=4096, kv_cache_dtype="auto")
    assert rank([lower], ask(), price).rows
    for question, reason in (
        ({"quantization": "bf16"}, "another precision"),
        ({"kv_cache_dtype": "fp8"}, "another KV cache"),
        ({"max_model_len": 8192}, "a shorter context"),
    ):
        assert rank([lower], replace(ask(), **question), price).left_out == {reason: 1}
    assert rank([lower], replace(ask(), quantization="fp8", max_model_len=4096), price).rows


def test_steps_are_read_with_what_judges_them(lake: Lake) -> None:
    measured(lake, "g6e.xlarge", [step(8, 2.0, 300, 20)])
    (one,) = read_steps(lake)
    assert (one.error_rate, one.steady, one.saturation_label, one.slo_decision) == (0.0, True, None, None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"evidence_level": "demo"}, "evidence below standard"),
        ({"steps": [step(8, 2.0, 3000, 20)]}, "misses the objective"),
        ({"steps": [step(8, 2.0, 300, 20, isl=4000.0)]}, "other lengths"),
        ({"steps": [step(8, 2.0, 300, 20, few=1.0)]}, "p95 not published"),
    ],
)
def test_what_does_not_answer_is_counted_by_reason(
    lake: Lake, changed: dict[str, object], reason: str
) -> None:
    steps = changed.pop("steps", [step(8, 2.0, 300, 20)])
    measured(lake, "g6e.xlarge", steps, **changed)  # type: ignore[arg-type]
    found = rank(read_steps(lake), ask(**OBJECTIVE), price)
    assert not found.rows
    assert found.left_out == {reason: 1}


@pytest.mark.parametrize("origin", ["simulated", "estimated", "external"])
def test_other_origins_neither_rank_nor_teach(lake: Lake, origin: str) -> None:
    measured(lake, "g6e.xlarge", [step(1, 0.2, 90, 20)], origin=origin)
    assert read_steps(lake) == ()


def test_void_runs_neither_rank_nor_teach(lake: Lake) -> None:
    void = {"clock": {"verdict": "void", "value": 1, "limit": 0, "text": "jumped"}}
    measured(lake, "g6e.xlarge", [step(1, 0.2, 90, 20)], validity=void)
    assert read_steps(lake) == ()


def test_estimates_say_how_many_runs_stand_behind_them(lake: Lake) -> None:
    for _ in range(3):
        measured(lake, "g6e.xlarge", [step(1, 0.2, 180, 29), step(32, 3.0, 400, 60)])
    steps = read_steps(lake)
    found = {
        one.option.instance.instance_type: one.option.way
        for one in recommend(ask(), price, calibration_of(steps)).estimated
    }
    before = {one.option.instance.instance_type: one.option.way for one in recommend(ask(), price).estimated}
    assert found["g6e.xlarge"].priors.runs == 3
    assert found["g6e.12xlarge"].priors.runs == 3  # the same accelerator, engine and precision
    assert found["p5.4xlarge"].priors.runs == 0
    assert found["p5.4xlarge"] == before["p5.4xlarge"]
    assert found["g6e.xlarge"].estimate != before["g6e.xlarge"].estimate


def test_a_run_on_this_machine_or_of_a_foreign_server_teaches_nothing(lake: Lake) -> None:
    measured(lake, "local-1a2b3c4d", [step(1, 0.2, 90, 20)])
    steps = read_steps(lake)
    assert len(steps) == 1
    assert observations(steps) == []


def test_cached_prompts_say_nothing_of_prefill(lake: Lake) -> None:
    measured(lake, "g6e.xlarge", [step(1, 0.2, 90, 20, cached=0.6)])
    (one,) = observations(read_steps(lake))
    assert one.ttft_s is None
    assert one.requests_per_s is None
    assert one.tpot_s == 0.020


def test_replicas_share_the_load(lake: Lake) -> None:
    measured(lake, "g6e.12xlarge", [step(32, 8.0, 90, 20)], replicas=4)
    (one,) = observations(read_steps(lake))
    assert (one.concurrency, one.requests_per_s) == (8.0, 2.0)
    assert one.accelerator == load_instances()["g6e.12xlarge"].accelerator.id
