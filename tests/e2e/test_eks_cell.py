"""A cell of an EC2 family from Dagster to the published catalog, on an emulated cluster that really runs its pods.

The truth server (or, in the long ones, llama.cpp) stands in for the vLLM image, so every figure is simulated and none
may rank.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from accelbench_assets.definitions import build_defs
from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.support.eks import HF_CANARY, PATIENT, EksWorld, make_cell, short_load
from tests.support.lakes import BUCKET, s3_server
from tests.support.seaweed import Seaweed
from tests.support.shared import once

__all__ = ["s3_server"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("eks")]


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: Seaweed,
    pytestconfig: pytest.Config,
) -> Iterator[EksWorld]:
    """A cluster on which the test's parameter, an engine, stands in for vLLM."""
    folder = tmp_path_factory.mktemp("eks")
    postgres = once(pytestconfig, "postgres of eks", lambda: EmbeddedPostgres(folder))
    with EksWorld(folder, s3_server, engine=getattr(request, "param", "truth"), dsn=postgres.dsn) as found:
        yield found


@pytest.mark.parametrize(
    ("world", "replicas", "shards"),
    [
        ("truth", 2, 2),
        pytest.param("llamacpp", 1, 1, marks=pytest.mark.long),
        pytest.param("llamacpp", 2, 2, marks=pytest.mark.long),
    ],
    indirect=["world"],
)
def test_a_cell_of_g6e_runs_from_dagster_to_the_catalog(
    world: EksWorld,
    replicas: int,
    shards: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in world.environment(**PATIENT).items():
        if name.startswith(("ACCELBENCH_", "AWS_", "KUBECONFIG")):
            monkeypatch.setenv(name, value)
    workload = short_load(concurrency=2 * shards, isl=16, osl=4, duration_s=4.0)
    cell = make_cell(workload, replicas=replicas)
    lake = world.lake()
    lake.put_cell(cell)
    started = time.monotonic()
    config = {
        "workload_json": json.dumps(dict(workload.document)),
        "load_json": json.dumps({"shards": shards}),
        "seed": 7,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("cells_g6e", [cell.key_text])
        result = materialise(instance, cell.key_text, config)
        assert result.success
        for names in (
            ["instance_types", "models"],
            ["benchmark_results"],
            ["cost_per_token"],
            ["published_catalog"],
        ):
            assert materialise(instance, None, None, *names).success
        for run in instance.get_runs():
            assert HF_CANARY not in str(run.run_config) + str(run.tags)
            assert HF_CANARY not in "".join(str(entry) for entry in instance.all_logs(run.run_id))
    seconds = time.monotonic() - started

    (record,) = lake.run_records(cell_id=cell.cell_id)
    assert record["status"] == "succeeded"
    assert record["origin"] == "simulated"
    assert record["launcher"] == "eks"
    assert record["instance_count"] == replicas
    assert record["node_name"].startswith("gpu-")
    assert record["validity"]["first_request"]["verdict"] == "pass"
    assert record["validity"]["accelerators_watched"]["verdict"] == "warn"  # the machine has no exporter
    check_samples(lake, record, shards, replicas)
    with psycopg.connect(world.dsn or "") as connection:
        found = connection.execute(
            "select origin, status from runs where run_id = %s", (record["run_id"],)
        ).fetchall()
        assert found == [("simulated", "succeeded")]
        steps = connection.execute(
            "select count(*) from run_steps where run_id = %s", (record["run_id"],)
        ).fetchone()
        assert steps == (1,)
        assert connection.execute("select count(*) from ranking").fetchone() == (0,)
        ranked = connection.execute("select count(*) from catalog where origin = 'measured'").fetchone()
        assert ranked == (0,)
        money = connection.execute(
            "select settled_usd, reserved_usd from budget_ledger where run_id = %s", (record["run_id"],)
        ).fetchone()
        assert money is not None
        assert money[0] is not None
        assert 0 < money[0] <= money[1]
    assert world.left() == []
    load = [datetime.fromisoformat(record[name]) for name in ("load_started_at", "load_finished_at")]
    with capsys.disabled():
        print(
            f"\n{replicas} replicas, {shards} shards: {seconds:.1f} s in all; overhead {record['overhead_s']:.2f} s;"
            f" ready after {record['ready_s']:.1f} s; load with its pods {(load[1] - load[0]).total_seconds():.1f} s"
        )
    no_secret_anywhere(world, lake)


def check_samples(lake: Lake, record: dict[str, Any], shards: int, replicas: int) -> None:
    """The shards' rows are the run's rows, each once; every replica answered some."""
    manifests = lake.shards(record["run_id"])
    assert [m["shard"] for m in manifests] == list(range(shards))
    samples = lake.samples(record["run_id"])
    assert samples.num_rows == sum(m["rows"] for m in manifests) == record["samples_rows"]
    ids = samples.column("request_id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert len(set(samples.column("shard").to_pylist())) == shards
    answered = {r for r in samples.column("replica_id").to_pylist() if r}
    assert len(answered) == replicas


def no_secret_anywhere(world: EksWorld, lake: Lake) -> None:
    """The canary token is in no file of the lake, no log, no manifest, no event, no row."""
    for key in world.s3.keys(BUCKET, lake.url.removeprefix(f"s3://{BUCKET}/")):
        body = world.s3.client().get_object(Bucket=BUCKET, Key=key.lstrip("/"))["Body"].read()
        assert HF_CANARY.encode() not in body, key
    for path in Path(world.home).rglob("*"):
        if path.is_file():
            assert HF_CANARY.encode() not in path.read_bytes(), path
    for item in world.kube.objects(""):
        if item["kind"] != "Secret":
            assert HF_CANARY not in str(item), item["metadata"]
    with psycopg.connect(world.dsn or "") as connection:
        for (row,) in connection.execute("select runs::text from runs"):
            assert HF_CANARY not in row


def materialise(
    instance: dg.DagsterInstance, partition: str | None, config: dict[str, Any] | None, *names: str
) -> dg.ExecuteInProcessResult:
    """Assets of the real code location, in this process."""
    chosen = names or ("raw_samples_g6e", "run_percentiles_g6e")
    job = (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .get_subset(asset_selection={dg.AssetKey(name) for name in chosen})
    )
    run_config = {"ops": {"raw_samples_g6e": {"config": config}}} if config else None
    return job.execute_in_process(instance=instance, partition_key=partition, run_config=run_config)
