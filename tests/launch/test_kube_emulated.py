"""Client, Lease and reaper on the emulated cluster, whose pods are real processes and whose collector collects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube import naming, podlog
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.lease import LeaseKeeper, lease_manifest
from accelbench_assets.launch.kube.reap import reap_cluster, remove_run
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.kube.harness import KubeLocal
from tests.support.runs import attempt, make_record
from tests.support.waiting import until

SETTINGS = KubeSettings(lease_renew_s=0.2, lease_stale_s=3.0)
SCRIPT = "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    with KubeLocal(tmp_path_factory.mktemp("kube"), images={"busybox": []}) as running:
        yield running


@pytest.fixture
def cluster(kube: KubeLocal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    yield Cluster.connect(SETTINGS)
    kube.set_faults([])
    left = [f"{one['kind']}/{one['metadata']['name']}" for one in kube.objects(naming.selector())]
    for run in {
        one["metadata"]["annotations"][naming.RUN_ID] for one in kube.objects(naming.selector(), "Lease")
    }:
        remove_run(Cluster.connect(SETTINGS), run, wait_s=60)
    assert left == []


@pytest.fixture
def run_id() -> str:
    return str(uuid.uuid4())


def pod_spec(script: str, restart: str, grace_s: int = 1) -> dict[str, Any]:
    container = {"name": "c", "image": "busybox:1", "command": ["sh", "-c", script]}
    return {"restartPolicy": restart, "terminationGracePeriodSeconds": grace_s, "containers": [container]}


def metadata(run_id: str, name: str, component: str, anchor: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": name,
        "labels": naming.labels(run_id, "cell", component),
        "annotations": naming.annotations(run_id, datetime.now(UTC) + timedelta(hours=1), 3.0),
        **({"ownerReferences": [naming.owner_reference(anchor)]} if anchor else {}),
    }


def job(run_id: str, anchor: dict[str, Any] | None, script: str = SCRIPT, grace_s: int = 1) -> dict[str, Any]:
    labels = {"labels": naming.labels(run_id, "cell", "load")}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(run_id, naming.load_name(run_id), "load", anchor),
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": labels, "spec": pod_spec(script, "Never", grace_s)},
        },
    }


def anchor_of(cluster: Cluster, run_id: str) -> dict[str, Any]:
    base = naming.base_name(run_id)
    return cluster.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(run_id, base, "anchor", None)}
    )


def launch(cluster: Cluster, run_id: str, *, lease_age_s: float, owned: bool = True) -> None:
    """A run as a launcher makes it, whose Lease was renewed *lease_age_s* seconds ago."""
    anchor, base = anchor_of(cluster, run_id), naming.base_name(run_id)
    owner = anchor if owned else None
    then = cluster.server_time() - timedelta(seconds=lease_age_s)
    cluster.create(
        lease_manifest(run_id, "cell", anchor, now=then, expires_at=then + timedelta(hours=1), stale_s=3)
    )
    labels = naming.labels(run_id, "cell", "server")
    cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(run_id, base, "server", owner),
            "spec": {
                "selector": {"matchLabels": {naming.RUN_LABEL: labels[naming.RUN_LABEL], "x": "server"}},
                "template": {
                    "metadata": {"labels": {**labels, "x": "server"}},
                    "spec": pod_spec(SCRIPT, "Always"),
                },
            },
        }
    )
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(run_id, base, "server", owner),
            "spec": {"selector": {"x": "server"}, "ports": [{"port": 8000}]},
        }
    )
    cluster.create(job(run_id, owner))


def running(cluster: Cluster, run_id: str, count: int = 2) -> bool:
    pods = cluster.list("Pod", labels=naming.selector(run_id))
    return sum((pod.get("status") or {}).get("phase") == "Running" for pod in pods) == count


def lake_with(tmp_path: Path, cluster: Cluster, *run_ids: str) -> Lake:
    lake = Lake.open((tmp_path / "lake").as_uri())
    for run_id in run_ids:
        record = {**make_record(), "run_id": run_id, "requested_at": "2026-01-01T00:00:00+00:00"}
        lake.begin_attempt(attempt(record) | {"cluster": cluster.namespace_uid()})
    return lake


def test_the_client_against_a_whole_api(cluster: Cluster, kube: KubeLocal, run_id: str) -> None:
    assert cluster.emulated()
    assert cluster.namespace_uid() == cluster.get("Namespace", KubeLocal.namespace)["metadata"]["uid"]  # type: ignore[index]
    assert abs(cluster.server_time() - datetime.now(UTC)) < timedelta(seconds=60)
    assert {node["metadata"]["name"] for node in cluster.list("Node")} == {"gpu-1", "gpu-2", "cpu-1"}
    wrong = job(run_id, None)
    wrong["spec"]["backoffLimit"] = "two"
    with pytest.raises(KubeError, match="cannot unmarshal string") as caught:
        cluster.create(wrong)
    assert caught.value.code == "bad_config"
    made = anchor_of(cluster, run_id)
    assert anchor_of(cluster, run_id)["metadata"]["uid"] == made["metadata"]["uid"]
    changed = cluster.patch("ConfigMap", naming.base_name(run_id), {"data": {"a": "b"}})
    assert changed is not None
    assert changed["data"] == {"a": "b"}
    assert cluster.can("create", "jobs", "batch")
    assert remove_run(cluster, run_id, wait_s=60) == []
    assert cluster.patch("ConfigMap", naming.base_name(run_id), {}) is None
    assert cluster.delete("ConfigMap", naming.base_name(run_id)) is False


def test_a_log_followed_through_cuts_is_whole(
    cluster: Cluster, kube: KubeLocal, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.05)
    kube.set_faults([{"match": {"verb": "log"}, "do": "cut", "after_s": 0.3, "times": 3}])
    cluster.create(job(run_id, None, "for i in $(seq 40); do echo line $i; sleep 0.04; done; printf last"))
    until(lambda: cluster.list("Pod", labels=naming.selector(run_id)), "a pod")
    (pod,) = cluster.list("Pod", labels=naming.selector(run_id))
    lines = list(cluster.follow_log(pod["metadata"]["name"], "c"))
    assert lines == [*(f"line {number}" for number in range(1, 41)), "last"]
    assert sum(one["hits"] for one in kube.faults()) == 3
    assert cluster.log(pod["metadata"]["name"], "c", tail_lines=1) == "last"
    remove_run(cluster, run_id, wait_s=60)


def test_a_dead_run_is_removed_whole_and_recorded(
    cluster: Cluster, kube: KubeLocal, run_id: str, tmp_path: Path
) -> None:
    living = str(uuid.uuid4())
    launch(cluster, run_id, lease_age_s=60)
    launch(cluster, living, lease_age_s=-60)
    until(lambda: running(cluster, run_id) and running(cluster, living), "both run")
    lake = lake_with(tmp_path, cluster, run_id, living)
    kube.forget_requests()
    entries = reap_cluster(cluster, lake, wait_s=60)
    assert [one["run_id"] for one in entries] == [run_id], entries
    (entry,) = entries
    assert (entry["why"], entry["objects_left"]) == ("stale_lease", 0)
    assert (entry["recorded"], entry["error"]) == (True, None)
    assert entry["objects_removed"] >= 8
    assert kube.objects(naming.selector(run_id)) == []
    record = lake.run_record(run_id)
    assert record is not None
    assert (record["status"], record["failure_code"]) == ("infra_lost", "orchestrator_died")
    assert running(cluster, living)
    assert lake.run_record(living) is None
    assert remove_run(cluster, living, wait_s=60) == []


def test_objects_that_nobody_owns_go_as_well(cluster: Cluster, kube: KubeLocal, run_id: str) -> None:
    launch(cluster, run_id, lease_age_s=60, owned=False)
    until(lambda: running(cluster, run_id), "it runs")
    cluster.delete("ConfigMap", naming.base_name(run_id))  # takes the Lease along, and nothing else
    until(lambda: cluster.get("Lease", naming.base_name(run_id)) is None, "the Lease is gone")
    assert running(cluster, run_id)
    later = cluster.server_time() + timedelta(seconds=10)
    (entry,) = reap_cluster(cluster, None, now=later, wait_s=60)
    assert (entry["why"], entry["objects_left"]) == ("orphan", 0)
    assert kube.objects(naming.selector(run_id)) == []


def test_pods_of_a_lost_node_go_by_force(cluster: Cluster, kube: KubeLocal, run_id: str) -> None:
    launch(cluster, run_id, lease_age_s=60)
    until(lambda: running(cluster, run_id), "it runs")
    nodes = {pod["spec"]["nodeName"] for pod in cluster.list("Pod", labels=naming.selector(run_id))}
    for node in nodes:
        kube.make_node_unready(node, after_s=0)
    try:
        (entry,) = reap_cluster(cluster, None, wait_s=4)  # sooner than a pod counts as stuck for any reason
        assert entry["objects_left"] == 0
    finally:
        for node in nodes:
            kube.make_node_ready(node)


def test_a_pass_through_a_bad_day_of_the_api(
    cluster: Cluster, kube: KubeLocal, run_id: str, tmp_path: Path
) -> None:
    launch(cluster, run_id, lease_age_s=60)
    faults = [
        {"match": {"verb": verb}, "do": do, "status": code, "share": 0.03}
        for verb in ("list", "delete", "get")
        for do, code in (("status", 500), ("status", 429), ("drop", 0), ("drop_after", 0))
    ]
    kube.set_faults({"seed": 1, "faults": faults})
    lake = lake_with(tmp_path, cluster, run_id)
    (entry,) = reap_cluster(cluster, lake, wait_s=60)
    assert sum(one["hits"] for one in kube.faults()) > 1
    assert (entry["objects_left"], entry["recorded"]) == (0, True)


def test_leaving_the_anchor_takes_the_lease_and_the_keeper_knows(cluster: Cluster, run_id: str) -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    with LeaseKeeper(cluster, run_id, "cell", anchor_of(cluster, run_id), SETTINGS, expires) as keeper:
        lease = naming.base_name(run_id)
        first = cluster.get("Lease", lease)
        assert first is not None
        until(
            lambda: (cluster.get("Lease", lease) or {})["spec"]["renewTime"] > first["spec"]["renewTime"],
            "renewed",
        )
        keeper.check()
        cluster.delete("ConfigMap", lease)
        until(lambda: keeper._end is not None, "the keeper knows")
        with pytest.raises(Exception, match="is gone"):
            keeper.check()


ORCHESTRATOR = """
import sys, time
from datetime import UTC, datetime, timedelta
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.lease import LeaseKeeper
from tests.launch.test_kube_emulated import SETTINGS, anchor_of, job
run_id = sys.argv[1]
cluster = Cluster.connect(SETTINGS)
anchor = anchor_of(cluster, run_id)
with LeaseKeeper(cluster, run_id, "cell", anchor, SETTINGS, datetime.now(UTC) + timedelta(hours=1)):
    cluster.create(job(run_id, anchor))
    print("up", flush=True)
    time.sleep(600)
