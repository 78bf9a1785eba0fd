"""A ``local`` partition materialised as the UI does it: no run config, the real engine, pictures in the metadata."""

from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.definitions import build_defs
from tests.support.cli import Cli

# A window in which even a machine with many times more work than cores answers a request.
LOAD = ["--concurrency", "1", "--isl", "16", "--osl", "2", "--duration", "3", "--warmup", "0.2"]


@pytest.mark.slow
def test_a_registered_cell_runs_again_from_its_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(tmp_path / "home")
    first = cli.json("run", *LOAD, "--no-publish")["run"]
    monkeypatch.setenv("ACCELBENCH_HOME", str(cli.home))
    key = first["cell_key"]
    definitions = build_defs()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("cells_local", [key])
        job = definitions.resolve_implicit_global_asset_job_def().get_subset(
            asset_selection={dg.AssetKey("raw_samples_local"), dg.AssetKey("run_percentiles_local")}
        )
        result = job.execute_in_process(instance=instance, partition_key=key)
    assert result.success
    metadata = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    samples, percentiles = metadata["raw_samples_local"], metadata["run_percentiles_local"]
    assert samples["run_id"].value != first["run_id"]
    assert samples["origin"].value == "measured"
    assert "data:image/png;base64," in str(samples["latency"].value)
    assert "data:image/png;base64," in str(percentiles["throughput"].value)
    assert percentiles["dagster/row_count"].value
    runs = cli.json("runs")["rows"]
    assert [run["status"] for run in runs] == ["succeeded", "succeeded"]
    assert len({run["cell_key"] for run in runs}) == 1
    cli.wait_until_nothing_runs()
