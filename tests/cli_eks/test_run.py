"""``run --launcher eks`` as a process: from flags to a record, and ``cancel`` from another process in the middle."""

import os
from collections.abc import Iterator

import pytest

from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.lease import request_cancel
from accelbench_assets.settings_groups import KubeSettings
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.support.cli import Cli
from tests.support.eks import PATIENT, EksWorld
from tests.support.lakes import s3_server
from tests.support.seaweed import Seaweed
from tests.support.shared import once

__all__ = ["s3_server"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("eks")]
RUN = (
    *(
        "run",
        "--launcher",
        "eks",
        "--no-publish",
        "--instance",
        "g6e.xlarge",
        "--model",
        "llama-3.1-8b-instruct",
    ),
    *("--max-model-len", "2048", "--concurrency", "2", "--isl", "24", "--osl", "6", "--warmup", "0"),
)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, s3_server: Seaweed, pytestconfig: pytest.Config
) -> Iterator[EksWorld]:
    folder = tmp_path_factory.mktemp("cli-eks")
    postgres = once(pytestconfig, "postgres of eks", lambda: EmbeddedPostgres(folder))
    with EksWorld(folder, s3_server, dsn=postgres.dsn) as found:
        yield found


@pytest.fixture
def cli(world: EksWorld) -> Iterator[Cli]:
    environment = {
        k: v
        for k, v in world.environment(**PATIENT).items()
        if k not in ("PATH", "HOME", "ACCELBENCH_LAUNCHER")
    }
    made = Cli(world.home, environment)
    yield made
    made.wait_until_nothing_runs()


def test_flags_to_a_record(world: EksWorld, cli: Cli) -> None:
    document = cli.json(*RUN, "--duration", "2", "--shards", "2")
    record = document["run"]
    assert (record["status"], record["origin"], record["launcher"]) == ("succeeded", "simulated", "eks")
    assert record["requested_by"]
    assert record["reproduce_command"].startswith("accelbench run --launcher eks")
    assert document["steps"][0]["errors"] == 0
    assert record["samples_rows"] > 0
    assert world.left() == []
    shown = cli.run("doctor", "--cluster", expect=None)
    assert "USD spent this month" in shown.stdout


@pytest.mark.parametrize("by", [pytest.param("signal", marks=pytest.mark.long), "lease"])
def test_cancel_from_another_process(
    world: EksWorld, cli: Cli, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cli.start(*RUN, "--duration", "300")
    assert run.stderr is not None
    try:
        said: list[str] = []
        while not said or not said[-1].endswith("measuring\n"):
            line = run.stderr.readline()
            assert line, f"it ended before it measured: {''.join(said)}"
            said.append(line)
        assert world.left()
        (listed,) = cli.json("runs", "--status", "running")["rows"]
        run_id = listed["run_id"]
        if by == "lease":  # as from another machine: it asks the cluster, for it knows no process
            for name, value in world.kube.env().items():
                monkeypatch.setenv(name, value)
            assert request_cancel(Cluster.connect(KubeSettings()), run_id, "somebody")
            assert run.wait(120) == 1
        else:
            (row,) = cli.json("cancel", run_id)["rows"]
            assert (row["run_id"], row["status"]) == (run_id, "cancelled")
            assert run.wait(120) == 130
    finally:
        if run.poll() is None:
            os.killpg(run.pid, 9)
        run.communicate(timeout=120)
    assert cli.run("cancel", run_id).returncode == 0, "it had been cancelled"
    record = cli.json("show", run_id)["run"]
    assert record["status"] == "cancelled"
    assert ("somebody" in record["failure_text"]) is (by == "lease")
    world.kube.wait_gone("app.kubernetes.io/managed-by=accelbench")
