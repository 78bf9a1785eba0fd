"""docs/costs.md: its queries run, the tables and columns it names exist, its example is arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing import cost
from accelbench_assets.sqlkit.duck import connect, query
from accelbench_assets.sqlkit.files import sql_files
from tests.sql.cost_lake import put_golden, put_golden_prices, put_instances

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
QUERIES = re.findall(r'^accelbench sql "(.+)"$', TEXT, re.M)


@pytest.fixture
def lake(local_lake: Lake) -> Lake:
    put_golden(local_lake)
    put_golden_prices(local_lake)
    put_instances(local_lake, {"g6.xlarge": 1})
    return local_lake


def test_there_are_queries_to_try() -> None:
    assert len(QUERIES) == 3


@pytest.mark.parametrize("text", QUERIES)
def test_every_query_shown_runs(lake: Lake, text: str) -> None:
    assert query(lake, text).num_columns >= 4


def test_the_table_of_figures_names_what_there_is(lake: Lake) -> None:
    section = TEXT.partition("## Where each figure is")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "`" in line
    ]
    known = {file.name for kind in ("marts", "views") for file in sql_files(kind)}
    assert len(rows) == 11
    with connect(lake) as db:
        for _, where, columns in rows:
            names = re.findall(r"`(\w+)`", where)
            assert names
            assert set(names) <= known
            there = {str(c[0]) for c in db.execute(f"select * from {names[0]} limit 0").description or []}
            assert {name for name in re.findall(r"`(\w+)`", columns) if name != "cost_per_token"} <= there, (
                names
            )


def test_every_column_of_the_formulas_exists(lake: Lake) -> None:
    section = TEXT.partition("## What a request and a token cost")[2].partition("\n**The two")[0]
    there = query(lake, "select * from cost_per_token limit 0").column_names
    named = [name for line in section.splitlines() if line.startswith("| `") for name in re.findall(
        r"`([\w…]+)`", line.split("|")[1])]  # fmt: skip
    assert len(named) > 12
    for name in named:
        pattern = re.compile(name.replace("…", r"\w+"))
        assert any(pattern.fullmatch(column) for column in there), name


def test_the_example_is_arithmetic() -> None:
    request = cost.usd_per_request(10, 5)
    full_in, full_out = cost.usd_per_1m_input_full_hour(10, 5000), cost.usd_per_1m_output_full_hour(10, 1000)
    assert request is not None
    assert full_in is not None
    assert full_out is not None
    assert f"a request costs {request:.6f} USD" in TEXT
    assert f"the two columns add up to {(1000 * full_in + 200 * full_out) / 1e6:.6f}" in TEXT
