"""The 90th percentile of spot prices: asked of EC2, kept, and shown beside the mean."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from accelbench_assets.cli import prices as command
from accelbench_assets.cli import state
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.refresh import take
from accelbench_assets.settings import load_settings
from tests.pricing.price_server import Prices


@pytest.mark.usefixtures("home")
def test_prices_show_has_the_quantile_beside_the_mean(prices: Prices) -> None:
    lake = Lake.open(load_settings().lake_url)
    report = take(lake, datetime.now(UTC).date(), prices.settings(aws="api"))
    spot = [r for r in report.table.to_pylist() if r["tier"] == "spot" and r["zone"]]
    assert spot
    assert all(r["usd_per_hour_p90"] >= r["usd_per_hour"] > 0 for r in spot)
    for words in (("show", spot[0]["instance_type"]), ("list", "--tier", "spot")):
        state.reset()
        shown = CliRunner().invoke(command.app, list(words), env={"COLUMNS": "220"})
        assert shown.exit_code == 0, shown.exception
        assert "p90 USD/h" in shown.stdout
        for row in spot if words[0] == "list" else spot[:1]:
            (line,) = [
                x
                for x in shown.stdout.splitlines()
                if x.startswith(row["instance_type"]) and f" {row['zone']} " in x
            ]
            assert f" {row['usd_per_hour_p90'].normalize():f} " in line
    state.reset()
    on_demand = CliRunner().invoke(command.app, ["list"], env={"COLUMNS": "220"})
    assert "p90" not in on_demand.stdout, "only where there is one"
