"""``accelbench prices``: every row with its day and its source, clear errors, JSON and CSV of the same columns."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from accelbench_assets.cli import prices as command
from accelbench_assets.cli import state
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.refresh import take
from accelbench_assets.settings import load_settings
from tests.pricing.price_server import Prices

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _fresh(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    state.reset()


def run(*words: str) -> Result:
    state.reset()
    return CliRunner().invoke(command.app, list(words))


def listed(*words: str) -> list[dict[str, Any]]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.exception
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return rows


def refused(*words: str) -> str:
    error = run(*words).exception
    assert isinstance(error, UsageError), error
    return str(error)


def test_the_packaged_prices_are_listed_before_there_is_any_snapshot() -> None:
    result = run("list", "--instance", "g6e")
    assert result.exit_code == 0
    assert "g6e.2xlarge" in result.stdout
    assert "2.24208" in result.stdout  # exact, not rounded
    assert "2026-07-20" in result.stdout
    assert "these are the packaged ones" in result.stderr
    assert all(row["source"] for row in listed("list") if row["effective_usd_per_hour"] is not None)


def test_list_filters_by_tier_provider_region_and_gap() -> None:
    assert {r["provider"] for r in listed("list", "--provider", "runpod")} == {"runpod"}
    assert {r["instance_type"] for r in listed("list", "--missing", "--instance", "p5e")} == {"p5e.48xlarge"}
    rows = listed("list", "--tier", "any", "--instance", "p5.48xlarge")
    assert {r["tier"] for r in rows} >= {"on_demand", "reserved_1y", "savings_3y", "spot", "capacity_block"}
    assert all("accelbench prices refresh" in r["missing_reason"] for r in rows if r["tier"] != "on_demand")
    assert "Did you mean on_demand" in refused("list", "--tier", "ondemand")
    assert "--provider: 'ibm'" in refused("list", "--provider", "ibm")
    assert "--region: 'moon-1'" in refused("list", "--region", "moon-1")
    assert "is not a day" in refused("list", "--as-of", "yesterday")


def test_csv_has_the_columns_of_json() -> None:
    result = run("list", "--instance", "p5.48xlarge", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert tuple(row) == command.FIELDS
    assert row["effective_usd_per_hour"] == "55.04"
    assert row["fetched_at"] == "2026-07-20T00:00:00Z"


def test_show_has_every_tier_and_names_near_types() -> None:
    assert {r["instance_type"] for r in listed("show", "trn2.48xlarge")} == {"trn2.48xlarge"}
    assert "Did you mean" in refused("show", "p5.48xlrge")


def test_refresh_asks_and_the_list_shows_it(asking: Prices) -> None:
    result = run("refresh", "--provider", "aws", "--source", "bulk", "--region", "eu-west-1,us-east-1")
    assert result.exit_code == 0, result.exception
    assert result.stdout.count("ok") == 8
    (row,) = listed("list", "--instance", "p5.48xlarge", "--region", "eu-west-1")
    assert row["effective_usd_per_hour"] == 77.77
    assert row["fetched_at"].startswith(NOW.date().isoformat()[:8])
    assert len(row["source_sha256"]) == 64
    assert "eu-west-1/index.csv" in row["source"]
    (spot,) = listed("list", "--tier", "spot", "--instance", "p5.48xlarge", "--region", "eu-west-1")
    assert "--region eu-west-1 --source api" in spot["missing_reason"]


def test_a_refresh_that_reaches_nobody_fails_and_keeps_what_was(asking: Prices) -> None:
    asking.refuse["bulk", ""] = (503, "")
    result = run("refresh", "--source", "bulk")
    assert isinstance(result.exception, AccelBenchError)
    assert "the last good prices stand" in str(result.exception)
    assert result.stdout.count("failed") == 4
    (row,) = listed("list", "--instance", "p5.48xlarge")
    assert row["effective_usd_per_hour"] == 55.04


def test_what_cannot_be_refreshed_is_refused() -> None:
    assert "come with the package" in refused("refresh", "--provider", "lambda")
    assert "--source: 'ftp'" in refused("refresh", "--source", "ftp")
    assert "--provider: 'ibm'" in refused("refresh", "--provider", "ibm")


def test_diff_between_days(prices: Prices) -> None:
    assert "not two days" in refused("diff")
    lake = Lake.open(load_settings().lake_url)
    before = NOW - timedelta(days=1)
    sources = prices.settings()
    take(lake, before.date(), sources, now=before)
    prices.changed["77.7700000000"] = "70.0000000000"
    prices.changed["66.6600000000"] = "?"
    take(lake, NOW.date(), sources, now=NOW)
    rows = {row["price"]: row for row in listed("diff")}
    assert rows["aws us-east-1 p5.48xlarge on_demand"] == {
        "price": "aws us-east-1 p5.48xlarge on_demand",
        "was": "77.77",
        "is": "70",
        "change": "-9.99 %",
        "says": "",
    }
    assert len(rows) == 1  # the tier that could not be read kept its prices
    assert "is not before" in refused(
        "diff", "--from", NOW.date().isoformat(), "--to", before.date().isoformat()
    )
    assert [
        r["effective_usd_per_hour"]
        for r in listed("list", "--instance", "p5.48xlarge", "--as-of", before.date().isoformat())
    ] == [77.77]


def test_refresh_and_diff_say_what_failed_vanished_or_is_not_believed(asking: Prices) -> None:
    lake = Lake.open(load_settings().lake_url)
    before = NOW - timedelta(days=1)
    take(lake, before.date(), asking.settings(), now=before)
    asking.gone.add("p4d.24xlarge")
    asking.changed['"77.7700000000"'] = '"983.2000000000"'
    asking.changed['"LeaseContractLength"'] = '"Lease"'
    asking.changed['"Hosting"'] = '"Endpoint"'
    result = run("refresh", "--source", "bulk", "--json")
    assert result.exit_code == 0, result.exception
    units = {row["unit"]: row for row in json.loads(result.stdout)["rows"]}
    assert units["aws us-east-1 price list"]["state"] == "partly"
    assert (
        "not believed: the answer has no reserved 1y price where 7 were known"
        in units["aws us-east-1 price list"]["says"]
    )
    failed = units["aws-sagemaker us-east-1 price list"]
    assert (failed["state"], failed["rows"], failed["priced"]) == ("failed", 0, 0)
    assert "the answer has no on-demand price where 20 were known" in failed["says"]
    assert "`accelbench prices refresh --accept-fewer`" in failed["says"]
    assert failed["last_good"].startswith(before.date().isoformat())
    assert units["aws us-east-1 savings plans"] | {"says": ""} == {
        "unit": "aws us-east-1 savings plans", "rows": 118, "priced": 12, "state": "ok", "last_good": None, "says": "",
    }  # fmt: skip
    said = result.stderr
    assert (
        "warning: no price, not believed: aws us-east-1 p5.48xlarge on_demand: implausible: 983.2 USD/h"
        in said
    )
    assert (
        "warning: vanished since the day before: aws us-east-1 p4d.24xlarge on_demand: 21.957642 before"
        in said
    )

    shown = run("diff", "--json")
    rows = {row["price"]: row for row in json.loads(shown.stdout)["rows"]}
    assert set(rows) == {"aws us-east-1 p5.48xlarge on_demand", "aws us-east-1 p4d.24xlarge on_demand"}
    assert rows["aws us-east-1 p5.48xlarge on_demand"]["change"] == "implausible"
    assert "983.2 USD/h" in rows["aws us-east-1 p5.48xlarge on_demand"]["says"]
    gone = rows["aws us-east-1 p4d.24xlarge on_demand"]
    assert (gone["was"], gone["is"], gone["change"]) == ("21.957642", "-", "vanished")
    assert gone["says"] == "not on the on-demand price list of us-east-1"
    day = f"kept from {before:%Y-%m-%d %H:%M} UTC, no usable answer since"
    assert f"{day}: 20 prices of aws-sagemaker us-east-1 on demand" in shown.stderr
    assert f"{day}: 7 prices of aws us-east-1 reserved 1y" in shown.stderr
    assert "of aws us-east-1 savings" not in shown.stderr

    assert run("refresh", "--source", "bulk", "--accept-fewer").exit_code == 0
    assert not [r for r in listed("list", "--provider", "aws-sagemaker") if r["effective_usd_per_hour"]]
