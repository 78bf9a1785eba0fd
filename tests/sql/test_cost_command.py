"""``accelbench cost``: any price of a run, replicas for a rate, and what we have spent ourselves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from accelbench_assets.cli.cost import cost
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.lake.lake import Lake
from tests.sql.cost_commands import Call, caller, succeeded
from tests.sql.cost_lake import BE, FLAT, G6, put_golden, put_golden_prices, put_instances
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.open((home / "lake").as_uri())


@pytest.fixture
def ask(lake: Lake) -> Call:
    return caller(cost)


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeeded(result).stdout)
    return found


@pytest.fixture
def run_id(lake: Lake) -> str:
    record = put_golden(lake)
    put_golden_prices(lake)
    put_instances(lake, {G6: 4})
    return str(record["run_id"])


def test_a_runs_cost_at_the_prices_of_a_region(ask: Call, run_id: str) -> None:
    found = document(ask(run_id, "--region", FLAT, "--json"))
    assert found["run_id"] == run_id
    assert [row["step_index"] for row in found["rows"]] == [0, 1]
    row = found["rows"][1]
    assert (row["tier"], row["region"], row["hourly_usd"]) == ("on_demand", FLAT, 10.0)
    assert row["usd_per_request"] == pytest.approx(10 / 3600 / 5, rel=1e-9)
    assert found["projection"] == []
    table = ask(run_id[:18], "--region", FLAT).stdout
    assert "0.000556" in table
    assert "never add the two" in table
    assert "1 of 4 accelerators were used; whole instances are billed" in table


def test_every_tier_region_and_payment_can_be_asked_for(ask: Call, run_id: str) -> None:
    found = document(ask(run_id, "--region", "any", "--tier", "any", "--json"))["rows"]
    assert {(row["tier"], row["region"]) for row in found} >= {
        ("spot", BE),
        ("on_demand", FLAT),
        ("reserved_3y", "r-3y"),
    }
    (first, second) = document(
        ask(run_id, "--region", BE, "--tier", "reserved_1y", "--payment", "partial_upfront", "--json")
    )["rows"]
    assert (first["instance_hourly_usd"], second["instance_hourly_usd"]) == (6.0, 6.0)
    rows = list(
        csv.DictReader(
            ask(run_id, "--region", "any", "--tier", "spot", "--format", "csv").stdout.splitlines()
        )
    )
    assert [row["zone"] for row in rows] == ["r-be-a", "r-be-a"]


def test_what_has_no_price_says_why(ask: Call, run_id: str) -> None:
    (row, _) = document(ask(run_id, "--region", "r-gone", "--json"))["rows"]
    assert row["missing_reason"] == "not sold on demand in this region"
    (row, _) = document(ask(run_id, "--region", "nowhere", "--json"))["rows"]
    assert (row["usd_per_request"], row["hourly_usd"]) == (None, None)
    assert row["missing_reason"].startswith("no on_demand price in nowhere is known")
    (row, _) = document(
        ask(run_id, "--region", FLAT, "--tier", "on_demand", "--as-of", "2020-01-01", "--json")
    )["rows"]
    assert "as of 2020-01-01" in row["missing_reason"]
    assert "no on_demand price in nowhere" in ask(run_id, "--region", "nowhere").stdout


def test_utilization_divides_every_cost_and_nothing_else(ask: Call, run_id: str) -> None:
    whole = document(ask(run_id, "--region", FLAT, "--json"))["rows"][1]
    used = document(ask(run_id, "--region", FLAT, "--utilization", "0.4", "--json"))["rows"][1]
    assert used["usd_per_request"] == pytest.approx(0.001388888889, rel=1e-9)
    assert used["utilisation"] == 0.4
    changed = {name for name in whole if whole[name] is not None and whole[name] != used[name]}
    assert changed == {name for name in whole if name.startswith("usd_per_") and whole[name] is not None}
    assert used["hourly_usd"] == whole["hourly_usd"] == 10.0


def test_replicas_and_dollars_a_month_for_a_rate(ask: Call, run_id: str) -> None:
    (row,) = document(ask(run_id, "--region", FLAT, "--rps", "12", "--curve", "flat", "--json"))["projection"]
    assert (row["replicas"], row["usd_per_month"]) == (4, pytest.approx(29200, rel=1e-9))
    assert row["autoscaled_usd_per_month"] == pytest.approx(29200, rel=1e-9)
    assert row["utilisation_at_peak"] == pytest.approx(0.6)
    assert row["cold_start_usd"] == 1.0
    found = document(ask(run_id, "--region", BE, "--tier", "any", "--rps", "12", "--json"))["projection"]
    even = {row["tier"]: row["break_even_utilisation"] for row in found}
    assert even == {
        "on_demand": None,
        "spot": None,
        "reserved_1y": pytest.approx(0.6),
        "capacity_block": pytest.approx(0.8),
    }
    table = ask(run_id, "--region", FLAT, "--rps", "12").stdout
    assert "29,200" in table


def test_no_replicas_are_counted_from_saturation(ask: Call, lake: Lake) -> None:
    record = put_run(lake, make_record(make_cell(instance=G6)))  # a closed loop alone, however good
    put_prices(lake, [make_price(G6, "10")])
    result = ask(record["run_id"], "--rps", "12", "--json")
    assert document(result)["projection"] == []
    assert "No replicas are counted" in result.stderr


def test_the_current_run_of_a_cell_and_a_declared_price(ask: Call, lake: Lake) -> None:
    cell = make_cell()
    put_run(lake, make_record(cell))
    last = put_run(lake, make_record(cell, load_finished_at="2026-11-09T00:00:00Z"))
    put_prices(lake, [make_price(cell.instance, "0.5", tier="declared", region="unstated", provider="local")])
    found = document(ask("--cell", cell.cell_id[:6], "--json"))
    assert found["run_id"] == last["run_id"]
    assert {(row["tier"], row["hourly_usd"]) for row in found["rows"]} == {("declared", 0.5)}


def test_without_a_run_it_says_what_we_have_spent(ask: Call, lake: Lake) -> None:
    assert document(ask("--json")) == {"rows": []}
    lake.finish(make_record(status="failed", run_cost_usd=1.25, torn_down_at="2026-11-02T00:00:00Z"))
    lake.finish(make_record(status="cancelled", run_cost_usd=0.5, torn_down_at="2026-11-03T00:00:00Z"))
    rows = document(ask("--json"))["rows"]
    assert [(row["status"], row["usd"], row["month_to_date_usd"]) for row in rows] == [
        ("cancelled", 0.5, 1.75),
        ("failed", 1.25, 1.25),
    ]
    assert "month to date" in ask().stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("RUN", "--cell", "x"), "choose one"),
        (("RUN", "--rps", "0"), "--rps: 0"),
        (("RUN", "--utilization", "1.5"), "--utilization: 1.5"),
        (("RUN", "--curve", "office"), "--curve needs --rps"),
        (("RUN", "--rps", "1", "--curve", "square"), "one of flat, office, consumer"),
        (("RUN", "--as-of", "yesterday"), "--as-of: 'yesterday' is not a day"),
        (
            ("RUN", "--tier", "spott", "--region", BE),
            "--tier: no price of this instance has 'spott'. Did you mean spot",
        ),
        (("RUN", "--payment", "cash", "--region", BE), "--payment: no price of this instance has 'cash'"),
        (("no-such-run",), "No run"),
        (("--cell", "no-such-cell"), "No cell"),
    ],
)
def test_a_wrong_question_is_one_sentence(ask: Call, run_id: str, words: tuple[str, ...], said: str) -> None:
    result = ask(*(run_id if word == "RUN" else word for word in words))
    assert isinstance(result.exception, UsageError), result.output
    assert said in str(result.exception)


def test_a_run_without_results_has_no_cost(ask: Call, lake: Lake) -> None:
    record = make_record(status="failed")
    lake.finish(record)
    result = ask(record["run_id"])
    assert isinstance(result.exception, AccelBenchError)
    assert "has no results" in str(result.exception)
