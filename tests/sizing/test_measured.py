"""Measured runs of a lake: a list of their own, only what answers the question, and what they teach the estimates."""

from decimal import Decimal
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sizing.ask import Ask, find_instances
from accelbench_assets.sizing.measured import calibration_of, observations, rank, read_steps
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
    carried = rank(read_steps(lake), ask(rps=30.0, **OBJECTIVE), price).rows
    assert [(row.step.instance_type, row.cost.instances) for row in carried] == [
        ("p5.4xlarge", 2),
        ("g6e.xlarge", 20),
        ("p5e.48xlarge", 1),
    ]


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
