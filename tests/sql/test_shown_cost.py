"""The cost that ``show``, ``compare`` and ``query`` give beside a whole price list: the right offer, or why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.cli import state
from accelbench_assets.cli.compare import compare
from accelbench_assets.cli.costing import offers_here
from accelbench_assets.cli.query import query
from accelbench_assets.cli.results import read_results
from accelbench_assets.cli.runs import show
from accelbench_assets.lake.lake import Lake
from accelbench_assets.settings_groups import REGIONS
from accelbench_assets.sqlkit.duck import connect
from accelbench_assets.sqlkit.marts import build_marts
from tests.sql.cost_commands import Call, caller, succeeded
from tests.sql.price_lists import OFFERS, put_price_list
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run

G6 = "g6.xlarge"
TYPES = [G6, *(f"g6.made-up-{n}" for n in range(20))]


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.open((home / "lake").as_uri())


@pytest.fixture
def call(lake: Lake) -> Call:
    ask = caller(show, compare, query)
    return lambda *words: succeeded(ask(*words))


@pytest.fixture
def run_id(lake: Lake) -> str:
    """A run of two steps on an instance with a price list of its own."""
    record = put_run(lake, make_record(make_cell(instance=G6)))
    return str(record["run_id"])


def shown(call: Call, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("show", run, "--json").stdout)
    return found


def declare(lake: Lake, usd: str) -> None:
    """A price of one's own, told after the price list of the same day was kept."""
    row = make_price(G6, usd, tier="declared", region="unstated", snapshot_id="2026-11-02-2",
                     fetched_at="2026-11-02T09:00:00Z")  # fmt: skip
    put_prices(lake, [row], date="2026-11-02")


@pytest.mark.parametrize("built", [False, True])
def test_a_whole_price_list_makes_one_row_a_step(lake: Lake, call: Call, run_id: str, built: bool) -> None:
    rows = put_price_list(lake, TYPES)
    assert rows == len(TYPES) * len(REGIONS) * len(OFFERS) > 2500
    if built:
        build_marts(lake)
    found = shown(call, run_id)
    assert [(r["step_index"], r["tier"], r["region"], r["instance_hourly_usd"]) for r in found["cost"]] == [
        (0, "on_demand", "us-east-1", 10.0),
        (1, "on_demand", "us-east-1", 10.0),
    ]
    assert found["cost"][0]["usd_per_request"] == pytest.approx(10 / 3600 / 5, rel=1e-9)
    assert found["cost"][0]["other_prices"] == f"accelbench cost {run_id} --tier any --region any"
    assert "cost: at 10.0 USD/h, on_demand in us-east-1 as of 2026-11-02" in call("show", run_id).stdout
    (row, _) = json.loads(call("query", "--json").stdout)["rows"]
    assert (row["tier"], row["price_region"], row["instance_hourly_usd"]) == ("on_demand", "us-east-1", 10.0)
    (row, _) = json.loads(call("query", "--tier", "spot", "--region", "eu-west-1", "--json").stdout)["rows"]
    assert (row["tier"], row["price_region"]) == ("spot", "eu-west-1")


def test_only_the_prices_that_may_be_chosen_are_joined(lake: Lake, run_id: str) -> None:
    put_price_list(lake, TYPES)
    with connect(lake, only=("cost_per_token", "latest_prices"), rules=offers_here()) as db:
        assert db.execute("select count(*) from latest_prices").fetchone() == (len(TYPES),)
        assert db.execute("select count(*) from cost_per_token").fetchone() == (2,)


def test_no_older_days_file_is_opened(lake: Lake, call: Call, run_id: str) -> None:
    put_price_list(lake, [G6], day="2026-11-01")
    put_price_list(lake, [G6], day="2026-11-02")
    for key in lake.storage.list("facts/price_points/date=2026-11-01"):
        lake.storage.write(key, b"not parquet at all")
    assert shown(call, run_id)["cost"][0]["instance_hourly_usd"] == 10.0
    assert (
        json.loads(call("query", "--region", "eu-west-1", "--json").stdout)["rows"][0]["tier"] == "on_demand"
    )


