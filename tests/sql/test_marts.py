"""What the marts say: costs and their gaps, who ranks, which run is current."""

from __future__ import annotations

import math
from typing import Any

import pytest

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.marts import build_marts
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run, write_derived

G6 = "g6.xlarge"


def put_result(
    lake: Lake, record: dict[str, Any], *, slo: str | None = "pass", **rates: float
) -> dict[str, Any]:
    put_run(lake, record, steps=1)
    write_derived(lake, record, steps=1, slo=slo, **rates)
    return record


# -- cost (its golden vectors: test_cost_golden) -------------------------------------------------------------


def close(found: float | None, want: float) -> bool:
    return found is not None and math.isclose(found, want, rel_tol=1e-9)


def test_a_tenth_of_the_price_of_cached_input_and_two_instances(local_lake: Lake) -> None:
    record = make_record(make_cell(instance=G6), instance_count=2)
    put_result(local_lake, record, prefix_cache_hit_share=0.5)
    put_prices(local_lake, [make_price(G6, "5")])
    (row,) = query(local_lake, "select * from cost_per_token").to_pylist()
    assert close(row["usd_per_request"], 10 / 3600 / 5)
    assert close(row["usd_per_1m_input_split"], 1e7 / (3600 * (2500 + 0.1 * 2500 + 4 * 1000)))


def test_only_the_latest_price_of_each_offer_counts(local_lake: Lake) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6)))
    put_prices(local_lake, [make_price(G6, "9", fetched_at="2026-10-01T00:00:00Z")], date="2026-10-01")
    put_prices(local_lake, [make_price(G6, "7"), make_price(G6, "3", tier="spot", zone="a")])
    rows = query(local_lake, "select tier, instance_hourly_usd from cost_per_token order by tier").to_pylist()
    assert rows == [
        {"tier": "on_demand", "instance_hourly_usd": 7.0},
        {"tier": "spot", "instance_hourly_usd": 3.0},
    ]


def test_a_type_of_several_snapshots_is_joined_once_with_its_newest_facts(local_lake: Lake) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6), accelerators_used=1))
    put_prices(local_lake, [make_price(G6, "5")])
    for day, count in (("2026-10-01", 1), ("2026-11-02", 4), ("2026-11-01", 8)):
        fact = {"instance_type": G6, "family": "g6", "accelerator_count": count, "as_of": day}
        local_lake.write_fact("instance_types", day, table_from_rows("instance_types", [fact]))
    rows = query(local_lake, "select accelerators_billed, usage_share from cost_per_token").to_pylist()
    assert rows == [{"accelerators_billed": 4, "usage_share": 0.25}]


def test_what_has_no_price_says_why(local_lake: Lake) -> None:
    put_result(local_lake, make_record())
    put_result(local_lake, make_record(make_cell(instance=G6)))
    put_result(local_lake, make_record(make_cell(instance="g5.xlarge")), output_tokens_per_s=0.0)
    gap = make_price(G6, None, missing_reason="not sold on demand in this region")
    put_prices(local_lake, [gap, make_price("g5.xlarge", "1")])
    rows = query(
        local_lake,
        "select instance_type, usd_per_1m_output_full_hour as usd, missing_reason from cost_per_token",
    ).to_pylist()
    assert {row["instance_type"]: row["missing_reason"] for row in rows} == {
        "local-1a2b3c4d": "no price is known for local-1a2b3c4d",
        G6: "not sold on demand in this region",
        "g5.xlarge": "no output tokens were measured",
    }
    assert all(row["usd"] is None for row in rows)


def test_a_declared_price_is_marked(local_lake: Lake) -> None:
    put_result(local_lake, make_record())
    put_prices(
        local_lake, [make_price("local-1a2b3c4d", "0.5", tier="declared", provider="user", region="here")]
    )
    (row,) = query(local_lake, "select price_declared, tier, missing_reason from cost_per_token").to_pylist()
    assert row == {"price_declared": True, "tier": "declared", "missing_reason": None}


# -- ranking -------------------------------------------------------------------------------------------------


def ranking(lake: Lake) -> list[tuple[int, str]]:
    rows = query(lake, "select price_rank, instance_type from price_performance").to_pylist()
    return sorted((row["price_rank"], row["instance_type"]) for row in rows)


