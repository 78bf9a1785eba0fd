"""The asset ``cell_estimates`` as Dagster runs it: rows once, nothing the second time."""

from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.defs.estimates import ASSETS
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.lake.lake import Lake
from tests.sizing.test_cells import cell


def test_it_writes_what_changed_and_says_the_states(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_REGION", "eu-west-1")
    lake = Lake.open((home / "lake").as_uri())
    for one in (cell(), cell(model="llama-3.3-70b-instruct"), cell("local-1a2b3c4d", model="tiny")):
        lake.put_cell(one)
    said = []
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                ASSETS,
                instance=instance,
                resources={"accelbench": AccelBench(lake_url=lake.url)},
                selection="cell_estimates",
            )
        (event,) = result.get_asset_materialization_events()
        said.append({name: value.value for name, value in event.materialization.metadata.items()})
    assert [one["dagster/row_count"] for one in said] == [2, 0]
    assert [one["states"] for one in said] == [{"does_not_fit": 1, "estimated": 1}] * 2
    assert [one["cells"] for one in said] == [2, 2]
    assert len(lake.storage.list("facts/cell_estimates")) == 1
    assert set(lake.read_table("cell_estimates").column("region").to_pylist()) == {"eu-west-1"}
