"""What may stand for a capacity: limits that a run shows, of one origin, and one row a cell in the ranking."""

from __future__ import annotations

from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.duck import query
from tests.sql.cost_lake import ALPHA, BETA, GAMMA, MIXES, put_mixes, put_steps
from tests.support.runs import make_cell, make_price, make_record, put_prices


def step(kind: str, load: float, rate: float, decision: str = "pass", **more: Any) -> dict[str, Any]:
    return {"load_kind": kind, "load_value": load, "requests_per_s": rate, "input_tokens_per_s": rate * 1000,
            "output_tokens_per_s": rate * 200, "decision": decision, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "limits"),
    [
        ([step("open", 2, 2)], {"at_slo": False, "floor": False}),
        ([step("open", 2, 2), step("open", 3, 2.9)], {"at_slo": False, "floor": False}),
        ([step("open", 2, 2), step("open", 2.2, 2.15, "fail")], {"at_slo": True, "floor": False}),
        ([step("open", 2, 2), step("open", 4, 3.9, "fail")], {"at_slo": False, "floor": False}),
        ([step("open", 2, 2), step("open", 4, 2.1, "undecided", saturation_label="overloaded")],
         {"at_slo": True, "floor": True}),
        ([step("open", 2, 2), step("closed", 8, 2.1, "fail")], {"at_slo": True, "floor": False}),
        ([step("open", 2, 2), step("closed", 1, 0.4, "fail")], {"at_slo": False, "floor": False}),
        ([step("closed", 1, 1)], {"floor": False}),
        ([step("closed", 8, 4), step("closed", 16, 7.5)], {"floor": False}),
        ([step("closed", 8, 7), step("closed", 16, 7.5)], {"floor": True}),
        ([step("closed", 8, 7.5), step("closed", 16, 7.2)], {"floor": True}),
        ([step("closed", 8, 4), step("closed", 16, 7, saturation_label="admission-limited")], {"floor": True}),
    ],
)  # fmt: skip
def test_a_rate_is_a_limit_only_where_the_run_shows_it(
    local_lake: Lake, steps: list[dict[str, Any]], limits: dict[str, bool]
) -> None:
    put_steps(local_lake, make_record(make_cell()), [dict(one) for one in steps])
    found = query(local_lake, "select basis, is_bounded from reporting_points").to_pylist()
    assert {row["basis"]: row["is_bounded"] for row in found} == limits


def put_points(lake: Lake, origins: list[str], evidence: str = "standard", *, limit: bool = True) -> None:
    for (workload, (n_in, n_out)), origin in zip(MIXES.items(), origins, strict=True):
        rate = 1 / (ALPHA * n_in + BETA * n_out + GAMMA)
        tokens = {"input_tokens_per_s": rate * n_in, "output_tokens_per_s": rate * n_out}
        steps = [step("open", rate, rate) | tokens]
        if limit:
            steps.append(step("open", 1.2 * rate, rate, "fail") | tokens)
        cell = make_cell(instance="g6e.xlarge", workload=workload)
        put_steps(lake, make_record(cell, origin=origin, evidence_level=evidence), steps)


SPLIT = "usd_per_1m_output_regression"


def test_cells_of_different_origin_are_never_fitted_together(local_lake: Lake) -> None:
    put_points(local_lake, ["measured", "simulated", "simulated", "simulated"])
    put_prices(local_lake, [make_price("g6e.xlarge", "2")])
    fits = query(local_lake, "select * from mix_regression where basis = 'at_slo'").to_pylist()
    assert {(row["origin"], row["mixes"], row["input_token_s"]) for row in fits} == {
        ("measured", 1, None),
        ("simulated", 3, None),
    }
    rows = query(
        local_lake, f"select origin, {SPLIT}, regression_missing_reason from cost_per_token"
    ).to_pylist()
    assert all(row[SPLIT] is None for row in rows)
    reasons = {(row["origin"], row["regression_missing_reason"][0]) for row in rows}
    assert reasons == {("measured", "1"), ("simulated", "3")}


def test_four_of_one_origin_are_fitted_and_rates_that_are_no_limit_are_not(local_lake: Lake) -> None:
    put_mixes(local_lake, MIXES)
    put_points(local_lake, ["simulated"] * 4, limit=False)
    put_prices(local_lake, [make_price("g6e.xlarge", "2")])
    rows = query(
        local_lake, f"select distinct origin, {SPLIT} is null as none from cost_per_token"
    ).to_pylist()
    assert {(row["origin"], row["none"]) for row in rows} <= {("measured", False), ("simulated", True)}
    assert {row["origin"] for row in rows} & {"measured", "simulated"}


def test_a_cell_has_one_rank_whatever_zones_and_classes_its_prices_have(local_lake: Lake) -> None:
    for instance in ("g6.xlarge", "g6e.xlarge"):
        put_steps(local_lake, make_record(make_cell(instance=instance)), [step("open", 5, 5)])
    spot = [make_price("g6.xlarge", f"0.3{n}", tier="spot", zone=f"zone-{n}") for n in range(3)]
    reserved = [
        make_price("g6.xlarge", usd, tier="reserved_1y", payment_option="no_upfront", offering_class=kind)
        for kind, usd in (("standard", "0.5"), ("convertible", "0.6"))
    ]
    other = [
        make_price("g6e.xlarge", "0.5", tier="spot", zone="zone-0"),
        make_price(
            "g6e.xlarge", "0.9", tier="reserved_1y", payment_option="no_upfront", offering_class="standard"
        ),
    ]
    put_prices(local_lake, [*spot, *reserved, *other])
    rows = query(local_lake, "select * from ranking").to_pylist()
    found = {(r["tier"], r["price_rank"]): (r["instance_type"], r["zone"], r["offering_class"]) for r in rows}
    assert len(rows) == len(found) == 4
    assert found == {
        ("spot", 1): ("g6.xlarge", "zone-0", None),
        ("spot", 2): ("g6e.xlarge", "zone-0", None),
        ("reserved_1y", 1): ("g6.xlarge", None, "standard"),
        ("reserved_1y", 2): ("g6e.xlarge", None, "standard"),
    }


@pytest.mark.parametrize(
    ("usd", "more", "reason"),
    [
        ("0", {}, "a price of 0.0000000000 USD an hour is none"),
        ("1000001", {}, "a price of over a million USD an hour is none"),
        ("1", {"effective_from": "2027-06-01T00:00:00Z"}, "the price was not in force yet when it was asked for"),
    ],
)  # fmt: skip
def test_an_impossible_price_is_none_whoever_wrote_it(
    local_lake: Lake, usd: str, more: dict[str, Any], reason: str
) -> None:
    put_steps(local_lake, make_record(make_cell(instance="g6.xlarge")), [step("open", 5, 5)])
    put_prices(local_lake, [make_price("g6.xlarge", usd, **more)])
    (price,) = query(local_lake, "select instance_hourly_usd, missing_reason from latest_prices").to_pylist()
    assert price == {"instance_hourly_usd": None, "missing_reason": reason}
    (cost,) = query(local_lake, "select usd_per_request, missing_reason from cost_per_token").to_pylist()
    assert cost == {"usd_per_request": None, "missing_reason": reason}
    assert query(local_lake, "select * from ranking").num_rows == 0