VOID = {"errors": {"verdict": "void", "value": 0.5, "limit": 0.01, "text": "half failed"}}
UNRANKED: dict[str, dict[str, Any]] = {
    "g5.xlarge": {"origin": "simulated"},
    "g5.2xlarge": {"origin": "estimated"},
    "g5.4xlarge": {"origin": "external"},
    "g5.8xlarge": {"evidence_level": "demo"},
    "g5.12xlarge": {"evidence_level": "smoke"},
    "g5.16xlarge": {"validity": VOID},
    "g5.24xlarge": {"origin": "simulated", "evidence_level": "publication"},
}


def test_what_is_not_solid_measurement_never_ranks(local_lake: Lake) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6)))
    for instance, change in UNRANKED.items():
        put_result(local_lake, make_record(make_cell(instance=instance), **change), output_tokens_per_s=1e6)
    put_prices(local_lake, [make_price(G6, "1"), *(make_price(instance, "0.01") for instance in UNRANKED)])
    assert ranking(local_lake) == [(1, G6)]
    build_marts(local_lake)
    assert ranking(local_lake) == [(1, G6)]
    assert query(local_lake, "select instance_type from ranking").to_pylist() == [{"instance_type": G6}]
    seen = query(local_lake, "select distinct instance_type from cost_per_token where missing_reason is null")
    assert seen.num_rows == 1 + len(UNRANKED), "they are shown, marked, but not ranked"


@pytest.mark.parametrize("how", ["void step", "missed target", "superseded", "withdrawn", "older", "failed"])
def test_steps_and_runs_that_do_not_count_never_rank(local_lake: Lake, how: str) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6)))
    record = make_record(make_cell(instance="g5.xlarge"))
    if how == "failed":
        record |= {"status": "failed"}
        write_derived(local_lake, record, output_tokens_per_s=1e6)
        local_lake.finish(record)
    else:
        put_result(
            local_lake, record, slo="fail" if how == "missed target" else "pass", output_tokens_per_s=1e6
        )
    if how == "void step":
        steps = local_lake.read_table("run_steps").to_pylist()
        (mine,) = [{**row, "verdict": "void"} for row in steps if row["run_id"] == record["run_id"]]
        local_lake.write_run_table("run_steps", record, table_from_rows("run_steps", [mine]))
    if how in ("superseded", "withdrawn"):
        by = "another" if how == "superseded" else None
        row = {
            "run_id": record["run_id"],
            "superseded_by": by,
            "reason": "wrong driver",
            "at": "2026-11-02T00:00:00Z",
        }
        local_lake.write_fact("supersessions", "2026-11-02", table_from_rows("supersessions", [row]))
    if how == "older":
        newer = make_record(make_cell(instance="g5.xlarge"), load_finished_at="2026-11-03T00:00:00Z")
        put_result(local_lake, newer, slo="fail")
    put_prices(local_lake, [make_price(G6, "1"), make_price("g5.xlarge", "0.01")])
    assert ranking(local_lake) == [(1, G6)]


def test_the_ranking_is_by_cost_within_model_workload_and_offer(local_lake: Lake) -> None:
    for instance, rate in ((G6, 1000.0), ("g5.xlarge", 2000.0), ("g6e.xlarge", 1000.0)):
        put_result(local_lake, make_record(make_cell(instance=instance)), output_tokens_per_s=rate)
    put_result(local_lake, make_record(make_cell(model="other", instance=G6)))
    put_prices(local_lake, [make_price(G6, "1"), make_price("g5.xlarge", "1"), make_price("g6e.xlarge", "1")])
    assert ranking(local_lake) == [(1, "g5.xlarge"), (1, G6), (2, G6), (2, "g6e.xlarge")]


