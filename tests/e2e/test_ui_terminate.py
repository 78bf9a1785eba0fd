"""A run started and terminated in the Dagster UI ends as one that was cancelled by a signal: recorded, nothing left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.dagster_home import prepare_dagster_home
from accelbench_assets.settings import load_settings
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.support.eks import ROOT, EksWorld, make_cell, short_load
from tests.support.lakes import BUCKET
from tests.support.seaweed import Seaweed

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("eks")]

LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
TERMINATE = """
mutation($id: String!) {
  terminatePipelineExecution(runId: $id) { __typename ... on PythonError { message } }
}
"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status creationTime startTime } } }"
ADD = """
mutation($key: String!, $selector: RepositorySelector!) {
  addDynamicPartition(partitionsDefName: "cells_g6e", partitionKey: $key, repositorySelector: $selector) { __typename }
}
"""
REPOSITORY = {
    "repositoryLocationName": "accelbench_assets.definitions",
    "repositoryName": "__repository__",
}


class Ui:
    """``dagster dev`` on the world, spoken to as the browser does."""

    def __init__(self, world: EksWorld) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        home = prepare_dagster_home(load_settings())
        env = world.environment(DAGSTER_HOME=str(home))
        self.log = (world.folder / "dagster.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-m", "accelbench_assets.definitions", "-h", "127.0.0.1",
             "-p", str(self.port)],
            env=env, cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            document = json.loads(answer.read())
        assert "errors" not in document, document["errors"]
        return next(iter(document["data"].values()))  # type: ignore[no-any-return]

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()


def wait_for(look: Callable[[], Any], what: str, seconds: float = 300.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EksWorld]:
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, Seaweed(tmp_path / "s3") as s3:
        s3.create_bucket(BUCKET)
        with EksWorld(tmp_path, s3, dsn=postgres.dsn) as found:
            for name, value in found.environment().items():
                if name.startswith(("ACCELBENCH_", "AWS_", "KUBECONFIG")):
                    monkeypatch.setenv(name, value)
            yield found


def test_terminate_in_the_ui_is_a_cancel(world: EksWorld, capsys: pytest.CaptureFixture[str]) -> None:
    workload = short_load(duration_s=60.0)
    cell = make_cell(workload)
    lake = world.lake()
    lake.put_cell(cell)
    ui = Ui(world)
    try:
        wait_for(lambda: ui.ask("{ version }"), "the UI")
        assert (
            ui.ask(ADD, key=cell.key_text, selector=REPOSITORY)["__typename"] == "AddDynamicPartitionSuccess"
        )
        config = {"workload_json": json.dumps(dict(workload.document)), "seed": 7}
        launched = ui.ask(
            LAUNCH,
            params={
                "selector": {
                    **REPOSITORY,
                    "pipelineName": "__ASSET_JOB",
                    "assetSelection": [{"path": ["raw_samples_g6e"]}],
                },
                "runConfigData": {"ops": {"raw_samples_g6e": {"config": config}}},
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": cell.key_text}]},
            },
        )
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id = launched["run"]["runId"]
        asked = time.monotonic()
        wait_for(lake.open_attempts, "the attempt")
        latency_s = time.monotonic() - asked
        wait_for(lambda: world.kube.objects("app.kubernetes.io/component=load", "Pod"), "the load")
        time.sleep(2.0)
        assert ui.ask(TERMINATE, id=run_id)["__typename"] == "TerminateRunSuccess"
        record = wait_for(lambda: next(iter(lake.run_records()), None), "the record")
        wait_for(lambda: ui.ask(STATUS, id=run_id)["status"] == "CANCELED", "the run's end in the UI")
    finally:
        ui.stop()
    with capsys.disabled():
        print(f"\nlaunched in the UI to the attempt's registration: {latency_s:.1f} s")
    assert record["status"] == "cancelled"
    assert record["dagster_run_id"] == run_id
    world.kube.wait_gone("app.kubernetes.io/managed-by=accelbench", 30)
    assert lake.open_attempts() == []
    assert lake.read_table("raw_samples").num_rows == 0
