"""``accelbench cost`` at a terminal: what is the same stands above, every table fits, every gap names its command."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import Result

from accelbench_assets.cli.cost import cost
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.snapshot import price_points
from tests.sql.cost_commands import Call, caller, succeeded
from tests.sql.cost_lake import G6, put_golden, put_instances
from tests.sql.price_lists import put_price_list
from tests.support.runs import make_cell, make_record, put_run

TIERS = ("on_demand", "reserved_1y", "reserved_3y", "savings_1y", "savings_3y", "spot", "any")


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.open((home / "lake").as_uri())


@pytest.fixture
def ask(lake: Lake) -> Call:
    return caller(cost)


@pytest.fixture
def run_id(lake: Lake) -> str:
    record = put_golden(lake)
    put_instances(lake, {G6: 4})
    return str(record["run_id"])


def tables(result: Result) -> list[list[str]]:
    """The lines of each table of a page: heading, ruler, rows."""
    lines = succeeded(result).stdout.splitlines()
    found = []
    for place, line in enumerate(lines):
        if line.startswith("───"):
            rows = [lines[place - 1], line]
            for row in lines[place + 1 :]:
                if not row.strip() or ": " in row:
                    break
                rows.append(row)
            found.append(rows)
    return found


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_fits_its_terminal(lake: Lake, ask: Call, run_id: str, tier: str, columns: int) -> None:
    put_price_list(lake, [G6])
    page = ask(run_id, "--tier", tier, "--rps", "12", "--curve", "office", columns=columns)
    costs, months = tables(page)
    for line in (*costs, *months):
        assert len(line.rstrip()) <= columns
    assert "$/request" in costs[0]
    assert "USD/month" in months[0]
    offers = {"on_demand": 1, "spot": 1, "any": 14}.get(tier, 3)
    assert (len(costs), len(months)) == (2 + 2 * offers, 2 + offers), "two steps; no row is folded"
    if tier == "any":
        assert "autoscaled" in months[0], "it was asked for"
    assert ("tolerates loss" in page.stdout) == (tier in ("spot", "any"))
    assert ("paid for every hour of its term" in page.stdout) == (tier not in ("spot", "on_demand"))


def test_what_every_row_says_stands_above_the_table(lake: Lake, ask: Call, run_id: str) -> None:
    put_price_list(lake, [G6])
    title = f"{G6}, on_demand in us-east-1, at 10.0 USD/h, price of 2026-11-02"
    page = ask(run_id, columns=80).stdout
    assert page.splitlines()[0] == title
    assert "us-east-1" not in "".join(page.splitlines()[1:])
    assert ask(run_id, "--tier", "spot").stdout.startswith(
        f"{G6}, spot in us-east-1 (us-east-1a), at 8.70 USD/h"
    )
    assert ask(run_id, "--tier", "spot", "--region", "any").stdout.startswith(
        f"{G6}, spot, price of 2026-11-02"
    )


def test_tiers_without_a_price_are_named_once_with_their_command(lake: Lake, ask: Call, run_id: str) -> None:
    lake.write_fact("price_points", "2026-11-02", price_points(date(2026, 11, 2)))
    page = ask(run_id, "--tier", "any").stdout
    assert len(tables(ask(run_id, "--tier", "any"))[0]) == 4, "the on-demand price alone, for two steps"
    assert page.count("accelbench prices refresh --provider aws --region us-east-1 --source api") == 1
    assert page.count("accelbench prices refresh --provider aws --region us-east-1") == 2
    assert f"no cost of {G6}, spot in us-east-1: not fetched yet" in ask(run_id, "--tier", "spot").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tier", "capacity_block"), "no capacity_block price in us-east-1 is known for g6.xlarge; there are"),
        (("--region", "eu-west-3"), "`accelbench prices refresh --provider aws --region eu-west-3` asks for one"),
        (("--region", "eu-west-3", "--tier", "spot"), "--region eu-west-3 --source api` asks for one"),
        (("--as-of", "2020-01-01"), "and sources are only asked for the current day"),
    ],
)  # fmt: skip
def test_a_gap_says_what_there_is_or_how_to_fill_it(
    lake: Lake, ask: Call, run_id: str, words: tuple[str, ...], says: str
) -> None:
    put_price_list(lake, [G6])
    assert says in ask(run_id, *words).stdout
    for row in json.loads(ask(run_id, *words, "--json").stdout)["rows"]:
        assert says in row["missing_reason"]
        assert (row["usd_per_request"], row["hourly_usd"], row["price_point_id"]) == (None, None, None)


def test_the_own_machine_without_a_price_says_how_to_declare_one(lake: Lake, ask: Call) -> None:
    record = put_run(lake, make_record(make_cell()))
    assert "declare one with --usd-per-hour" in ask(record["run_id"]).stdout


def test_a_capacity_that_nothing_heavier_was_tried_against_is_said(
    lake: Lake, ask: Call, run_id: str
) -> None:
    put_price_list(lake, [G6])
    (row,) = json.loads(ask(run_id, "--rps", "12", "--json").stdout)["projection"]
    said = "Nothing heavier was tried" in ask(run_id, "--rps", "12").stdout
    assert said == (row["is_bounded"] is False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rps", "3"), "--rps is about the cost of a run, and none was named"),
        (("--tier", "spot"), "--tier is about the cost of a run"),
        (("RUN", "--rps", "inf"), "--rps: inf is not a request rate"),
        (("RUN", "--tier", "sport"), "Did you mean spot"),
        (
            ("RUN", "--payment", "all"),
            "--payment: no price of this instance has 'all'. Did you mean all_upfront",
        ),
    ],
)
def test_flags_that_say_nothing_are_refused(
    ask: Call, run_id: str, words: tuple[str, ...], says: str
) -> None:
    result = ask(*(run_id if word == "RUN" else word for word in words))
    assert isinstance(result.exception, UsageError), result.output
    assert says in str(result.exception)


def test_a_lake_without_runs_has_spent_nothing(ask: Call) -> None:
    result = ask()
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "Nothing has been run yet." in result.stderr