def test_a_step_that_loses_requests_never_ranks_and_a_publication_goes_first(local_lake: Lake) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6), evidence_level="standard"))
    lossy = make_record(make_cell(instance="g5.xlarge"), evidence_level="standard")
    put_result(local_lake, lossy, output_tokens_per_s=1e6, error_rate=0.4)
    put_prices(local_lake, [make_price(name, "1") for name in (G6, "g5.xlarge", "g6e.xlarge")])
    for trial in range(5):
        proven = make_record(
            make_cell(instance="g6e.xlarge"), evidence_level="publication", trial_index=trial
        )
        put_result(local_lake, proven, output_tokens_per_s=10.0)
        # One trial proves no more than a standard run does: it takes five.
        first = [(1, "g6e.xlarge"), (2, G6)] if trial == 4 else [(1, G6), (2, "g6e.xlarge")]
        assert ranking(local_lake) == first


@pytest.mark.parametrize("rate", ["requests_per_s", "input_tokens_per_s", "output_tokens_per_s"])
def test_every_absent_cost_says_why(local_lake: Lake, rate: str) -> None:
    put_result(local_lake, make_record(make_cell(instance=G6)), **{rate: 0.0})
    put_prices(local_lake, [make_price(G6, "1")])
    rows = query(local_lake, "select usd_per_request, missing_reason from cost_per_token").to_pylist()
    assert rows[0]["missing_reason"]
    assert ranking(local_lake) == []


def test_a_cell_stands_by_its_cheapest_step_that_meets_the_target(local_lake: Lake) -> None:
    record = make_record(make_cell(instance=G6))
    put_run(local_lake, record, steps=2)
    steps = local_lake.read_table("run_steps").to_pylist()
    for row, rate in zip(steps, (100.0, 500.0), strict=True):
        row["output_tokens_per_s"] = rate
    local_lake.write_run_table("run_steps", record, table_from_rows("run_steps", steps))
    put_prices(local_lake, [make_price(G6, "1")])
    (row,) = query(local_lake, "select step_index, basis, price_rank from ranking").to_pylist()
    assert row == {"step_index": 1, "basis": "at_slo", "price_rank": 1}
    slos = local_lake.read_table("slo_results").to_pylist()
    slos[1]["decision"] = "fail"
    local_lake.write_run_table("slo_results", record, table_from_rows("slo_results", slos))
    (row,) = query(local_lake, "select step_index from ranking").to_pylist()
    assert row == {"step_index": 0}


# -- results and coverage ------------------------------------------------------------------------------------


def test_a_lower_evidence_level_never_replaces_a_higher_one(local_lake: Lake) -> None:
    solid = put_result(local_lake, make_record())
    put_result(local_lake, make_record(evidence_level="demo", load_finished_at="2026-12-01T00:00:00Z"))
    put_result(
        local_lake,
        make_record(
            origin="simulated", evidence_level="publication", load_finished_at="2026-12-02T00:00:00Z"
        ),
    )
    current = query(local_lake, "select run_id from benchmark_results where is_current").to_pylist()
    assert current == [{"run_id": solid["run_id"]}]
    assert query(local_lake, "select count(*) as n from benchmark_results").to_pylist() == [{"n": 3}]


def test_results_show_quantiles_beside_their_gates(local_lake: Lake) -> None:
    put_result(local_lake, make_record(make_cell(instance="p6-b200.48xlarge")))
    (row,) = query(local_lake, "select * from benchmark_results").to_pylist()
    assert row["ttft_p50_ms"] == pytest.approx(10.1)
    assert row["ttft_p50_gate"] == "published"
    assert row["e2e_p90_ms"] == pytest.approx(41.1)
    assert (row["tpot_p99_ms"], row["tpot_p99_gate"], row["tpot_p99_needs_n"]) == (None, "needs_n", 2000)
    assert (row["family"], row["model"], row["verdict"]) == ("p6", "smollm2-135m-instruct", "pass")
    assert f"{row['deployment']}~{row['workload_id']}" == row["cell_key"]
    assert (row["slo_id"], row["slo_decision"], row["goodput_rps"]) == ("chat", "pass", 4.0)


def test_the_verdict_is_the_worst_of_run_and_step(local_lake: Lake) -> None:
    rules = {"a": {"verdict": "pass", "value": 1}, "b": {"verdict": "warn", "value": 2}}
    put_result(local_lake, make_record(validity=rules))
    assert query(local_lake, "select verdict from benchmark_results").to_pylist() == [{"verdict": "warn"}]