def test_a_declared_price_goes_first(lake: Lake, call: Call, run_id: str) -> None:
    put_price_list(lake, [G6])
    declare(lake, "3")
    assert {(r["tier"], r["instance_hourly_usd"]) for r in shown(call, run_id)["cost"]} == {("declared", 3.0)}
    (row, _) = json.loads(call("query", "--json").stdout)["rows"]
    assert row["tier"] == "declared"


def test_the_regions_setting_decides(
    lake: Lake, call: Call, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_price_list(lake, [G6])
    monkeypatch.setenv("ACCELBENCH_REGION", "eu-west-1")
    (row, _) = shown(call, run_id)["cost"]
    assert (row["region"], row["instance_hourly_usd"]) == ("eu-west-1", 10.0 + REGIONS.index("eu-west-1"))


EVERY_TIER_HERE = tuple(("us-east-1", tier) for tier in {tier for tier, _, _ in OFFERS})


@pytest.mark.parametrize(
    ("but", "says"),
    [
        ((("us-east-1", "on_demand"),), "there is a price of tier reserved_1y, reserved_3y, savings_1y and 2 more"),
        (EVERY_TIER_HERE, "there is an on-demand price in ap-northeast-1, ap-south-1, ap-southeast-2 and 5 more"),
        ((*EVERY_TIER_HERE, *((region, "on_demand") for region in REGIONS)), "there are prices of other tiers in"),
    ],
)  # fmt: skip
def test_another_price_is_never_taken_silently(
    lake: Lake, call: Call, run_id: str, but: tuple[tuple[str, str], ...], says: str
) -> None:
    put_price_list(lake, [G6], but=but)
    for row in shown(call, run_id)["cost"]:
        assert (row["instance_hourly_usd"], row["usd_per_request"], row["tier"]) == (None, None, None)
        assert row["missing_reason"].startswith(f"no on_demand price in us-east-1 is known for {G6}; {says}")
        assert f"`accelbench cost {run_id} --" in row["missing_reason"]
    assert says in call("show", run_id).stdout
    for row in json.loads(call("query", "--json").stdout)["rows"]:
        assert row["instance_hourly_usd"] is None
        assert row["missing_reason"] == f"no on_demand price in us-east-1 is known for {G6}"


def test_the_lists_own_reason_stays_and_where_else_is_added(lake: Lake, call: Call, run_id: str) -> None:
    put_prices(
        lake,
        [
            make_price(G6, None, missing_reason="sold as capacity blocks only"),
            make_price(G6, "7", region="eu-west-1"),
        ],
    )
    (row, _) = shown(call, run_id)["cost"]
    assert row["missing_reason"] == (
        "sold as capacity blocks only; there is an on-demand price in eu-west-1 "
        f"(`accelbench cost {run_id} --region eu-west-1`)"
    )


def test_without_any_price_the_runs_own_reason_stands(lake: Lake, call: Call) -> None:
    record = put_run(lake, make_record(make_cell(instance=G6), cost_missing_reason="nobody declared one"))
    state.reset()
    results = read_results(lake, record)
    assert {row["missing_reason"] for row in results.cost} == {"nobody declared one"}


def test_compare_says_what_each_is_priced_at(lake: Lake, call: Call, run_id: str) -> None:
    other = put_run(lake, make_record(make_cell(instance="g5.xlarge")))
    put_price_list(lake, [G6, "g5.xlarge"])
    declare(lake, "3")
    text = call("compare", "--runs", f"{run_id},{other['run_id']}").stdout
    assert "$/1M out of A: at 3.00 USD/h, this machine's declared price as of 2026-11-02" in text
    assert "$/1M out of B: at 10.0 USD/h, on_demand in us-east-1 as of 2026-11-02" in text