"""


def test_a_killed_orchestrator_is_found_out_and_a_living_one_spared(
    cluster: Cluster, kube: KubeLocal, run_id: str, tmp_path: Path
) -> None:
    lake = lake_with(tmp_path, cluster, run_id)
    reaped: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-c", ORCHESTRATOR, run_id],
        stdout=subprocess.PIPE,
        env={**os.environ, **kube.env()},
    ) as orchestrator:
        try:
            assert orchestrator.stdout is not None
            assert orchestrator.stdout.readline() == b"up\n"
            until(lambda: running(cluster, run_id, 1), "it runs")
            end = time.monotonic() + SETTINGS.lease_stale_s + 0.3
            while time.monotonic() < end:
                assert reap_cluster(cluster, lake, wait_s=60, stale_s=3) == []
                time.sleep(0.1)
        finally:
            orchestrator.send_signal(signal.SIGKILL)
    died = time.monotonic()
    while not reaped:
        assert time.monotonic() - died < 60, "nobody noticed"
        reaped = reap_cluster(cluster, lake, wait_s=60, stale_s=3)
        time.sleep(0.1)
    assert time.monotonic() - died > 1.0
    assert reaped[0]["why"] == "stale_lease"
    assert reaped[0]["recorded"]
    record = lake.run_record(run_id)
    assert record is not None
    assert record["status"] == "infra_lost"


def test_two_reapers_at_once_disturb_each_other_in_nothing(
    cluster: Cluster, kube: KubeLocal, run_id: str, tmp_path: Path
) -> None:
    launch(cluster, run_id, lease_age_s=60)
    lake = lake_with(tmp_path, cluster, run_id)
    entries: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda: entries.extend(reap_cluster(Cluster.connect(SETTINGS), lake, wait_s=60))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sum(one["recorded"] for one in entries) == 1
    assert all(one["error"] is None for one in entries)
