"""The prices behind a recommendation: the lake's, of any tier, region and day; and what stands beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from accelbench_assets.cli import state
from accelbench_assets.cli.recommend import recommend
from accelbench_assets.cli.recommend_prices import PRICE_FIELDS
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.points import Point
from accelbench_assets.pricing.snapshot import day_points, to_table
from tests.sizing.lakes import measured, step

Ask = Callable[..., Result]
DAY = date(2026, 11, 2)
NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
MODEL = ("--model", "llama-3.1-8b-instruct")
HERE = (*MODEL, "--region", "eu-west-1")


@pytest.fixture
def lake(home: Path) -> Lake:
    """A snapshot in which g6e.xlarge is cheaper than g6.12xlarge on demand, and dearer on spot."""
    found = Lake.open((home / "lake").as_uri())
    prices = [
        ("g6e.xlarge", "on_demand", "2", {}),
        ("g6.12xlarge", "on_demand", "50", {}),
        ("g6e.xlarge", "spot", "1.5", {"zone": "euw1-az1", "usd_per_hour_p90": Decimal("1.75")}),
        ("g6.12xlarge", "spot", "0.2", {"zone": "euw1-az1", "usd_per_hour_p90": Decimal("0.3")}),
        ("g6.12xlarge", "spot", "0.1", {"zone": "euw1-az2", "usd_per_hour_p90": Decimal("0.4")}),
        ("g6e.xlarge", "reserved_3y", "1", {"payment_option": "no_upfront", "term_hours": 26280.0}),
    ]
    points = [
        Point(
            "aws",
            "eu-west-1",
            name,
            tier,
            usd_per_hour=Decimal(usd),
            fetched_at=NOW,
            source="made up",
            **more,
        )
        for name, tier, usd, more in prices
    ]
    table = to_table(DAY, day_points(DAY, fetched=points, at=NOW))
    found.write_fact("price_points", DAY.isoformat(), table)
    return found


@pytest.fixture
def ask(lake: Lake) -> Ask:
    app = typer.Typer()
    app.command()(recommend)

    def run(*words: str, columns: str = "200") -> Result:
        state.reset()
        return CliRunner().invoke(app, list(words), env={"COLUMNS": columns, "NO_COLOR": "1"})

    return run


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def priced(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [
        (row["instance_type"], row["usd_per_hour"])
        for row in found["estimated"]
        if row["usd_per_hour"] is not None
    ]


def test_the_lakes_prices_order_the_options_and_every_row_says_which_price_it_is(ask: Ask) -> None:
    found = document(ask(*HERE, "--json"))
    assert priced(found) == [("g6e.xlarge", 2.0), ("g6.12xlarge", 50.0)]
    assert found["prices"]["from"] == "lake"
    assert found["prices"]["snapshot_id"].startswith("2026-11-02")
    first = found["estimated"][0]
    assert {name: first[name] for name in PRICE_FIELDS if name != "price_point_id"} == {
        "price_tier": "on_demand",
        "price_payment_option": None,
        "price_offering_class": None,
        "price_region": "eu-west-1",
        "price_zone": None,
        "usd_per_hour_p90": None,
        "price_as_of": "2026-11-02",
        "price_source": "made up",
        "missing_reason": None,
    }
    assert first["price_point_id"]
    rate = first["requests_per_s"] * first["replicas"]
    assert first["usd_per_request"] == pytest.approx(2 / 3600 / rate, rel=1e-9)
    assert any("(on demand in eu-west-1; 2026-11-02)" in line for line in found["arithmetic"])


def test_spot_is_of_the_cheapest_zone_and_says_what_it_is_for(ask: Ask) -> None:
    result = ask(*HERE, "--tier", "spot", "--json")
    found = document(result)
    assert priced(found) == [("g6.12xlarge", 0.1), ("g6e.xlarge", 1.5)]
    first = found["estimated"][0]
    assert (first["price_zone"], first["usd_per_hour_p90"]) == ("euw1-az2", 0.4)
    assert any("tolerates loss" in text for text in first["warnings"])
    assert any(
        "spot in euw1-az2, mean of 30 days, 90 % of the time at most 0.4" in x for x in found["arithmetic"]
    )
    table = ask(*HERE, "--tier", "spot", "--limit", "2").stdout
    assert "euw1-az2" in table
    assert table.count("tolerates loss") == 2, "once under the table, once in the arithmetic"
    assert "p90 $/h" in table
    assert "p90 $/h" not in ask(*HERE).stdout


def test_without_a_price_the_option_is_last_and_names_the_command(ask: Ask) -> None:
    found = document(ask(*HERE, "--json"))
    last = found["estimated"][-1]
    assert last["usd_per_request"] is None
    assert last["usd_per_month"] is None
    assert "accelbench prices refresh --provider aws --region eu-west-1" in last["missing_reason"]
    nothing = document(ask(*MODEL, "--region", "ap-south-1", "--tier", "savings_1y", "--json"))
    assert priced(nothing) == []
    reasons = {row["missing_reason"] for row in nothing["estimated"]}
    assert reasons == {
        "no savings_1y price in ap-south-1 is known: `accelbench prices refresh --provider aws --region ap-south-1`"
    }
    shown = ask(*MODEL, "--region", "ap-south-1", "--tier", "savings_1y").stdout
    table = shown.partition("What does not serve")[0]
    assert table.count("`accelbench prices refresh --provider aws --region ap-south-1`") == 2, (
        "not in every row"
    )


def test_a_measured_row_costs_the_same_offer(ask: Ask, lake: Lake) -> None:
    measured(lake, "g6e.xlarge", [step(8, 2.0, 300, 40)])
    for tier, usd in (("on_demand", 2.0), ("spot", 1.5), ("reserved_3y", 1.0)):
        (row,) = document(ask(*HERE, "--tier", tier, "--json"))["measured"]
        assert row["usd_per_hour"] == usd
        assert row["price_tier"] == tier
        assert row["usd_per_request"] == pytest.approx(usd / 3600 / 2.0, rel=1e-9)
    (row,) = document(ask(*HERE, "--tier", "spot", "--json"))["measured"]
    assert "tolerates loss" in row["warnings"][0]


def test_the_setting_names_the_region_and_as_of_the_day(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_REGION", "eu-west-1")
    assert priced(document(ask(*MODEL, "--json")))[0] == ("g6e.xlarge", 2.0)
    before = document(ask(*MODEL, "--as-of", "2026-11-01", "--json"))
    assert before["prices"] == {
        "tier": "on_demand",
        "region": "eu-west-1",
        "payment_option": None,
        "as_of": "2026-11-01",
        "snapshot_id": None,
        "from": "packaged",
    }
    assert priced(before) == []
    here = document(ask(*MODEL, "--region", "us-east-1", "--as-of", "2026-11-01", "--json"))
    assert ("g6.xlarge", 0.8048) in priced(here)


def test_several_replicas_on_an_instance_are_not_what_the_launcher_starts(ask: Ask) -> None:
    found = document(ask(*HERE, "--json"))
    for row in found["estimated"]:
        told = [text for text in row["warnings"] if "replicas share an instance" in text]
        assert len(told) == (row["replicas"] > 1)
        if told:
            assert f"{row['replicas']} times the cost" in told[0]
    assert any(row["replicas"] > 1 for row in found["estimated"])
    table = ask(*HERE, "--instance", "g6.48xlarge").stdout
    assert "warning: several replicas share an instance" in table
    assert "replicas share an instance" not in ask(*HERE, "--instance", "g6e.xlarge").stdout
    rows = list(csv.DictReader(io.StringIO(ask(*HERE, "--format", "csv").stdout)))
    assert any("replicas share an instance" in row["warnings"] for row in rows)


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("tier", ["on_demand", "spot", "reserved_3y"])
def test_the_table_fits_its_terminal(ask: Ask, columns: int, tier: str) -> None:
    lines = ask(*HERE, "--tier", tier, "--instance", "g6", columns=str(columns)).stdout.splitlines()
    ruler = next(i for i, line in enumerate(lines) if line.startswith("───"))
    assert len(lines[ruler].rstrip()) <= columns
    assert any(line.split()[1:2] == ["g6.12xlarge"] for line in lines[ruler:]), "no name is folded"


@pytest.mark.parametrize("tier", ["on_demand", "spot"])
def test_the_same_words_have_the_same_answer(ask: Ask, tier: str) -> None:
    words = (*HERE, "--tier", tier, "--rps", "3", "--slo", "chat")
    assert ask(*words, "--json").stdout == ask(*words, "--json").stdout
    assert ask(*words).stdout == ask(*words).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tier", "spott"), "--tier: 'spott' is not one of on_demand"),
        (("--region", "any"), "--region: 'any' is not the name of an AWS region"),
        (("--payment", "all_upfront"), "--payment: on_demand is paid in one way"),
        (("--as-of", "today"), "--as-of: 'today' is not a day"),
    ],
)
def test_wrong_words_about_prices(ask: Ask, words: tuple[str, ...], says: str) -> None:
    result = ask(*MODEL, *words)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)
